"""What happens when a QuantizationJob is deleted: stop, then remove what no owner reaches.

Called by `reconciling`. Nothing is held for ever: where cleaning up fails, an event says what is
left and where, and the object goes.
"""

from datetime import timedelta
from typing import Final

from halftone.control.children import child_job
from halftone.control.conditions import read_time
from halftone.control.decision import Decision, Deletion, Event
from halftone.control.inside import work_area
from halftone.control.judging import Done, Failed, judge
from halftone.control.observed import Observed
from halftone.control.settings import Settings
from halftone.spec.cluster import FINALIZER, ChildStage, EventReason
from halftone.spec.job import JobSpec
from halftone.spec.status import JobStatus

# Long enough for an image to be pulled, and a queue to move; then the object goes anyway.
_PATIENCE: Final = timedelta(minutes=15)
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
        if child.stage is not ChildStage.CleanUp and not (child.complete or child.failure)
    ]
    if working:
        return Decision(deletions=tuple(Deletion(c.name, c.uid) for c in working if not c.deleting))
    if spec is None or observed.namespace_terminating or not _may_have_left(observed, spec):
        return Decision(finalizer=False)
    child = next((c for c in observed.children if c.stage is ChildStage.CleanUp), None)
    if child is None:
        made = child_job(observed.metadata, spec, before, ChildStage.CleanUp, 1, "", settings)
        return Decision(creations=(made,), requeue_seconds=_PATIENCE.total_seconds())
    state = judge(child, observed.now)
    if isinstance(state, Done):
        told = "Unfinished uploads and the work area are removed."
        return Decision(finalizer=False, events=(Event(EventReason.UploadsRemoved, told),))
    since = read_time(str(observed.metadata["deletionTimestamp"])) or child.created
    late = observed.now - since >= _PATIENCE
    if isinstance(state, Failed) or late:
        why = state.message if isinstance(state, Failed) else "it did not end in 15 minutes."
        place = work_area(spec) or "the work volume"
        told = f"Parts of uploads may be left in the target, and work in {place}: {why}"
        event = Event(EventReason.UploadsLeft, told, warning=True)
        return Decision(finalizer=False, events=(event,))
    return Decision(requeue_seconds=(since + _PATIENCE - observed.now).total_seconds())


def _may_have_left(observed: Observed, spec: JobSpec) -> bool:
    """Whether a stage ran that writes outside of what the object owns."""
    begun = any(child.stage not in _LEAVES_NOTHING for child in observed.children)
    planned = any(child.stage is ChildStage.Plan for child in observed.children)
    claim = spec.workVolume is not None and spec.workVolume.claimName is not None
    return begun or (planned and (claim or work_area(spec) is not None))
