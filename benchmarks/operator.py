"""What the operator takes of a real API server, and of a machine that it shares with it.

A control plane with a declared stand-in for a node; pods are answered by that for a kubelet,
which costs what a kubelet's status writes cost. Requests are counted in the server's audit log, not
by the operator. CPU seconds of each process stand in the details: they say who the bottleneck was.
"""

import json
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from benchmarks.measuring import Result, median_of
from halftone.spec.cluster import ChildStage
from tests.cluster.answers import all_well, job, stage_of
from tests.cluster.chart import install_crd
from tests.cluster.client import Client, children_path, condition_of, jobs_path, pods_path
from tests.cluster.control_plane import ControlPlane
from tests.cluster.kubelet_stand_in import Answer, KubeletStandIn
from tests.cluster.node_stand_in import NodeStandIn
from tests.cluster.operator_process import OperatorProcess

_JOBS = 1000
_LIVES = 100
_AT_REST = 5
_ACCEPTED_SECONDS = 120
_MEMORY = 250_000_000
_REQUESTS = 25
_IDLE_SECONDS = 60
_RESTART_SECONDS = 30
_FIRST_POD_SECONDS = 2.0
_POLL = 0.02
# What a user of kubectl sends at once.
_SENDERS = 4
_TICKS = 100


def main(scratch: Path) -> list[Result]:
    """Every figure, on one control plane, a namespace each."""
    folder = scratch / "operator"
    shutil.rmtree(folder, ignore_errors=True)
    with (
        ControlPlane(folder / "cluster") as cluster,
        Client(cluster) as client,
        NodeStandIn(cluster),
    ):
        install_crd(cluster)
        results = [
            *_at_rest(cluster, client, folder),
            *_thousand(cluster, client, folder),
        ]
    shutil.rmtree(folder)
    return results


def _at_rest(cluster: ControlPlane, client: Client, folder: Path) -> list[Result]:
    """First pods, whole lives, and a minute of nothing, in one namespace."""
    space = client.namespace("rest")
    with (
        OperatorProcess(cluster, space, folder / "rest") as operator,
        KubeletStandIn(cluster, all_well, namespace=space),
    ):
        pods = [_first_pod(client, space, f"first-{number}") for number in range(_AT_REST)]
        for number in range(_AT_REST):
            client.wait_for(space, f"first-{number}", "Succeeded", "True")
        before = Counter(_asked(cluster, space))
        began = time.monotonic()
        names = [f"life-{number:03}" for number in range(_LIVES)]
        _apply(client, space, names)
        _wait_until(client, space, "Succeeded", _LIVES + _AT_REST, 600)
        seconds = time.monotonic() - began
        client.wait("the last event", lambda: _metric(operator, "queue_length") == 0)
        lives = Counter(_asked(cluster, space)) - before
        idle = _idle(cluster, space)
    each = sum(lives.values()) / _LIVES
    return [
        Result(
            "operator: first pod after apply, at rest",
            f"<= {_FIRST_POD_SECONDS:.0f} s",
            f"{median_of(pods):.2f} s (longest {max(pods):.2f} s)",
            max(pods) <= _FIRST_POD_SECONDS,
            {"seconds": pods},
        ),
        Result(
            "operator: API requests of a whole life",
            f"<= {_REQUESTS}",
            f"{each:.1f} ({_LIVES} jobs at once, {seconds:.0f} s)",
            each <= _REQUESTS,
            {"requests": {" ".join(row): count for row, count in lives.items()}},
        ),
        Result(
            f"operator: requests in {_IDLE_SECONDS} s of nothing, watches and the Lease excepted",
            "0",
            str(sum(idle.values())),
            not idle,
            {"requests": {" ".join(row): count for row, count in idle.items()}},
        ),
    ]


def _first_pod(client: Client, space: str, name: str) -> float:
    began = time.monotonic()
    client.create(jobs_path(space), job(name, space))
    query = {"labelSelector": f"halftone.dev/job={name}"}
    while not client.items(pods_path(space), **query):
        time.sleep(_POLL)
    return time.monotonic() - began


def _idle(cluster: ControlPlane, space: str) -> Counter[tuple[str, str]]:
    before = Counter(_asked(cluster, space))
    time.sleep(_IDLE_SECONDS)
    return Counter(_asked(cluster, space)) - before


def _thousand(cluster: ControlPlane, client: Client, folder: Path) -> list[Result]:
    """All at once; then the operator is killed, loses some children, and is started again."""
    space = client.namespace("thousand")
    operator = OperatorProcess(cluster, space, folder / "thousand")
    with operator, KubeletStandIn(cluster, _until_accepted, namespace=space):
        before = _cpu(cluster, operator)
        began = time.monotonic()
        _apply(client, space, [f"job-{number:04}" for number in range(_JOBS)])
        applied = time.monotonic() - began
        accepted = _wait_until(client, space, "Accepted", _JOBS, 1200) - began
        cpu = {name: used - before[name] for name, used in _cpu(cluster, operator).items()}
        client.wait("a worker a job", lambda: len(_named(client, space, "quantize")) == _JOBS, 600)
        memory = operator.memory()
        operator.kill()
        lost = _named(client, space, "quantize")[:20]
        for name in lost:
            client.delete(f"{children_path(space)}/{name}")
        restarted = _restart(client, operator, space)
        memory = max(memory, operator.memory())
    twice = {n: c for n, c in _made(cluster, space).items() if c > 1 + (n in lost)}
    return [
        Result(
            f"operator: {_JOBS} jobs applied at once are accepted",
            f"<= {_ACCEPTED_SECONDS} s",
            f"{accepted:.0f} s (all applied after {applied:.0f} s)",
            accepted <= _ACCEPTED_SECONDS,
            {"seconds": accepted, "cpuSeconds": cpu},
        ),
        Result(
            f"operator: memory with {_JOBS} live jobs",
            f"<= {_MEMORY // 1_000_000} MB",
            f"{memory / 1e6:.0f} MB",
            memory <= _MEMORY,
            {"bytes": memory},
        ),
        Result(
            f"operator: consistent after a restart with {_JOBS} live jobs",
            f"<= {_RESTART_SECONDS} s",
            f"{restarted:.1f} s ({len(lost)} children that were deleted meanwhile are back)",
            restarted <= _RESTART_SECONDS,
            {"seconds": restarted},
        ),
        Result(
            "operator: children made twice, by the audit log",
            "0",
            str(len(twice)),
            not twice,
            {"twice": twice},
        ),
    ]


def _restart(client: Client, operator: OperatorProcess, space: str) -> float:
    """Seconds until every job was looked at and every child is there."""
    began = time.monotonic()
    operator.start()
    operator.wait_ready()
    client.wait("a leader", lambda: _metric(operator, "is_leader") == 1)
    client.wait(
        "all visits",
        lambda: (
            _metric(operator, "reconciles_total") >= _JOBS
            and _metric(operator, "queue_length") == 0
        ),
    )
    client.wait("all children", lambda: len(_named(client, space, "quantize")) == _JOBS)
    return time.monotonic() - began


def _until_accepted(pod: Mapping[str, Any]) -> Answer | None:
    wanted = (ChildStage.Plan, ChildStage.Target)
    return all_well(pod) if stage_of(pod) in wanted else None


def _apply(client: Client, space: str, names: Iterable[str]) -> None:
    with ThreadPoolExecutor(_SENDERS) as pool:
        create: Callable[[str], Any] = lambda name: client.create(  # noqa: E731
            jobs_path(space), job(name, space)
        )
        list(pool.map(create, names))


def _wait_until(client: Client, space: str, condition: str, count: int, seconds: float) -> float:
    """Until so many jobs have a condition; returns when. Lists seldom: a list is work, too."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        rows = client.items(jobs_path(space), resourceVersion="0")
        if sum(condition_of(row, condition).get("status") == "True" for row in rows) >= count:
            return time.monotonic()
        time.sleep(1 + len(rows) / 500)
    raise TimeoutError(f"not all of {count} jobs are {condition} after {seconds:.0f} s")


def _named(client: Client, space: str, stage: str) -> list[str]:
    rows = client.items(children_path(space), labelSelector=f"halftone.dev/stage={stage}")
    living = [row for row in rows if "deletionTimestamp" not in row["metadata"]]
    return [str(row["metadata"]["name"]) for row in living]


def _rows(cluster: ControlPlane, space: str) -> Iterable[dict[str, Any]]:
    """Audited requests of the operator of a namespace."""
    user = f"system:serviceaccount:{space}:halftone"
    with cluster.audit_log.open() as log:
        for line in log:
            if user in line:
                row = json.loads(line)
                if row["user"]["username"] == user:
                    yield row


def _asked(cluster: ControlPlane, space: str) -> Iterable[tuple[str, str]]:
    """(verb, resource) of every request but those of watches and the Lease."""
    for row in _rows(cluster, space):
        about = row.get("objectRef") or {}
        resource = "/".join(
            part for part in (about.get("resource", ""), about.get("subresource")) if part
        )
        if row["verb"] != "watch" and resource != "leases":
            yield row["verb"], resource


def _made(cluster: ControlPlane, space: str) -> Counter[str]:
    return Counter(
        str(row["objectRef"]["name"])
        for row in _rows(cluster, space)
        if row["verb"] == "create"
        and row["objectRef"]["resource"] == "jobs"
        and row["responseStatus"]["code"] == 201
    )


def _metric(operator: OperatorProcess, name: str) -> float:
    """The sum of a metric's samples."""
    wanted = f"halftone_operator_{name}"
    families = text_string_to_metric_families(operator.metrics())
    return sum(one.value for family in families for one in family.samples if one.name == wanted)


def _cpu(cluster: ControlPlane, operator: OperatorProcess) -> dict[str, float]:
    """CPU seconds of every process of the control plane, and of the operator."""
    assert operator.process is not None
    rows = json.loads((cluster.folder / "processes.json").read_text())
    numbers = {name: int(row[0]) for name, row in rows.items()} | {"operator": operator.process.pid}
    return {name: _cpu_of(number) for name, number in numbers.items()}


def _cpu_of(number: int) -> float:
    fields = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS
