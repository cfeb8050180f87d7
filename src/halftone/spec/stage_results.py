"""What a stage says when it ends, in at most 4,096 bytes: a container's termination message.

Written by `halftone stage … --result FILE`, read by `halftone.control` out of a pod's status. It is
all that the operator learns of a stage; documents stay in the work area.
"""

from typing import Final, Literal

from pydantic import BaseModel, ConfigDict

from halftone.spec.documents import Method, canonical_json
from halftone.spec.names import API_VERSION
from halftone.spec.reports import Outcome, Verdict

# The kubelet cuts what is longer: https://kubernetes.io/docs/tasks/debug/debug-application/determine-reason-pod-failure/
MAX_RESULT_BYTES: Final = 4096


class FactsModel(BaseModel):
    """Strict and frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Failure(FactsModel):
    """A `HalftoneError`: its reason, subject and sentence."""

    reason: str
    subject: str
    message: str


class PlanFacts(FactsModel):
    """What the operator needs of a plan. `sizeBytes` is the checkpoint's; `shards` caps workers."""

    digest: str
    method: Method
    recipe: str
    sourceRevision: str | None = None
    sizeBytes: int
    memoryBytes: int
    shards: int


class CheckpointFacts(FactsModel):
    """The checkpoint that was written."""

    digest: str
    sizeBytes: int


class GateFacts(FactsModel):
    """One gate: its name, what came of it, and its score."""

    name: str
    outcome: Outcome
    value: str | None = None


class ReportFacts(FactsModel):
    """The verdict, and the digest that opens publishing; the recovery is the lowest of tasks."""

    digest: str
    verdict: Verdict
    recoveryPercent: str | None = None
    gates: tuple[GateFacts, ...]


class ArtifactFacts(FactsModel):
    """Where readers find the artifact."""

    uri: str
    revision: str | None = None
    digest: str
    sizeBytes: int


class OccupantFacts(FactsModel):
    """The artifact that lies under the target's name already: by which plan it was made."""

    planDigest: str
    checkpointDigest: str


class StageResult(FactsModel):
    """Of one container. A failed stage has `failure`, and maybe facts that were found before it."""

    apiVersion: Literal["halftone.dev/v1alpha1"] = API_VERSION
    kind: Literal["StageResult"] = "StageResult"
    stage: str
    failure: Failure | None = None
    plan: PlanFacts | None = None
    occupant: OccupantFacts | None = None
    statisticsDigest: str | None = None
    checkpoint: CheckpointFacts | None = None
    report: ReportFacts | None = None
    artifact: ArtifactFacts | None = None

    def to_bytes(self) -> bytes:
        """Canonical JSON of at most `MAX_RESULT_BYTES`.

        What does not fit is left out: first gates that passed, then the end of the failure's
        sentence; the report and the log have them whole.
        """
        result = self
        data = result._json()
        if len(data) > MAX_RESULT_BYTES and result.report is not None:
            kept = tuple(g for g in result.report.gates if g.outcome is not Outcome.Passed)
            report = result.report.model_copy(update={"gates": kept})
            result = result.model_copy(update={"report": report})
            data = result._json()
        if len(data) > MAX_RESULT_BYTES and result.failure is not None:
            # A character takes six bytes of JSON at most.
            keep = max(0, len(result.failure.message) - (len(data) - MAX_RESULT_BYTES) - 6)
            cut = result.failure.message[:keep] + "…"
            failure = result.failure.model_copy(update={"message": cut})
            data = result.model_copy(update={"failure": failure})._json()
        if len(data) > MAX_RESULT_BYTES:
            raise AssertionError("a stage's result is too long. This is a bug. Please report.")
        return data

    def _json(self) -> bytes:
        return canonical_json(self.model_dump(mode="json", exclude_none=True))
