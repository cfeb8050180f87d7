"""From Serve's target to a node with a GPU and back, on a real cluster with simulated nodes.

We test these aspects:
- Ray's head keeps away from a node with a GPU on which it would fit;
- a first replica brings a node where there was none: its pod is pending, a node comes, it is ready;
- a higher target of Serve's makes Ray's autoscaler ask KubeRay for a pod, which brings a node more;
- nothing is on those nodes but replicas and pods of DaemonSets, and no budget protects anything;
- without replicas the pods go, and then the nodes, down to none;
- a replica that is wanted no more before its node has come takes its pod back, and no node comes;
- a replica comes back from no node at all;
- a place that `warmNodes` keeps is taken at once, and another is kept; it keeps one node;
- uninstalling leaves no node.
The tests need their order.

Real are the API server, scheduler and controllers, KubeRay's operator, the chart's objects, Ray's
head with its autoscaler, and Ray on every worker. Not real are the nodes with GPUs: KWOK calls them
and the pods on them ready, and runs nothing, so such a worker alone would never join Ray. A twin on
the real node runs the worker's container in its place (`tests/cluster/worker_twins.py`). The cloud
is `tests/cluster/node_pool.py`, and replicas are those of `tests/peers/pool_application.py`. How
long a cloud takes is not tested here.
"""

import json
from itertools import pairwise

import pytest

from tests.cluster.client import Object, pods_path
from tests.cluster.endpoint_chart import ray_service, templates
from tests.cluster.node import NAME as REAL_NODE
from tests.cluster.node_pool import node, owners
from tests.nodepools.conftest import EMPTY_S, IDLE_S
from tests.nodepools.scene import GROUP, NAMESPACE, NO_NODE, SERVE, Scene, ready_on


def test_the_head_keeps_away_from_nodes_with_gpus(scene: Scene, objects: list[Object]) -> None:
    own = templates(ray_service(objects))["head"]["spec"]
    scene.pool.in_stock = False
    # Nothing but the chart keeps a pod from there: the node has no taint, and more room.
    scene.client.create("/api/v1/nodes", node("gpu-open", taints=()))
    scene.client.wait("the open node", lambda: scene.ready_nodes() == ["gpu-open"])
    keys = ("affinity", "nodeSelector", "tolerations")
    like_the_head = {key: own[key] for key in keys if key in own}
    pods = {"like-the-head": like_the_head, "like-others": {}}
    found = {name: lands(scene, name, spec) for name, spec in pods.items()}
    scene.tell("a node with a GPU and no taint", f"pods land on {found}")
    assert found == {"like-the-head": REAL_NODE, "like-others": "gpu-open"}
    for name in found:
        scene.client.delete(f"{pods_path(NAMESPACE)}/{name}")
    scene.wait("the end of the open node", lambda: not scene.nodes())
    scene.pool.in_stock = True


def test_a_first_replica_brings_a_node(scene: Scene, objects: list[Object]) -> None:
    mark = len(scene.events)
    apply(scene, objects)
    scene.tell("the chart", "applied, for 1 replica")
    scene.wait("a replica", lambda: scene.running() == 1)
    assert_brought(scene, mark, running=1)
    assert scene.head()["spec"]["nodeName"] == REAL_NODE


def test_a_higher_target_brings_another_node(scene: Scene) -> None:
    mark = scene.set_target(2)
    scene.wait("another replica", lambda: scene.running() == 2)
    assert scene.at(mark, f"{SERVE}'s target", "2") <= scene.at(mark, GROUP, "2 pods")
    assert_brought(scene, mark, running=2, group=2)
    assert len(scene.nodes()) == len(scene.workers()) == 2


def test_nothing_but_replicas_holds_a_node(scene: Scene) -> None:
    nodes = scene.nodes()
    kinds = {name: sorted(kind for pod in scene.on(name) for kind in owners(pod)) for name in nodes}
    scene.tell("owners of pods on nodes with GPUs", str(kinds))
    assert nodes
    assert all(found == ["DaemonSet", "RayCluster"] for found in kinds.values())
    assert scene.client.items("/apis/policy/v1/poddisruptionbudgets") == []
    assert scene.cluster.get("deployments", "-n", NAMESPACE)["items"] == []


def test_without_replicas_no_node_is_left(scene: Scene) -> None:
    nodes, workers = scene.nodes(), [one["metadata"]["name"] for one in scene.workers()]
    mark = scene.set_target(0)
    scene.wait("no node", lambda: not scene.nodes())
    stopped = scene.at(mark, SERVE, "0 running")
    group = scene.at(mark, GROUP, "0 pods")
    pods = max(scene.at(mark, f"pod {name}", "gone") for name in workers)
    gone = max(scene.at(mark, f"node {name}", "gone") for name in nodes)
    assert stopped + IDLE_S * 0.9 <= group <= pods <= gone
    assert len(nodes) == len(workers) == 2


def test_a_replica_that_is_wanted_no_more_brings_no_node(scene: Scene) -> None:
    scene.pool.in_stock = False
    scene.tell("the cloud", "has no GPU left")
    mark = scene.set_target(1)
    scene.wait("a pod without a node", lambda: bool(scene.subjects(mark, "pod", NO_NODE)))
    scene.set_target(0)
    (pod,) = scene.subjects(mark, "pod", NO_NODE)
    scene.wait("its end", lambda: (pod, "gone") in [event[1:] for event in scene.events[mark:]])
    scene.pool.in_stock = True
    scene.tell("the cloud", "has GPUs again")
    since = scene.events[-1].at
    with pytest.raises(TimeoutError):
        scene.wait("a node for nobody", lambda: bool(scene.nodes()), seconds=3 * EMPTY_S)
    assert not scene.workers()
    assert scene.at(mark, pod, "gone") <= since


def test_a_replica_comes_back_from_no_node(scene: Scene) -> None:
    mark = scene.set_target(1)
    scene.wait("a replica", lambda: scene.running() == 1)
    assert_brought(scene, mark, running=1, group=1)


def test_a_warm_node_is_taken_at_once_and_another_comes(
    scene: Scene, warm_objects: list[Object]
) -> None:
    mark = len(scene.events)
    apply(scene, warm_objects)
    scene.tell("the chart", "applied, with a warm node")
    scene.wait("a warm node", lambda: len(scene.ready_on_pool("warm")) == 1)
    (warm,) = scene.ready_on_pool("warm")
    (taken,) = scene.subjects(mark, "node", "there")
    ready = ready_on(taken.removeprefix("node "))
    mark = scene.set_target(2)
    scene.wait("another replica", lambda: scene.running() == 2)
    scene.wait("another warm node", lambda: scene.ready_on_pool("warm") not in ([], [warm]))
    (worker,) = scene.subjects(mark, "pod", ready)
    (another,) = scene.subjects(mark, "node", "there")
    assert worker.removeprefix("pod ") in {one["metadata"]["name"] for one in scene.workers()}
    assert scene.at(mark, worker, ready) <= scene.at(mark, another, "there")
    assert len(scene.nodes()) == 3


def test_uninstalling_leaves_no_node(scene: Scene, warm_objects: list[Object]) -> None:
    text = json.dumps({"apiVersion": "v1", "kind": "List", "items": warm_objects})
    scene.cluster.kubectl("delete", "--wait=false", "-f", "-", text=text)
    scene.tell("the chart", "deleted")
    scene.wait("no pod and no node", lambda: not scene.pods() and not scene.nodes())


def apply(scene: Scene, objects: list[Object]) -> None:
    """As Helm would, without its hooks."""
    text = json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
    scene.cluster.kubectl("apply", "-f", "-", text=text)


def assert_brought(scene: Scene, mark: int, *, running: int, group: int | None = None) -> None:
    """Since `mark` one pod was pending, one node came, the pod was ready there, its replica ran."""
    (pod,) = scene.subjects(mark, "pod", NO_NODE)
    (name,) = scene.subjects(mark, "node", "there")
    steps = [
        scene.at(mark, pod, NO_NODE),
        scene.at(mark, name, "there"),
        scene.at(mark, pod, ready_on(name.removeprefix("node "))),
        scene.at(mark, SERVE, f"{running} running"),
    ]
    if group is not None:
        steps.insert(0, scene.at(mark, GROUP, f"{group} pods"))
    assert all(one <= other for one, other in pairwise(steps)), steps


def lands(scene: Scene, name: str, spec: Object) -> str:
    """Where the scheduler puts a pod that asks for little."""
    container = {"name": "pause", "image": "localhost/pause:1", "imagePullPolicy": "Never"}
    container_list = [{**container, "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}}}]
    body = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {**spec, "containers": container_list, "terminationGracePeriodSeconds": 0},
    }
    scene.client.create(pods_path(NAMESPACE), body)
    path = f"{pods_path(NAMESPACE)}/{name}"
    scene.client.wait(name, lambda: "nodeName" in scene.client.get(path)["spec"])
    where: str = scene.client.get(path)["spec"]["nodeName"]
    return where
