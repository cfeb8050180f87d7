"""The Kubeflow side of a job: what its server and its pods say, and what is asked of that server.

Called by `observe`, which adds what it sees here, and by `apply`. Judges nothing. A server that
does not answer is left alone for a while, by all jobs together: a worker that waits for it is one
that does nothing for others.
"""

import asyncio
import time
from collections.abc import Iterable
from dataclasses import replace
from typing import Final
from urllib.parse import quote

from halftone.control.decision import DeleteRun, SubmitRun, TerminateRun
from halftone.control.kubeflow.asking import Question, question
from halftone.control.observed import Observed, ObservedRun, RunPod
from halftone.control.settings import KubeflowSettings, Settings
from halftone.kubeflow.errors import NotFound, Refused, Unreachable
from halftone.kubeflow.rest import Kubeflow
from halftone.spec.pipelines import JOB_UID_LABEL, Run, RunRequest
from halftone.telemetry.operator import OperatorMetrics
from operators.quantizationjob.api import Api
from operators.quantizationjob.indexes import Indexes
from operators.quantizationjob.reading import Key, read_pod

# Seconds for which a server is left alone that does not answer; doubled each time.
_FIRST_PAUSE: Final = 2.0
_LONGEST_PAUSE: Final = 60.0
# Of one request. A run is made by a claim that is at most a third of `claimSeconds` old; to look
# for it first takes another third at most. With this that is less than a claim holds, so nobody
# else begins before the POST has ended.
_REQUEST_SECONDS: Final = 15.0
# A POST whose answer was lost may still take effect; after so many seconds it has, or never will.
_LAND_SECONDS: Final = 15.0


class RunRefused(Exception):
    """The server does not take a run; `message` has its words."""

    def __init__(self, name: str, message: str) -> None:
        super().__init__(message)
        self.name = name
        self.message = message


class Pipelines:
    """One server, for all jobs of an operator."""

    def __init__(
        self, settings: Settings, api: Api, indexes: Indexes, metrics: OperatorMetrics
    ) -> None:
        assert settings.kubeflowPipelines is not None
        self.settings = settings
        self._settings: KubeflowSettings = settings.kubeflowPipelines
        self._watched = settings.watchNamespaces
        self._api = api
        self._indexes = indexes
        self._metrics = metrics
        self._client = Kubeflow(
            self._settings.endpoint,
            self._settings.tokenFile,
            self._settings.caFile,
            seconds=_REQUEST_SECONDS,
        )
        self._experiments: dict[str, str] = {}
        self._trouble = ""
        self._pause = _FIRST_PAUSE
        self._quiet_until = 0.0
        # By the uid of a job: until when a run may yet appear, and what was said.
        self._landing: dict[str, tuple[float, str]] = {}

    async def close(self) -> None:
        """Close what is open to the server."""
        await self._client.aclose()

    async def see(self, key: Key, observed: Observed) -> Observed:
        """`observed` with what is to be known of the job's run. Raises ApiError."""
        asked = question(observed)
        if asked is None:
            return observed
        uid = str(observed.metadata["uid"])
        place = self._settings.podNamespace or key.namespace
        try:
            runs, trouble = await self._runs(asked, uid, place), None
        except Unreachable as error:
            runs, trouble = None, error.sentence
        except Refused as error:
            runs, trouble = None, f"{error.sentence.rstrip('.')}; the run cannot be looked up."
        pods: Iterable[RunPod] = ()
        if runs:
            # Once the server says that a run is over it is judged, so the watch may not be behind.
            is_over = any(run.state.is_final for run in runs)
            pods = await self._pods(Key(place, key.name), uid, fresh=is_over)
        return replace(observed, run=ObservedRun(runs, trouble, tuple(pods)))

    async def carry_out(
        self, key: Key, uid: str, action: SubmitRun | TerminateRun | DeleteRun
    ) -> None:
        """Ask for `action`. Raises Unreachable, Refused, RunRefused."""
        self._require_answers()
        place = self._settings.podNamespace or key.namespace
        if isinstance(action, SubmitRun):
            await self._submit(action.request, uid, place)
            return
        try:
            if isinstance(action, TerminateRun):
                await self._client.terminate(action.run_id)
            else:
                await self._client.delete(action.run_id)
        except NotFound:
            self._answered("refused")  # it is gone, and so is what was to end
        except Refused:
            self._answered("refused")
            raise
        except Unreachable as error:
            self._silent(error)
            raise
        else:
            self._answered("done")

    def is_elsewhere(self, key: Key) -> bool:
        """Whether pods of the job's runs are in another namespace, with what they mount."""
        return self._settings.podNamespace not in (None, key.namespace)

    async def _submit(self, request: RunRequest, uid: str, place: str) -> None:
        seconds = self._settings.claimSeconds / 3
        try:
            async with asyncio.timeout(seconds):
                if place not in self._experiments:
                    name = self._settings.experiment
                    self._experiments[place] = await self._client.experiment(name, place)
                experiment = self._experiments[place]  # others may forget it meanwhile
                there = await self._client.runs(uid, place)
        except TimeoutError as error:
            slow = Unreachable(f"Kubeflow Pipelines took more than {seconds:.0f} s to answer.")
            self._silent(slow)
            raise slow from error
        except Refused as error:
            self._answered("refused")
            raise RunRefused(request.display_name, error.message) from error
        except Unreachable as error:
            self._silent(error)
            raise
        if any(run.display_name == request.display_name for run in there):
            return
        try:
            await self._client.create(request, experiment)
        except NotFound as error:
            self._answered("refused")
            self._experiments.pop(place, None)  # somebody deleted it; it is made again
            gone = Unreachable(
                f"The experiment '{self._settings.experiment}' of Kubeflow Pipelines has gone; it "
                "is made again."
            )
            # Not at once, for a server may say so for ever; other jobs need not wait.
            self._wait_for_it(uid, _FIRST_PAUSE, gone)
            raise gone from error
        except Refused as error:
            self._answered("refused")
            raise RunRefused(request.display_name, error.message) from error
        except Unreachable as error:
            self._wait_for_it(uid, min(_LAND_SECONDS, self._settings.claimSeconds / 2), error)
            self._silent(error)
            raise
        self._answered("done")

    def _wait_for_it(self, uid: str, seconds: float, error: Unreachable) -> None:
        """Look up no run of this job for so long; of others that are over nothing is kept."""
        now = time.monotonic()
        self._landing = {one: kept for one, kept in self._landing.items() if kept[0] > now}
        self._landing[uid] = now + seconds, error.sentence

    async def _runs(self, asked: Question, uid: str, place: str) -> tuple[Run, ...]:
        self._require_answers()
        until, said = self._landing.get(uid, (0.0, ""))
        if time.monotonic() < until:
            raise Unreachable(said)
        self._landing.pop(uid, None)
        try:
            runs = await self._ask(asked, uid, place)
        except Unreachable as error:
            self._silent(error)
            raise
        except Refused:
            self._answered("refused")
            raise
        self._answered("done")
        return runs

    async def _ask(self, asked: Question, uid: str, place: str) -> tuple[Run, ...]:
        """The run that the status names; where it is gone, or another job's, all of the job's."""
        if asked.run_id is not None:
            try:
                run = await self._client.run(asked.run_id)
            except Refused:
                pass
            else:
                if uid in run.display_name:
                    return (run,)
        return tuple(await self._client.runs(uid, place))

    async def _pods(self, key: Key, uid: str, *, fresh: bool) -> Iterable[RunPod]:
        """Those of the job's runs, by the watch where there is one, unless they must be `fresh`."""
        if not fresh and (not self._watched or key.namespace in self._watched):
            pods = list(self._indexes.pods.get(key))
        else:
            selector = quote(f"{JOB_UID_LABEL}={uid}", safe="")
            path = f"pods?labelSelector={selector}"
            found = await self._api.get("", "v1", key.namespace, path)
            pods = [read_pod(body) for body in found.get("items") or ()]
        return [owned.run for owned in pods if owned.run is not None and owned.object_uid == uid]

    def _require_answers(self) -> None:
        """Raise Unreachable while the server is left alone."""
        if time.monotonic() < self._quiet_until:
            raise Unreachable(self._trouble)

    def _silent(self, error: Unreachable) -> None:
        self._metrics.pipeline_requests.labels("unreachable").inc()
        self._trouble = error.sentence
        self._quiet_until = time.monotonic() + self._pause
        self._pause = min(_LONGEST_PAUSE, 2 * self._pause)

    def _answered(self, result: str) -> None:
        self._metrics.pipeline_requests.labels(result).inc()
        self._pause = _FIRST_PAUSE
