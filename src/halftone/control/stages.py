"""The stages of one job in a cluster, as a table: who runs what, with which secrets.

Called by `reconciling` for the order and by `children` for the manifests.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from halftone.spec.cluster import ChildStage, Condition, Doing, Ended, EventReason
from halftone.spec.job import JobSpec
from halftone.spec.running import StageName


class Use(StrEnum):
    """What a credential or a claim is for; part of names inside a pod."""

    Source = "source"
    Dataset = "dataset"
    Validation = "validation"
    Work = "work"
    Publish = "publish"
    SigningKey = "signing-key"


@dataclass(frozen=True)
class Stage:
    """One kind of child.

    `settings` is the stage of the API whose image, account and resources it gets. `secrets` and
    `claims` are all that it may see: quantizing cannot read what publishing holds.
    """

    child: ChildStage
    settings: StageName
    secrets: frozenset[Use]
    claims: frozenset[Use]


_U = Use
_ROWS: Final = (
    (ChildStage.Plan, StageName.Plan, {_U.Source}, {_U.Source, _U.Validation}),
    (ChildStage.Target, StageName.Publish, {_U.Publish, _U.SigningKey}, {_U.Publish}),
    (ChildStage.Calibrate, StageName.Calibrate, {_U.Source, _U.Dataset}, {_U.Source, _U.Dataset}),
    (ChildStage.Quantize, StageName.Quantize, {_U.Source}, {_U.Source}),
    (ChildStage.Assemble, StageName.Quantize, {_U.Source}, {_U.Source}),
    (ChildStage.Validate, StageName.Validate, {_U.Source}, {_U.Source, _U.Validation}),
    (ChildStage.Publish, StageName.Publish, {_U.Publish, _U.SigningKey}, {_U.Publish}),
    (ChildStage.CleanUp, StageName.Publish, {_U.Publish}, {_U.Publish}),
)
# `target` asks a question and leaves nothing; all others hand documents on.
STAGES: Final = {
    child: Stage(
        child,
        settings,
        frozenset(secrets | (set() if child is ChildStage.Target else {_U.Work})),
        frozenset(claims | (set() if child is ChildStage.Target else {_U.Work})),
    )
    for child, settings, secrets, claims in _ROWS
}


@dataclass(frozen=True)
class Step:
    """A condition, the children that make it true, and how that is told.

    Children run one after the other, or those of `Accepted` at once.
    """

    condition: Condition
    children: tuple[ChildStage, ...]
    doing: Doing
    done: Ended
    event: EventReason


_CALIBRATE: Final = Step(
    Condition.Calibrated,
    (ChildStage.Calibrate,),
    Doing.Calibrating,
    Ended.Calibrated,
    EventReason.ActivationsMeasured,
)
_VALIDATE: Final = Step(
    Condition.Validated,
    (ChildStage.Validate,),
    Doing.Validating,
    Ended.Validated,
    EventReason.GatesPassed,
)
_PUBLISH: Final = Step(
    Condition.Published,
    (ChildStage.Publish,),
    Doing.Publishing,
    Ended.Published,
    EventReason.ArtifactPublished,
)


def steps(spec: JobSpec, *, calibrated: bool, workers: int) -> tuple[Step, ...]:
    """The steps of a job in their order. `workers` is how many write shards."""
    accept = (ChildStage.Plan,) if spec.publish is None else (ChildStage.Plan, ChildStage.Target)
    write = (ChildStage.Quantize,) if workers == 1 else (ChildStage.Quantize, ChildStage.Assemble)
    return (
        Step(Condition.Accepted, accept, Doing.Planning, Ended.Accepted, EventReason.JobAccepted),
        *((_CALIBRATE,) if calibrated else ()),
        Step(
            Condition.Quantized,
            write,
            Doing.Quantizing,
            Ended.Quantized,
            EventReason.CheckpointWritten,
        ),
        _VALIDATE,
        *((_PUBLISH,) if spec.publish is not None else ()),
    )
