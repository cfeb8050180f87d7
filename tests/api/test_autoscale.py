"""`halftone autoscale` and a Deployment: a real API server, and the rights that the chart gives.

We test these aspects:
- it sets the count through the scale subresource, and may do nothing else
- a count that somebody changed in between is not overwritten
- an edit is told as an Event and stands until its note is taken from the Lease
- a HorizontalPodAutoscaler of the same Deployment is seen and left to its work
- of two controllers one acts, and the other goes on where it ended
- as a process it tells its metrics, and gives its Lease back when it is told to end

No pod runs here, so every replica stays one that is starting.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client import CollectorRegistry

from halftone.cli.autoscale_options import connection
from halftone.scaling.acting.api_server import ApiError, ApiServer
from halftone.scaling.acting.controlling import Controller
from halftone.scaling.acting.deciding import Decider
from halftone.scaling.acting.deployment_scale import DeploymentScale
from halftone.scaling.acting.exporting import metrics_in
from halftone.scaling.acting.leading import NOTE, Lease
from halftone.scaling.acting.targets import TargetError
from halftone.scaling.follower import Follower
from halftone.scaling.policy import Settings
from tests.acting_cases import Recorded
from tests.artifacts import capacity_card
from tests.cluster.autoscaled import autoscaled
from tests.cluster.client import Client
from tests.cluster.control_plane import ControlPlane
from tests.fed_endpoints import CAPACITY, STEP_S, Fed
from tests.servers.lasting import Lasting
from tests.servers.ports import free_port

LEAD_S = 120.0


class Scaled:
    """A Deployment of two replicas in a namespace, and the account of its autoscaler."""

    def __init__(self, client: Client, namespace: str, kubeconfig: Path) -> None:
        self.client = client
        self.namespace = namespace
        self.kubeconfig = kubeconfig
        self.api = ApiServer(connection(str(kubeconfig), None))
        self.target = self.target_of("one")
        self.time_s = 0.0

    def target_of(self, identity: str) -> DeploymentScale:
        return DeploymentScale(self.api, self.namespace, "small", identity)

    def lease(self, identity: str) -> Lease:
        return Lease(self.api, self.namespace, "small-autoscale", identity, 60.0)

    def controller(self, identity: str = "one") -> Controller:
        """One that reads of much work on two replicas."""
        fed = Fed(ready=2)
        reader = Recorded([fed.next(200) for _ in range(100)])
        decider = Decider(reader, Follower(CAPACITY, Settings(lead_s=LEAD_S)), LEAD_S)
        metrics = metrics_in(CollectorRegistry(), "model")
        return Controller(self.target_of(identity), decider, metrics, self.lease(identity))

    @property
    def path(self) -> str:
        return f"/apis/apps/v1/namespaces/{self.namespace}/deployments/small"

    @property
    def count(self) -> int:
        return int(self.client.get(self.path)["spec"]["replicas"])

    @property
    def lease_now(self) -> dict[str, Any]:
        place = f"/apis/coordination.k8s.io/v1/namespaces/{self.namespace}/leases"
        return self.client.get(f"{place}/small-autoscale")

    def edit(self, count: int) -> None:
        """As somebody does it with kubectl."""
        self.client.patch(self.path, {"spec": {"replicas": count}})

    def look(self, controller: Controller, times: int = 1) -> Any:
        """The last of some looks that were not refused for a version that had changed."""
        found = None
        for _ in range(times):
            self.time_s += STEP_S
            found = controller.look(self.time_s)
        return found

    def settle(self) -> None:
        """Until the Deployment's controller has written what it thinks of the count."""

        def is_settled() -> bool:
            found = self.client.get(self.path)
            seen = found.get("status", {})
            same = seen.get("replicas") == found["spec"]["replicas"]
            return bool(same and seen["observedGeneration"] == found["metadata"]["generation"])

        self.client.wait("the Deployment's status", is_settled)


@pytest.fixture
def scaled(
    cluster: ControlPlane, client: Client, namespace: str, tmp_path: Path
) -> Iterator[Scaled]:
    """The chart's account, role and binding, and a Deployment by the name of the chart's."""
    account = autoscaled(cluster, client, namespace, tmp_path)
    found = Scaled(client, namespace, account)
    found.settle()
    yield found
    found.api.close()


def test_it_sets_what_is_wanted_with_the_rights_of_the_chart(scaled: Scaled) -> None:
    controller = scaled.controller()
    found = scaled.look(controller, 40)
    assert found.seen.wanted == scaled.count == found.judgement.wanted > 2
    assert found.seen.counts.starting == scaled.count
    assert scaled.lease_now["metadata"]["annotations"] == {NOTE: str(scaled.count)}
    for path in (f"{scaled.path}s", scaled.path.replace("small", "other")):
        with pytest.raises(ApiError, match=r"cannot (list|get) resource"):
            scaled.api.get(path)


def test_a_count_that_changed_in_between_is_not_overwritten(scaled: Scaled) -> None:
    seen = scaled.target.observe()
    scaled.edit(9)
    with pytest.raises(TargetError, match="has changed since it was read"):
        scaled.target.scale(5, seen)
    assert scaled.count == 9


def test_an_edit_is_told_and_stands_until_it_is_cleared(scaled: Scaled) -> None:
    controller = scaled.controller()
    scaled.look(controller, 40)
    scaled.settle()
    scaled.edit(17)
    scaled.settle()
    assert scaled.look(controller, 3).conflict.kind == "Edited"
    assert scaled.count == 17
    events = scaled.client.items(f"/apis/events.k8s.io/v1/namespaces/{scaled.namespace}/events")
    told = [one["note"] for one in events if one["reason"] == "ScalingConflict"]
    assert len(told) == 1
    assert "Somebody set 17 replicas" in told[0]
    lease = scaled.lease_now["metadata"]
    scaled.client.patch(
        f"/apis/coordination.k8s.io/v1/namespaces/{scaled.namespace}/leases/{lease['name']}",
        {"metadata": {"annotations": {NOTE: None}}},
    )
    found = scaled.look(controller)
    assert found.conflict is None
    assert scaled.count == found.judgement.wanted != 17


def test_an_autoscaler_of_kubernetes_is_left_to_its_work(scaled: Scaled) -> None:
    body = {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": "cpu"},
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "small"},
            "minReplicas": 2,
            "maxReplicas": 4,
        },
    }
    place = f"/apis/autoscaling/v2/namespaces/{scaled.namespace}/horizontalpodautoscalers"
    scaled.client.create(place, body)
    found = scaled.look(scaled.controller(), 40)
    assert found.conflict.kind == "Rival"
    assert "HorizontalPodAutoscaler 'cpu'" in found.conflict.sentence
    assert scaled.count == 2


def test_of_two_one_acts_and_the_other_goes_on_where_it_ended(scaled: Scaled) -> None:
    first, second = scaled.controller("one"), scaled.controller("two")
    for _ in range(40):
        assert scaled.look(first).leads
        assert not scaled.look(second).leads
    scaled.settle()
    count = scaled.count
    assert count > 2
    scaled.lease("one").release()  # it holds nothing, and so it gives nothing back
    assert scaled.lease_now["spec"]["holderIdentity"] == "one"
    stop_at_once(first)
    assert scaled.lease_now["spec"]["holderIdentity"] == ""
    scaled.edit(count + 1)
    scaled.settle()
    found = scaled.look(second)
    assert found.leads
    assert found.conflict.kind == "Edited"
    assert f"where {count} were set" in found.conflict.sentence


def stop_at_once(controller: Controller) -> None:
    from threading import Event

    stop = Event()
    stop.set()
    controller.run(3600, stop)


def test_a_process_tells_metrics_and_gives_its_lease_back(scaled: Scaled, tmp_path: Path) -> None:
    card = tmp_path / "card.json"
    card.write_bytes(capacity_card("c" * 64).to_bytes())
    options = {
        "--prometheus": f"http://127.0.0.1:{free_port()}",
        "--model": "model",
        "--card": str(card),
        "--deployment": f"{scaled.namespace}/small",
        "--kubeconfig": str(scaled.kubeconfig),
        "--interval": "1",
    }
    words = (word for option in options.items() for word in option)
    with Lasting("autoscale", *words) as process:
        url = f"http://{process.address}/metrics"
        scaled.client.wait(
            "a held count",
            lambda: 'halftone_scaling_held{model="model"} 1.0' in httpx.get(url).text,
        )
        assert 'halftone_scaling_leader{model="model"} 1.0' in httpx.get(url).text
        assert scaled.lease_now["spec"]["holderIdentity"] != ""
    assert "does not answer" in "".join(process.said)
    assert scaled.lease_now["spec"]["holderIdentity"] == ""
    assert scaled.count == 2
