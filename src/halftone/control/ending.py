"""What happens when a QuantizationJob is deleted: stop, then remove what no owner reaches.

Called by `reconciling`. Nothing is held for ever: where cleaning up fails, an event says what is
left and where, and the object goes.
"""

import re
from datetime import datetime, timedelta
from typing import Final

from halftone.control.children import child_job
from halftone.control.conditions import MAX_MESSAGE, read_time, shortened
from halftone.control.decision import Decision, Deletion
from halftone.control.failures import Failed
from halftone.control.inside import hands_on_in_s3, work_area
from halftone.control.judging import Done, Working, is_live, judge
from halftone.control.kubeflow.ending import InTheWay, in_the_way
from halftone.control.observed import Observed
from halftone.control.settings import Settings
from halftone.control.telling import event
from halftone.spec.cluster import FINALIZER, ChildStage, Condition, EventReason
from halftone.spec.documents import Method
from halftone.spec.job import JobSpec
from halftone.spec.running import Runner
from halftone.spec.status import JobStatus, PlanStatus

# Long enough for an image to be pulled, and a queue to move; then the object goes anyway.
_PATIENCE: Final = timedelta(minutes=15)
# How soon what stands in the way is looked at again.
_SOON: Final = timedelta(seconds=10)
# Of a plan, as children carry it; others may write anything there.
_DIGEST: Final = re.compile("[0-9a-f]{64}")
_LEAVES_NOTHING: Final = frozenset({ChildStage.Plan, ChildStage.Target})


def end(
    observed: Observed, spec: JobSpec | None, before: JobStatus, settings: Settings
) -> Decision:
    """One step towards the end of a job that has a deletion timestamp."""
    if FINALIZER not in (observed.metadata.get("finalizers") or ()):
        return Decision()
    working = [
        child
        for child in observed.children
        if child.stage is not ChildStage.CleanUp and (is_live(child) or child.deleting)
    ]
    gone = tuple(Deletion(c.name, c.uid) for c in working if not c.deleting)
    obstacle = in_the_way(observed, before, settings)
    # Nobody may have been here to stop them at once.
    since = max([_deleted_at(observed), *(c.deleting_since for c in working if c.deleting_since)])
    left = _PATIENCE - (observed.now - since)
    if gone or (working and left > timedelta(0)):
        return Decision(deletions=gone, requeue_seconds=max(left, _SOON).total_seconds())
    if obstacle is not None:
        return _after_the_run(obstacle, observed, before, spec)
    if observed.namespace_terminating or not _may_have_left(observed, spec, before):
        return Decision(finalizer=False)
    if spec is None:
        return _give_up("what the object says cannot be read.", "its target")
    place = work_area(observed.metadata, spec)
    where = spec.publish.uri if spec.publish is not None else "its target"
    where = where if place is None else f"{where} and {place}"
    if working:
        return _give_up(f"'{working[0].name}' did not end in 15 minutes.", where)
    child = next((c for c in observed.children if c.stage is ChildStage.CleanUp), None)
    if child is None:
        return _begin(observed, spec, before, settings, where, left)
    state = judge(child, observed.now)
    if isinstance(state, Done):
        told = f"No unfinished upload is left in {where}."
        return Decision(finalizer=False, events=(event(EventReason.UploadsRemoved, told),))
    if isinstance(state, Failed):
        return _give_up(state.message, where)
    # Nobody may have been here to make it at once, so its own time counts.
    left = _PATIENCE - (observed.now - max(child.created, _deleted_at(observed)))
    waits = state.waiting if isinstance(state, Working) else None
    if left <= timedelta(0):
        return _give_up(waits[1] if waits else "this did not end in 15 minutes.", where)
    if waits is not None:
        return _waiting(before, f"Cleaning up waits: {waits[1]}", left)
    return Decision(requeue_seconds=left.total_seconds())


def _after_the_run(
    obstacle: InTheWay, observed: Observed, before: JobStatus, spec: JobSpec | None
) -> Decision:
    """Wait for the end of a run of a pipeline, as long as for anything else."""
    left = _PATIENCE - (observed.now - _deleted_at(observed))
    if left <= timedelta(0):
        where = spec.publish.uri if spec is not None and spec.publish is not None else "its target"
        why = obstacle.why or "its run did not end in 15 minutes."
        return _give_up(f"{why} End it in Kubeflow Pipelines.", where)
    if obstacle.why:
        return _waiting(before, obstacle.why, left)
    return Decision(run=obstacle.run, requeue_seconds=obstacle.again_seconds)


def _begin(
    observed: Observed,
    spec: JobSpec,
    before: JobStatus,
    settings: Settings,
    where: str,
    left: timedelta,
) -> Decision:
    """Make the Job that cleans up, or say why it cannot be made."""
    plan = _of_some_plan(observed, before)
    made = child_job(observed.metadata, spec, plan, ChildStage.CleanUp, 1, "", settings)
    name = made["metadata"]["name"]
    why = observed.refused.get(name)
    if name in observed.taken:
        why = f"the Job '{name}' is not this job's own."
    if why is None:
        # The finalizer is asked for again first, of the object as we saw it: another replica may
        # have cleaned up and let it go, and then nothing is left that this would belong to.
        return Decision(
            finalizer=True, creations=(made,), requeue_seconds=_PATIENCE.total_seconds()
        )
    if left <= timedelta(0):
        return _give_up(why, where)
    return _waiting(before, f"The Job that cleans up cannot be made: {why}", left)


def _waiting(before: JobStatus, message: str, left: timedelta) -> Decision:
    """Say once why the object is still there: in its summary, and in an event."""
    last = before.condition(Condition.Succeeded)
    message = shortened(message, MAX_MESSAGE, "")
    if last is None or last.message == message:
        return Decision(requeue_seconds=min(left, _SOON).total_seconds())
    row = last.model_copy(update={"message": message})
    kept = tuple(row if one.type is row.type else one for one in before.conditions)
    return Decision(
        status=before.model_copy(update={"conditions": kept}),
        events=(event(EventReason.StageWaiting, message, warning=True),),
        requeue_seconds=min(left, _SOON).total_seconds(),
    )


def _deleted_at(observed: Observed) -> datetime:
    return read_time(str(observed.metadata["deletionTimestamp"])) or observed.now


def _give_up(why: str, where: str) -> Decision:
    """Let the object go, and say what may be left."""
    told = f"Parts of uploads or work may be left in {where}; nothing removed them: {why}"
    return Decision(finalizer=False, events=(event(EventReason.UploadsLeft, told, warning=True),))


def _may_have_left(observed: Observed, spec: JobSpec | None, before: JobStatus) -> bool:
    """Whether a stage ran that writes outside of what the object owns: in S3, every stage does."""
    in_s3 = spec is not None and hands_on_in_s3(spec)
    harmless = {ChildStage.Target} if in_s3 else _LEAVES_NOTHING
    begun = any(child.stage not in harmless for child in observed.children)
    begun = begun or before.pipelineRun is not None or bool(observed.run and observed.run.runs)
    # Its children may have been deleted before it.
    told = [before.checkpoint, before.report, before.artifact, *([before.plan] if in_s3 else [])]
    return _leaves_uploads(spec) and (begun or any(fact is not None for fact in told))


def needs_cleaning(spec: JobSpec | None) -> bool:
    """Whether a job may leave something that garbage collection does not reach: uploads, or a run
    of a pipeline.
    """
    return _leaves_uploads(spec) or (spec is not None and spec.runner is not Runner.Jobs)


def _leaves_uploads(spec: JobSpec | None) -> bool:
    """What lies in the claim of a user stays: without a target it is all that the job gives."""
    return spec is None or spec.publish is not None


def _of_some_plan(observed: Observed, before: JobStatus) -> JobStatus:
    """`before` with the plan whose work area is to be emptied: the last that was carried out."""
    if before.plan is not None:
        return before
    planned = [child for child in observed.children if _DIGEST.fullmatch(child.plan_digest)]
    if not planned:
        return before
    last = max(planned, key=lambda child: (child.created, child.name))
    plan = PlanStatus(
        digest=last.plan_digest,
        method=Method.DataFree,
        recipe="",
        sizeBytes=0,
        memoryBytes=0,
        shards=1,
    )
    return before.model_copy(update={"plan": plan})
