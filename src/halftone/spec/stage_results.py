"""What a stage says when it ends, in at most 4,096 bytes: a container's termination message.

Written by `halftone stage … --result FILE`, read by `halftone.control` out of a pod's status. It is
all that the operator learns of a stage; documents stay in the work area.
"""

import json
from collections.abc import Sequence
from itertools import accumulate, takewhile
from typing import Annotated, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from halftone.spec.documents import Method, canonical_json
from halftone.spec.names import API_VERSION
from halftone.spec.reports import Outcome, Verdict

# The kubelet cuts what is longer: https://kubernetes.io/docs/tasks/debug/debug-application/determine-reason-pod-failure/
MAX_RESULT_BYTES: Final = 4096
# Texts that may be long, in the order in which they are cut; so many bytes of JSON stay of each.
_LONG_TEXTS: Final = (
    ("failure", "message"),
    ("failure", "subject"),
    ("artifact", "uri"),
    ("source", "revision"),
    ("plan", "sourceRevision"),
    ("plan", "recipe"),
)
_SHORT: Final = 320  # 80 characters of any script; of control characters, which none needs, 53
_CUT: Final = "… (cut; the pod's log has it whole)"

# An int64 in the status that it is copied to.
Count = Annotated[int, Field(ge=0, lt=2**63)]


class FactsModel(BaseModel):
    """Strict and frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Failure(FactsModel):
    """A `HalftoneError`: its reason, subject and sentence."""

    reason: str
    subject: str
    message: str


class SourceFacts(FactsModel):
    """What a pipeline's run was pinned to.

    `revision` is the commit on the Hub, and a digest of ETags in a bucket. `digest` tells this
    source from any other, `work` the place where the work is handed on from one that was emptied,
    and the files that gates name from others.
    """

    revision: str | None = None
    digest: str
    work: str


class PlanFacts(FactsModel):
    """What the operator needs of a plan. `sizeBytes` is the checkpoint's; `shards` caps workers."""

    digest: str
    method: Method
    recipe: str
    sourceRevision: str | None = None
    sizeBytes: Count
    memoryBytes: Count
    shards: Count


class CheckpointFacts(FactsModel):
    """The checkpoint that was written."""

    digest: str
    sizeBytes: Count


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
    sizeBytes: Count


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
    source: SourceFacts | None = None
    plan: PlanFacts | None = None
    occupant: OccupantFacts | None = None
    statisticsDigest: str | None = None
    checkpoint: CheckpointFacts | None = None
    report: ReportFacts | None = None
    artifact: ArtifactFacts | None = None

    def to_bytes(self) -> bytes:
        """Canonical JSON of at most `MAX_RESULT_BYTES`.

        What does not fit is left out: first gates that passed, then the ends of texts, in the
        order of `_LONG_TEXTS`, then the last gates; the report and the log have them whole.
        """
        result = self
        if result._excess() and result.report is not None:
            failed = [gate for gate in result.report.gates if gate.outcome is not Outcome.Passed]
            result = result._with_gates(failed)
        for part, name in _LONG_TEXTS:
            result = result._cut(part, name)
        while result._excess() and result.report is not None and result.report.gates:
            result = result._with_gates(result.report.gates[:-1])
        if result._excess():
            raise AssertionError("a stage's result is too long. This is a bug. Please report.")
        return result._json()

    def _excess(self) -> int:
        """By how many bytes this is too long."""
        return max(0, len(self._json()) - MAX_RESULT_BYTES)

    def _with_gates(self, gates: Sequence[GateFacts]) -> Self:
        assert self.report is not None
        report = self.report.model_copy(update={"gates": tuple(gates)})
        return self.model_copy(update={"report": report})

    def _cut(self, part: str, name: str) -> Self:
        """This with as much of one text as fits beside everything else, and a word on the rest."""
        holder: FactsModel | None = getattr(self, part)
        text: str | None = None if holder is None else getattr(holder, name)
        excess = self._excess()
        if holder is None or text is None or not excess:
            return self
        size = sum(map(_json_bytes, text))
        if size <= _SHORT + len(_CUT.encode()):
            return self  # the word on the rest would take as much
        room = max(_SHORT, size - excess - len(_CUT.encode()))
        sizes = accumulate(map(_json_bytes, text))
        keep = sum(1 for _ in takewhile(lambda taken: taken <= room, sizes))
        cut = holder.model_copy(update={name: text[:keep] + _CUT})
        return self.model_copy(update={part: cut})

    def _json(self) -> bytes:
        return canonical_json(self.model_dump(mode="json", exclude_none=True))


def _json_bytes(character: str) -> int:
    """How much of a result one character takes; control characters are written as escapes."""
    return len(json.dumps(character, ensure_ascii=False).encode()) - 2  # without the quotes
