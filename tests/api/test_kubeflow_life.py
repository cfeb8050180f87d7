"""Jobs that are carried out by runs of a pipeline, on a real API server and a double of Kubeflow.

We test these aspects:
- a life to the same conditions and events as by Jobs, with one run and its page in the status
- a gate that fails, in the failing pod's words, for the server has none; a retry is a new run
- suspension and resuming, deletion, the time to live, a run that vanished
- a server that is away, that does not let the operator in, that refuses, whose answer is lost
- two operators act at once, without an election; 200 reconciles of as many replicas race: one run
"""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from halftone.control.reconciling import reconcile
from halftone.control.settings import Settings
from halftone.kubeflow.errors import Unreachable
from halftone.spec.names import Reason
from halftone.spec.pipelines import Task
from halftone.spec.reports import Verdict
from halftone.spec.stage_results import Failure, StageResult
from halftone.telemetry.operator import OperatorMetrics
from operators.quantizationjob.api import Api, ApiError
from operators.quantizationjob.apply import Applier
from operators.quantizationjob.observe import Observer
from operators.quantizationjob.pipelines import Pipelines
from operators.quantizationjob.reading import Key
from tests.api.kubeflow_world import GOOD, KubeflowWorld, kubeflow_world, script, start_options
from tests.api.troubles import ENDED
from tests.cluster.client import Client
from tests.cluster.control_plane import ControlPlane
from tests.cluster.operator_process import OperatorProcess
from tests.doubles.kubeflow import Fault, KubeflowDouble, Step
from tests.kubeflow_cases import PIPELINE, told_by
from tests.unwatched import unwatched

_RACERS = 200
_CLIENTS = 8
_GATES = script(Task.Target, Task.Assemble)[:-1]
_HALF = _GATES[-1].tasks
_BAD = [*_GATES, Step("FAILED", {**_HALF, "validate": "FAILED"})]


@pytest.fixture(scope="module")
def here(
    cluster: ControlPlane, client: Client, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[KubeflowWorld]:
    """One operator for the whole module."""
    folder = tmp_path_factory.mktemp("kubeflow")
    with kubeflow_world(cluster, client, "kubeflow-life", folder) as found:
        yield found


@pytest.fixture(autouse=True)
def _calm(here: KubeflowWorld) -> Iterator[None]:
    """What a test scripts is its own."""
    here.kubeflow.script = GOOD
    yield
    here.kubeflow.down, here.kubeflow.token = False, None


def test_a_life_ends_as_by_jobs(here: KubeflowWorld) -> None:
    here.apply_run("whole")
    here.wait_for("whole", "Succeeded", "True")
    status = here.status("whole")
    assert [(r["type"], r["status"], r["reason"]) for r in status["conditions"]] == ENDED
    (name,) = here.names_made("whole")
    run = next(run for run in here.kubeflow.runs if run.name == name)
    url = f"{here.kubeflow.endpoint}/#/runs/details/{run.run_id}"
    assert (status["pipelineRun"]["id"], status["pipelineRun"]["url"]) == (run.run_id, url)
    assert status["artifact"]["helmCommand"].startswith("helm upgrade --install whole ")
    assert here.children("whole") == []
    here.client.wait("the last event", lambda: len(here.events("whole")) >= 5)
    told = [row for row in here.events("whole") if row[1] != "StageWaiting"]
    reasons = ["JobAccepted", "CheckpointWritten", "GatesPassed", *["ArtifactPublished"] * 2]
    assert told == [("Normal", reason) for reason in reasons]


def test_a_gate_that_fails_and_a_retry(here: KubeflowWorld) -> None:
    report = told_by(Task.Validate).report
    assert report is not None
    bad = report.model_copy(update={"verdict": Verdict.Failed})
    words = Failure(reason=Reason.GateFailed, subject="quality", message="Gate `quality` failed.")
    here.results["gate", Task.Validate] = StageResult(stage="validate", failure=words, report=bad)
    here.kubeflow.script = _BAD
    here.apply_run("gate")
    row = here.wait_for("gate", "Validated", "False", "GateFailed")
    assert row["message"] == "Gate `quality` failed."
    status = here.status("gate")
    assert status["report"]["verdict"] == "Failed"
    assert [one["name"] for one in status["gates"]] == ["weights"]
    assert "artifact" not in status
    del here.results["gate", Task.Validate]
    here.kubeflow.script = GOOD
    here.retry("gate", "again")
    here.wait_for("gate", "Succeeded", "True")
    first, second = here.names_made("gate")
    assert (first[-4:], second[-4:]) == ("-1-1", "-1-2")


def test_suspension_terminates_and_resuming_goes_on(here: KubeflowWorld) -> None:
    here.kubeflow.script = _GATES
    here.apply_run("held")
    here.wait_for("held", "Quantized", "True")
    here.change("held", suspend=True)
    here.wait_for("held", "Validated", "Unknown", "Suspended")
    (name,) = here.names_made("held")
    run = next(run for run in here.kubeflow.runs if run.name == name)
    here.client.wait("the end of the run", lambda: _state(here, run.run_id) == "FAILED")
    here.kubeflow.script = GOOD
    here.change("held", suspend=False)
    here.wait_for("held", "Succeeded", "True")
    assert len(here.names_made("held")) == 2
    reasons = [reason for _, reason in here.events("held")]
    assert reasons.index("JobSuspended") < reasons.index("JobResumed")


def test_a_deleted_job_leaves_an_ended_run(here: KubeflowWorld) -> None:
    here.kubeflow.script = _GATES
    here.apply_run("deleted")
    here.wait_for("deleted", "Quantized", "True")
    run_id = here.status("deleted")["pipelineRun"]["id"]
    here.delete("deleted")
    told = f"POST /runs/{run_id}:terminate"
    here.client.wait("its termination", lambda: bool(here.kubeflow.asked_for(told)))
    assert here.children("deleted") == []  # nothing is cleaned up while the run may still write
    here.kubeflow.put(run_id, Step("FAILED", _HALF))
    here.wait_gone("deleted")
    assert _state(here, run_id) == "FAILED"
    assert "UploadsRemoved" in [reason for _, reason in here.events("deleted")]


def test_the_time_to_live_takes_the_run_too(here: KubeflowWorld) -> None:
    here.apply_run("short", ttlSecondsAfterFinished=1)
    here.wait_gone("short")
    (name,) = here.names_made("short")
    assert name not in [run.name for run in here.kubeflow.runs]


def test_a_deadline_terminates(here: KubeflowWorld) -> None:
    here.kubeflow.script = _GATES
    here.apply_run("late", activeDeadlineSeconds=3600)
    here.wait_for("late", "Quantized", "True")
    here.change("late", activeDeadlineSeconds=1)
    here.wait_for("late", "Succeeded", "False", "DeadlineExceeded")
    run_id = here.status("late")["pipelineRun"]["id"]
    assert here.kubeflow.asked_for(f"POST /runs/{run_id}:terminate")


def test_a_server_that_is_away_is_waited_for(here: KubeflowWorld) -> None:
    here.kubeflow.down = True
    here.apply_run("away")
    row = here.wait_for("away", "Accepted", "Unknown", "PipelinesUnreachable")
    assert here.kubeflow.endpoint in row["message"]
    here.kubeflow.down = False
    here.kubeflow.token = "secret"
    here.client.wait(
        "a word about the token",
        lambda: "401" in str(here.wait_for("away", "Accepted", "Unknown")["message"]),
    )
    here.kubeflow.token = None
    here.wait_for("away", "Succeeded", "True")
    assert len(here.names_made("away")) == 1


def test_a_run_that_is_refused_fails_the_job(here: KubeflowWorld) -> None:
    here.kubeflow.fail("POST /runs", Fault.BadRequest)
    here.apply_run("refused")
    here.wait_for("refused", "Succeeded", "False", "PipelineRunRefused")
    here.retry("refused", "1")
    here.wait_for("refused", "Succeeded", "True")


def test_an_answer_that_is_lost_makes_no_second_run(here: KubeflowWorld) -> None:
    names = ["lost-a", "lost-b", "lost-c"]
    for fault in (Fault.Lost, Fault.Cut, Fault.Unavailable):
        here.kubeflow.fail("POST /runs", fault)
    for name in names:
        here.apply_run(name)
    for name in names:
        here.wait_for(name, "Succeeded", "True")
        assert len(here.names_made(name)) == 1


def test_a_run_that_vanished_is_made_again(here: KubeflowWorld) -> None:
    here.kubeflow.script = _GATES
    here.apply_run("vanished")
    here.wait_for("vanished", "Quantized", "True")
    run_id = here.status("vanished")["pipelineRun"]["id"]
    here.kubeflow.script = GOOD
    url = f"{here.kubeflow.endpoint}/apis/v2beta1/runs/{run_id}"
    httpx.delete(url, trust_env=False).raise_for_status()
    here.wait_for("vanished", "Succeeded", "True")
    assert len(here.names_made("vanished")) == 2


def _state(here: KubeflowWorld, run_id: str) -> str:
    return next(run.state for run in here.kubeflow.runs if run.run_id == run_id)


def test_two_operators_at_once_make_one_run_a_job(
    here: KubeflowWorld, cluster: ControlPlane, tmp_path: Path
) -> None:
    second = OperatorProcess(
        cluster, here.namespace, tmp_path, lease=False, options=start_options(here)
    )
    names = [f"shared-{number}" for number in range(6)]
    with second:
        for name in names:
            here.apply_run(name)
        for name in names:
            here.wait_for(name, "Succeeded", "True")
            assert len(here.names_made(name)) == 1


def test_200_reconciles_race_and_make_one_run(
    cluster: ControlPlane, client: Client, namespace: str, tmp_path: Path
) -> None:
    world = KubeflowWorld(cluster, client, namespace)
    world.apply_run("raced")
    with world.kubeflow:
        asyncio.run(_race(cluster, namespace, world.kubeflow))
        assert len(world.kubeflow.created) == 1
        assert len(world.kubeflow.runs) == 1
    mine = world.status("raced")["pipelineRun"]
    assert mine["name"] == world.kubeflow.created[0]["display_name"]


async def _race(cluster: ControlPlane, namespace: str, kubeflow: KubeflowDouble) -> None:
    """As many replicas, none with a Lease; some share what they remember of the server."""
    settings = Settings.model_validate(
        {
            "stages": {
                one: {"image": "i"}
                for one in ("Plan", "Calibrate", "Quantize", "Validate", "Publish")
            },
            "taskImage": "t",
            "kubeflowPipelines": {"endpoint": kubeflow.endpoint},
        }
    )
    metrics = OperatorMetrics()
    api = await Api.connect(str(cluster.kubeconfig), metrics.count_request)
    try:
        servers = [Pipelines(settings, api, unwatched(), metrics) for _ in range(_CLIENTS)]
        first = await api.get("halftone.dev", "v1alpha1", namespace, "quantizationjobs/raced")
        async with asyncio.TaskGroup() as group:
            racers = [
                group.create_task(_racer(api, servers[number % _CLIENTS], first, number))
                for number in range(_RACERS)
            ]
    finally:
        await asyncio.gather(*(one.close() for one in servers))
        await api.close()
    assert sum(racer.result() for racer in racers) >= _RACERS


async def _racer(api: Api, pipelines: Pipelines, body: dict[str, Any], number: int) -> int:
    """Visits until the run is there, the first on what all have seen; returns how many it took."""
    key = Key(body["metadata"]["namespace"], body["metadata"]["name"])
    indexes, identity = unwatched(), f"replica-{number}"
    observer = Observer(api, indexes, identity=identity, pipelines=pipelines)
    applier = Applier(api, identity, pipelines)
    for visits in range(1000):
        if "id" in body.get("status", {}).get("pipelineRun", {}):
            return visits
        indexes.objects.put(body)
        observed = await observer.observe(key)
        assert observed is not None
        decision = reconcile(observed, pipelines.settings, PIPELINE)
        try:
            await applier.apply(key, observed.metadata, decision)
        except (ApiError, Unreachable) as error:
            # It changed meanwhile, or so many ask at once that one waits too long: look again.
            if isinstance(error, ApiError) and error.code != 409:
                raise
        path = f"quantizationjobs/{key.name}"
        body = await api.get("halftone.dev", "v1alpha1", key.namespace, path)
    raise TimeoutError(yaml.safe_dump(body["status"]))
