"""The operator's side of a Kubeflow server, with a small API server and the server's double.

We test these aspects:
- an experiment that somebody deleted is made again, and no request is repeated at once;
- a server that is slow to say which runs there are gets none, for the claim may be over by then;
- claims are looked for where the pods are, and nowhere if that is not the job's own namespace.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from halftone.control.decision import SubmitRun
from halftone.control.observed import Observed
from halftone.control.settings import KubeflowSettings, Settings
from halftone.kubeflow.errors import Unreachable
from halftone.spec.pipelines import RunRequest
from halftone.telemetry.operator import OperatorMetrics
from operators.quantizationjob.api import Api
from operators.quantizationjob.indexes import Indexes
from operators.quantizationjob.observe import Observer
from operators.quantizationjob.pipelines import Pipelines
from operators.quantizationjob.pump import Pump
from operators.quantizationjob.queue import Queue
from operators.quantizationjob.reading import Key
from tests.control_cases import NAME, NOW, SETTINGS, SPACE, metadata, spec
from tests.doubles.api_answers import answering, refused
from tests.doubles.kubeflow import KubeflowDouble
from tests.doubles.kubeflow_answers import Fault

_KEY = Key(SPACE, NAME)
_BY_RUN: dict[str, Any] = {"runner": "KubeflowPipelines"}


def _settings(double: KubeflowDouble, **more: Any) -> Settings:
    kubeflow = KubeflowSettings(endpoint=double.endpoint, **more)
    return SETTINGS.model_copy(update={"kubeflowPipelines": kubeflow})


def _pipelines(api: Api, settings: Settings) -> tuple[Pipelines, Indexes]:
    indexes = Pump(api, Queue(), OperatorMetrics(), [], silence=60).indexes
    return Pipelines(settings, api, indexes, OperatorMetrics()), indexes


def test_a_deleted_experiment_is_made_again_and_not_at_once(tmp_path: Path) -> None:
    observed = Observed(metadata(), spec(**_BY_RUN), {}, NOW)
    request = RunRequest(
        display_name=f"{SPACE}.{NAME}-uid-of-job-1-1",
        pipeline_spec={"root": {"dag": {}}},
        platform_spec={},
        parameters={},
    )
    other = request.model_copy(update={"display_name": f"{SPACE}.{NAME}-another-1-1"})

    async def ask(double: KubeflowDouble) -> None:
        async with answering(tmp_path, {}) as (api, _):
            pipelines, _ = _pipelines(api, _settings(double))
            try:
                await pipelines.carry_out(_KEY, "another", SubmitRun(other))
                (made,) = double.experiments
                path = f"experiments/{made['experiment_id']}"
                async with httpx.AsyncClient(trust_env=False) as client:
                    url = f"{double.endpoint}/apis/v2beta1/{path}"
                    (await client.delete(url)).raise_for_status()
                with pytest.raises(Unreachable, match="has gone"):
                    await pipelines.carry_out(_KEY, "uid-of-job", SubmitRun(request))
                count = len(double.asked)
                seen = (await pipelines.see(_KEY, observed)).run
                assert seen is not None
                assert (seen.runs, len(double.asked)) == (None, count)
                assert "has gone" in (seen.trouble or "")
                # Other jobs need not wait.
                others = replace(observed, metadata=metadata(uid="another"))
                run = (await pipelines.see(_KEY, others)).run
                assert run is not None
                assert run.trouble is None
                await pipelines.carry_out(_KEY, "uid-of-job", SubmitRun(request))
                assert len(double.runs) == 2
            finally:
                await pipelines.close()

    with KubeflowDouble() as double:
        _run(lambda: ask(double))
        assert len(double.experiments) == 1


def test_no_run_is_made_once_the_look_up_took_too_long(tmp_path: Path) -> None:
    request = RunRequest(
        display_name=f"{SPACE}.{NAME}-uid-of-job-1-1",
        pipeline_spec={"root": {"dag": {}}},
        platform_spec={},
        parameters={},
    )

    async def ask(double: KubeflowDouble) -> None:
        async with answering(tmp_path, {}) as (api, _):
            pipelines, _ = _pipelines(api, _settings(double, claimSeconds=3))
            double.fail("GET /runs", Fault.Held)
            try:
                with pytest.raises(Unreachable, match="more than 1 s"):
                    await pipelines.carry_out(_KEY, "uid-of-job", SubmitRun(request))
            finally:
                double.released.set()
                await pipelines.close()

    with KubeflowDouble() as double:
        _run(lambda: ask(double))
        assert double.asked_for("POST /runs") == []


@pytest.mark.parametrize("place", [None, SPACE, "kubeflow"])
def test_claims_are_looked_for_where_the_pods_are(tmp_path: Path, place: str | None) -> None:
    blocks = {**_BY_RUN, "workVolume": {"claimName": "work"}}
    body = {"metadata": metadata(resourceVersion="7"), "spec": spec(**blocks), "status": {}}

    async def look(double: KubeflowDouble) -> None:
        answers = {"GET .*/persistentvolumeclaims/": refused(404, "none")}
        async with answering(tmp_path, answers) as (api, asked):
            pipelines, indexes = _pipelines(api, _settings(double, podNamespace=place))
            indexes.objects.put(body)
            try:
                observed = await Observer(api, indexes, pipelines=pipelines).observe(_KEY)
            finally:
                await pipelines.close()
            assert observed is not None
            is_elsewhere = place == "kubeflow"
            assert observed.claims == ({} if is_elsewhere else {"work": None})
            assert len(asked) == (0 if is_elsewhere else 1)

    with KubeflowDouble() as double:
        _run(lambda: look(double))


def _run(work: Callable[[], Awaitable[None]]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(60):
            await work()

    asyncio.run(limited())
