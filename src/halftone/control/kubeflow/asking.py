"""What has to be asked of the Kubeflow server before a job can be judged.

    found = question(observed)

Called by the operator when it has seen everything else of a job.
"""

from dataclasses import dataclass

from halftone.control.observed import Observed
from halftone.control.recalling import asks_again, has_ended
from halftone.control.reconciling import read_spec, read_status, remaining_life
from halftone.spec.cluster import FINALIZER
from halftone.spec.running import Runner


@dataclass(frozen=True)
class Question:
    """About the run `run_id`, with its tasks; or, None, about all runs of the job."""

    run_id: str | None = None


def question(observed: Observed) -> Question | None:
    """What to ask, None if nothing: jobs of the other runner, and those that are over."""
    if observed.spec.get("runner") != Runner.KubeflowPipelines:
        return None
    metadata, before = observed.metadata, read_status(observed.status)
    if metadata.get("deletionTimestamp"):
        return Question() if FINALIZER in (metadata.get("finalizers") or ()) else None
    spec, _ = read_spec(observed)
    if spec is None:
        return None
    mine = before.pipelineRun
    again = asks_again(observed, spec, before)
    if has_ended(spec, before) and not again:
        kept = spec.ttlSecondsAfterFinished
        is_due = remaining_life(kept, before.completionTime, observed.now) == 0
        return Question() if is_due and mine is not None else None
    return Question(None if again or mine is None else mine.id)
