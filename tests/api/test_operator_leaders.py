"""Two replicas of the operator on a real API server: who acts, and who begins when.

We test these aspects:
- one of two replicas acts; the other is ready, and does nothing
- SIGTERM hands over at once: the Lease is given back before the process has ended
- SIGKILL hands over once the Lease's time is over, and not before
- a leader that is cut off from its Lease stops before another begins, though it could still write
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime, timedelta

from tests.api.conftest import Start
from tests.cluster.answers import all_well, job
from tests.cluster.client import Client, Object, condition_of, jobs_path
from tests.cluster.control_plane import ControlPlane
from tests.cluster.kubelet_stand_in import KubeletStandIn
from tests.cluster.operator_process import OperatorProcess
from tests.doubles.api_proxy import ApiProxy


@contextmanager
def _running(process: OperatorProcess) -> Iterator[OperatorProcess]:
    """One replica; a test may end it."""
    process.start()
    try:
        process.wait_ready()
        yield process
    finally:
        if process.process is not None and process.process.poll() is None:
            process.kill()


def _leads(process: OperatorProcess) -> bool:
    return "halftone_operator_is_leader 1.0" in process.metrics()


def _lease(client: Client, namespace: str) -> Object:
    path = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases/halftone"
    spec: Object = client.get(path)["spec"]
    return spec


def _wait_leads(client: Client, process: OperatorProcess) -> None:
    client.wait("a leader", lambda: _leads(process))


def test_sigterm_hands_over_at_once(client: Client, namespace: str, operator: Start) -> None:
    with _running(operator()) as first:
        _wait_leads(client, first)
        with _running(operator()) as second:
            holder = _lease(client, namespace)["holderIdentity"]
            assert not _leads(second)
            first.stop()
            assert _lease(client, namespace)["holderIdentity"] != holder
            _wait_leads(client, second)


def test_sigkill_hands_over_when_the_time_is_over(
    client: Client, namespace: str, operator: Start
) -> None:
    with _running(operator()) as first:
        _wait_leads(client, first)
        with _running(operator()) as second:
            first.kill()
            former = _lease(client, namespace)
            _wait_leads(client, second)
    now = _lease(client, namespace)
    assert now["holderIdentity"] != former["holderIdentity"]
    assert now["leaseTransitions"] == former["leaseTransitions"] + 1
    held = timedelta(seconds=former["leaseDurationSeconds"])
    assert _time(now["acquireTime"]) - _time(former["renewTime"]) >= held


def test_a_cut_off_leader_stops_before_another_begins(
    cluster: ControlPlane, client: Client, namespace: str, operator: Start
) -> None:
    with ExitStack() as stack:
        ways = [
            stack.enter_context(ApiProxy(cluster.url, cluster.authority.folder)) for _ in range(2)
        ]
        first = stack.enter_context(_running(operator(server=ways[0].url)))
        _wait_leads(client, first)
        second = stack.enter_context(_running(operator(server=ways[1].url)))
        stack.enter_context(KubeletStandIn(cluster, all_well, namespace=namespace))
        ways[0].block("/leases")
        # The old leader has something to do all the time, and everything but its Lease works.
        made: list[str] = []

        def goes_on() -> bool:
            last = client.job(namespace, made[-1]) if made else {}
            if not made or condition_of(last, "Succeeded").get("status") == "True":
                made.append(f"job-{len(made):03}")
                client.create(jobs_path(namespace), job(made[-1], namespace))
            return first.process is not None and first.process.poll() is not None

        client.wait("the end of the old leader", goes_on)
        _wait_leads(client, second)
        client.create(jobs_path(namespace), job("last", namespace))
        for name in (*made, "last"):
            client.wait_for(namespace, name, "Succeeded", "True")
    wrote = [[seen.at for seen in way.seen if seen.is_write] for way in ways]
    assert max(wrote[0]) < min(wrote[1])


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)
