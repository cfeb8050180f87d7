"""The `status` of a QuantizationJob: what was observed, rebuilt from its children at each visit.

The mirror of the API (design §4). Written by the operator alone, read by `kubectl`, by `halftone
watch` and by whoever deploys the artifact. No floats: percentages are integers, scores are strings.
"""

from enum import StrEnum
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from halftone.spec.cluster import Condition
from halftone.spec.documents import Method
from halftone.spec.reports import Outcome, Verdict

Text = Annotated[str, Field(max_length=1024)]
# A path of 4,096 characters in a claim, as people name it.
PlaceText = Annotated[str, Field(max_length=4400)]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$", max_length=64)]
Count = Annotated[int, Field(ge=0)]
# RFC 3339 in UTC with seconds, as the API server writes it.
Time = Annotated[str, Field(max_length=64)]


class StatusModel(BaseModel):
    """Frozen; unknown fields are dropped, for somebody may have edited what is read back."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class ConditionStatus(StrEnum):
    """The three of Kubernetes."""

    TRUE = "True"
    FALSE = "False"
    UNKNOWN = "Unknown"


class ConditionRow(StatusModel):
    """One condition, as `metav1.Condition`; `lastTransitionTime` moves with `status` alone."""

    type: Condition
    status: ConditionStatus
    reason: Annotated[
        str,
        Field(pattern=r"^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$", min_length=1, max_length=64),
    ]
    message: Annotated[str, Field(max_length=4096)]
    lastTransitionTime: Time
    observedGeneration: Count


class PlanStatus(StatusModel):
    """What the plan came to. `sizeBytes` is the checkpoint's."""

    digest: Digest
    method: Method
    recipe: Text
    sourceRevision: Text | None = None
    sizeBytes: Count
    memoryBytes: Count
    shards: Count


class ProgressStatus(StatusModel):
    """Of the running stage, all workers together, in bytes (in steps while calibrating)."""

    bytesDone: Count
    bytesTotal: Count


class GateStatus(StatusModel):
    """One gate. `value` is its score."""

    name: Annotated[str, Field(max_length=63)]
    outcome: Outcome
    value: Text | None = None


class ReportStatus(StatusModel):
    """The report that opens publishing, if its verdict does."""

    digest: Digest
    verdict: Verdict


class CheckpointStatus(StatusModel):
    """What was written."""

    digest: Digest
    sizeBytes: Count


class ArtifactStatus(StatusModel):
    """What readers find. `helmCommand` serves it, as it is pasted into a shell."""

    uri: PlaceText
    revision: Text | None = None
    digest: Digest
    sizeBytes: Count
    helmCommand: Annotated[str, Field(max_length=8192)] | None = None


class PipelineRunStatus(StatusModel):
    """The run of a pipeline that carries the job out.

    `name` is what it is looked up by. Whoever made the run wrote `claimedBy` and `claimTime` first,
    against the version that it had read, so that of several only one makes it. `id` and `url` are
    there once the run is.
    """

    name: Annotated[str, Field(max_length=128)]
    claimedBy: Annotated[str, Field(max_length=253)] | None = None
    claimTime: Time | None = None
    id: Text | None = None
    url: Annotated[str, Field(max_length=2400)] | None = None


class JobStatus(StatusModel):
    """All of it. `source` and `recipe` are what the printer columns show; `recoveryPercent` is the
    lowest of the tasks; `retry` is the last value of the annotation that was acted upon.
    """

    conditions: Annotated[tuple[ConditionRow, ...], Field(max_length=8)] = ()
    observedGeneration: Count | None = None
    startTime: Time | None = None
    completionTime: Time | None = None
    source: PlaceText | None = None
    recipe: Text | None = None
    plan: PlanStatus | None = None
    progress: ProgressStatus | None = None
    checkpoint: CheckpointStatus | None = None
    gates: Annotated[tuple[GateStatus, ...], Field(max_length=40)] = ()
    report: ReportStatus | None = None
    recoveryPercent: Annotated[int, Field(ge=0, le=1000)] | None = None
    artifact: ArtifactStatus | None = None
    pipelineRun: PipelineRunStatus | None = None
    retry: Text | None = None

    def condition(self, kind: Condition) -> ConditionRow | None:
        """The row of `kind`, None before the first visit."""
        return next((row for row in self.conditions if row.type is kind), None)
