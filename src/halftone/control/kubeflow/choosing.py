"""One step towards the run that carries a job out: found, claimed, made, or told to end.

Called by `running`, once a visit. It does not look at what the run has come to.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from halftone.control.decision import SubmitRun, TerminateRun
from halftone.control.failures import Failed
from halftone.control.kubeflow import claiming, failing
from halftone.control.kubeflow.rendering import render
from halftone.control.observed import Observed
from halftone.control.settings import KubeflowSettings, Settings
from halftone.spec.cluster import Doing
from halftone.spec.job import JobSpec
from halftone.spec.pipelines import Run, RunState
from halftone.spec.status import JobStatus, PipelineRunStatus

# How soon it is looked again: after a write whose effect sends no event, and at another's claim.
SOON: Final = 1.0
LATER: Final = 5.0


@dataclass
class Choosing:
    """`mine` is what the status is to say of the run, `live` the run if it is at work.

    `action` is what to ask of the server, `pace` how soon to look again, None for no hurry.
    `waiting` says why there is no run yet, `failure` why there will be none.
    """

    observed: Observed
    spec: JobSpec
    before: JobStatus
    settings: Settings
    pipeline: Mapping[str, Any]
    mine: PipelineRunStatus | None = field(init=False)
    live: Run | None = None
    action: SubmitRun | TerminateRun | None = None
    pace: float | None = None
    waiting: tuple[str, str] | None = None
    failure: Failed | None = None

    def __post_init__(self) -> None:
        self.mine = self.before.pipelineRun
        self._uid = str(self.observed.metadata["uid"])

    def choose(self, runs: Sequence[Run], *, is_asked_again: bool) -> Run | None:
        """The run to judge, None while there is none, or while others are in its way."""
        run = claiming.current(self._uid, self.before.pipelineRun, runs)
        resumed = self._was_suspended() and not self.spec.suspend
        succeeded = run is not None and run.state is RunState.Succeeded
        if (is_asked_again or resumed) and not succeeded:
            self.claim_next(runs)
            return None
        if run is not None:
            return self._adopt(run, runs)
        if not self.spec.suspend:
            self._make(runs)
        return None

    def claim_next(self, runs: Sequence[Run]) -> None:
        """Say that this replica is going to make another run."""
        known = [run.display_name for run in runs]
        known += [] if self.mine is None else [self.mine.name]
        number = claiming.next_number(self._uid, known)
        self._claim(claiming.run_name(self.observed.metadata, number))

    def resume_unseen(self) -> None:
        """Nobody answers; the status may say no longer that it was us who ended the former run, so
        it says that another is to be made.
        """
        if self._was_suspended() and not self.spec.suspend and self.mine is not None:
            self.claim_next(())

    def start_over(self, runs: Sequence[Run]) -> None:
        """What was chosen has failed; another run is to be made."""
        self.live = self.action = self.failure = None
        self.claim_next(runs)

    def stop(self) -> None:
        """End the run that is at work, and make none."""
        self.action = None
        if self.mine is not None and self.mine.id is None:
            self.mine = self.before.pipelineRun
        if self.live is not None and not claiming.is_ending(self.live):
            self.action = TerminateRun(self.live.run_id)

    @property
    def kubeflow(self) -> KubeflowSettings:
        """The server's."""
        assert self.settings.kubeflowPipelines is not None
        return self.settings.kubeflowPipelines

    def url(self, run: Run) -> str:
        """The page where people see `run`."""
        return f"{self.kubeflow.page}/#/runs/details/{run.run_id}"

    def _was_suspended(self) -> bool:
        return any(row.reason == Doing.Suspended for row in self.before.conditions)

    def _adopt(self, run: Run, runs: Sequence[Run]) -> Run | None:
        """Go on with `run`, after its twins, if there are any, have been told to end."""
        if self._end_others(run, runs):
            return None
        mine = self.before.pipelineRun
        if mine is None or mine.name != run.display_name:
            mine = claiming.claim(run.display_name, self.observed.identity, self.observed.now)
        self.mine = mine.model_copy(update={"id": run.run_id, "url": self.url(run)})
        if claiming.is_live(run):
            self.live = run
            self.pace = float(self.settings.progressSeconds)
        if not self.spec.suspend or run.state is RunState.Succeeded:
            return run
        if not self._was_suspended():
            # Not before the status says that it was us.
            self.pace = SOON if self.live is not None else self.pace
            return run
        if self.live is not None and not claiming.is_ending(run):
            self.action = TerminateRun(run.run_id)
        return None

    def _end_others(self, run: Run | None, runs: Sequence[Run]) -> bool:
        """Whether runs beside `run` are still at work; the first of them is told to end."""
        others = [o for o in runs if claiming.is_live(o) and (run is None or o != run)]
        if not others:
            return False
        told = next((other for other in others if not claiming.is_ending(other)), None)
        self.action = None if told is None else TerminateRun(told.run_id)
        self.pace = SOON
        return True

    def _make(self, runs: Sequence[Run]) -> None:
        """One step towards a run: the claim, or the run itself."""
        seconds = self.kubeflow.claimSeconds
        mine, who, now = self.before.pipelineRun, self.observed.identity, self.observed.now
        if mine is None or mine.id is not None:
            self.claim_next(runs)
        elif claiming.is_held(mine, who, now, seconds):
            self.waiting = Doing.Planning, f"The run is being made by '{mine.claimedBy}'."
            self.pace = LATER
        elif not claiming.is_usable(mine, who, now, seconds):
            self._claim(mine.name)
        elif not self._end_others(None, runs):
            self._submit(mine.name)

    def _claim(self, name: str) -> None:
        self.mine = claiming.claim(name, self.observed.identity, self.observed.now)
        self.pace = SOON

    def _submit(self, name: str) -> None:
        words = self.observed.refused.get(name)
        if words is not None:
            self.failure = failing.refused(words)
            return
        metadata = self.observed.metadata
        self.action = SubmitRun(render(self.pipeline, metadata, self.spec, self.settings, name))
        self.pace = SOON
