"""What the kubelet and Prometheus are told by an operator on a real API server.

We test these aspects:
- ready is a replica that has listed everything; alive it is before
- a watch that says nothing any more makes a replica unready, and it recovers by itself
- a replica whose leading or watching has ended is not alive
- after a life the metrics have the right numbers, proper names, and no name of a job
- while nothing happens, watches and the Lease are all that is asked for
"""

import asyncio
from collections import Counter
from collections.abc import Iterator

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from halftone.spec.cluster import ChildStage
from halftone.telemetry.operator import OperatorMetrics
from operators.quantizationjob.health import Health
from tests.api.conftest import Start
from tests.api.world import World, ends, world
from tests.cluster.answers import job
from tests.cluster.client import Client, jobs_path
from tests.cluster.control_plane import ControlPlane
from tests.cluster.kubelet_stand_in import Answer
from tests.cluster.operator_process import OperatorProcess
from tests.doubles.api_proxy import ApiProxy
from tests.servers.ports import free_port

_UNITS = ("_seconds", "_bytes", "_total", "_length", "_leader", "_ratio", "halftone_jobs")


@pytest.fixture(scope="module")
def here(
    cluster: ControlPlane, client: Client, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[World]:
    """An operator that has seen one job succeed and one fail."""
    with world(cluster, client, "operator-health", tmp_path_factory.mktemp("health")) as found:
        found.apply("good")
        found.apply("bad", ends(ChildStage.Validate, Answer(exit_code=137, reason="OOMKilled")))
        found.wait_for("good", "Succeeded", "True")
        found.wait_for("bad", "Succeeded", "False")
        yield found


def _asks(operator: OperatorProcess, path: str) -> tuple[int, str]:
    answer = httpx.get(operator.url(path), timeout=10, trust_env=False)
    return answer.status_code, answer.text


def test_ready_means_that_everything_was_listed(
    cluster: ControlPlane, client: Client, operator: Start
) -> None:
    with ApiProxy(cluster.url, cluster.authority.folder) as proxy:
        proxy.block("GET .*/pods")
        process = operator(server=proxy.url)
        process.start()
        client.wait("an answer", lambda: _answers(process))
        assert _asks(process, "/readyz") == (503, "pods are not listed yet\n")
        assert _asks(process, "/healthz") == (200, "ok\n")
        process.kill()
        proxy.recover()
        with process:
            assert _asks(process, "/readyz") == (200, "ok\n")


def test_a_silent_watch_is_told_and_begun_anew(
    cluster: ControlPlane, client: Client, namespace: str, operator: Start
) -> None:
    with (
        ApiProxy(cluster.url, cluster.authority.folder) as proxy,
        operator(server=proxy.url, arguments=["--silence", "2"]) as process,
    ):
        proxy.freeze_watches()
        client.wait("the trouble", lambda: "is silent" in _asks(process, "/readyz")[1])
        assert _asks(process, "/readyz")[0] == 503
        assert _asks(process, "/healthz")[0] == 200
        proxy.recover()
        client.create(jobs_path(namespace), job("heard", namespace))
        client.wait_for(namespace, "heard", "Accepted", "Unknown")
        client.wait(
            "its watch", lambda: "watch of quantizationjobs" not in _asks(process, "/readyz")[1]
        )


def test_a_replica_without_its_tasks_is_dead() -> None:
    async def ask() -> list[tuple[int, str]]:
        health = Health(OperatorMetrics(), lambda: None, list)
        port = free_port()
        runner = await health.serve("127.0.0.1", port)
        task = asyncio.create_task(asyncio.Event().wait(), name="leading")
        health.watch([task])
        told = []
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as http:
            for _ in range(2):
                for path in ("/healthz", "/readyz"):
                    answer = await http.get(path)
                    told.append((answer.status_code, answer.text))
                task.cancel()
                await asyncio.wait([task])
        await runner.cleanup()
        return told

    ended = (503, "leading has ended\n")
    assert asyncio.run(ask()) == [(200, "ok\n"), (200, "ok\n"), ended, ended]


def test_metrics_have_the_numbers_of_what_happened(here: World) -> None:
    families = list(text_string_to_metric_families(here.operator.metrics()))
    samples = {
        (one.name, *sorted(one.labels.items())): one.value for f in families for one in f.samples
    }
    stages = [("good", "succeeded", s) for s in ("plan", "target", "quantize", "publish")]
    for _, result, stage in stages:
        key = ("halftone_stage_duration_seconds_count", ("result", result), ("stage", stage))
        assert samples[key] == (1 if stage == "publish" else 2)
    for result in ("succeeded", "failed"):
        key = ("halftone_stage_duration_seconds_count", ("result", result), ("stage", "validate"))
        assert samples[key] == 1
    assert samples[("halftone_checkpoint_written_bytes_total",)] == 10_000_000
    assert samples[("halftone_artifact_published_bytes_total",)] == 5_000_000
    assert samples[("halftone_operator_is_leader",)] == 1
    assert samples[("halftone_operator_queue_length",)] == 0
    rows = {("Succeeded", "True", "Published"): 1, ("Quantized", "True", "Quantized"): 2}
    rows[("Succeeded", "False", "OutOfMemory")] = 1
    for (kind, status, reason), count in rows.items():
        labels = (("condition", kind), ("reason", reason), ("status", status))
        assert samples[("halftone_jobs", *labels)] == count
    assert samples[("halftone_operator_reconciles_total", ("result", "done"))] > 0
    assert not {"good", "bad"} & {v for f in families for o in f.samples for v in o.labels.values()}


def test_names_follow_the_conventions(here: World) -> None:
    for family in text_string_to_metric_families(here.operator.metrics()):
        assert family.documentation.endswith(".")
        name = family.name + ("_total" if family.type == "counter" else "")
        assert name.startswith("halftone_")
        assert name.endswith(_UNITS) or name.endswith("_created"), name


def test_requests_are_counted_as_the_server_counts_them(here: World) -> None:
    """Those that ended: a request of the Lease may be under way."""
    families = text_string_to_metric_families(here.operator.metrics())
    told: Counter[str] = Counter()
    for family in families:
        for one in family.samples:
            if one.name == "halftone_operator_api_requests_total":
                told[one.labels["method"]] += int(one.value)
    seen = Counter(row["verb"] for row in here.audited() if row["verb"] != "watch")
    writes = [row for row in here.audited(verb="create") if row["objectRef"]["resource"] == "jobs"]
    assert told["POST"] == seen["create"]
    assert told["PATCH"] == seen["patch"]
    assert len(writes) == 9
    assert told["WATCH"] == 3


def test_nothing_but_watches_and_the_lease_while_idle(here: World) -> None:
    before = [row["auditID"] for row in here.audited()]
    renewals = len(here.audited(resource="leases", verb="update"))
    here.client.wait(
        "five renewals", lambda: len(here.audited(resource="leases", verb="update")) > renewals + 5
    )
    since = [row for row in here.audited() if row["auditID"] not in before]
    others = [row for row in since if row["objectRef"]["resource"] != "leases"]
    assert [row for row in others if row["verb"] != "watch"] == []


def _answers(operator: OperatorProcess) -> bool:
    try:
        return _asks(operator, "/healthz")[0] == 200
    except httpx.HTTPError:
        return False
