"""What keeps a deleted job from being cleaned up: a run of it that may still write.

Called by `control.ending`. The run stays in the server's list, ended, as history.
"""

from dataclasses import dataclass

from halftone.control.decision import TerminateRun
from halftone.control.kubeflow import claiming
from halftone.control.observed import Observed
from halftone.control.settings import Settings
from halftone.spec.status import JobStatus

_SOON = 1.0
_LATER = 10.0


@dataclass(frozen=True)
class InTheWay:
    """A run is at work, or may be. `why` is a sentence where somebody has to do something."""

    run: TerminateRun | None = None
    why: str = ""
    again_seconds: float = _LATER


def in_the_way(observed: Observed, before: JobStatus, settings: Settings) -> InTheWay | None:
    """The run that has to end first, None if there is none; and what to do about it."""
    seen, kubeflow, mine = observed.run, settings.kubeflowPipelines, before.pipelineRun
    if kubeflow is None:
        return _unseen(before)
    if seen is None:
        return None
    if seen.runs is None:
        return InTheWay(why=f"Its run cannot be ended: {seen.trouble or 'nobody answers.'}")
    live = [run for run in seen.runs if claiming.is_live(run)]
    untold = next((run for run in live if not claiming.is_ending(run)), None)
    if untold is not None:
        return InTheWay(TerminateRun(untold.run_id), again_seconds=_SOON)
    if live or any(one.pod.phase == "Running" for one in seen.pods):
        return InTheWay()
    if mine is None or mine.id is not None:
        return None
    # Another replica may be about to make it.
    seconds = kubeflow.claimSeconds
    held = claiming.is_held(mine, observed.identity, observed.now, seconds)
    return InTheWay() if held else None


def _unseen(before: JobStatus) -> InTheWay | None:
    """What is in the way where this operator knows no server: a run that was not seen to end."""
    mine = before.pipelineRun
    if mine is None or mine.id is None or before.completionTime is not None:
        return None
    return InTheWay(
        why="Its run cannot be ended: this operator was not installed with Kubeflow Pipelines."
    )
