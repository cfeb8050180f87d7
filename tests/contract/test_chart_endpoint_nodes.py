"""What the endpoint's chart says to whoever adds and removes nodes with GPUs.

We test these aspects:
- a worker's pod waits for a node of the pool that `make e2e-nodes` has, and for no node of another
  GPU, or of a pool that it does not tolerate;
- Ray's head prefers nodes without GPUs, unless replicas compute on CPUs;
- a pod that waits for a node and is wanted no more goes, whatever becomes of one that is idle;
- no budget and no placeholder is there unless a value asks for it.
That Kubernetes, KubeRay and Ray do what these say is seen in `tests/nodepools`, by hand.
"""

from typing import Any

import pytest

from tests.cluster.endpoint_chart import Object, of_kind, ray_service, render, templates
from tests.cluster.node_pool import waits_for_a_node

NAMESPACE = "models"
IN_VAIN = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}


def worker(*options: str) -> Object:
    """A pod of the worker group, for which the scheduler has looked in vain."""
    template = templates(ray_service(render(NAMESPACE, *options)))["replica"]
    return {**template, "status": {"phase": "Pending", "conditions": [IN_VAIN]}}


def test_a_worker_waits_for_a_node_of_the_pool() -> None:
    assert waits_for_a_node(worker())
    scheduled: dict[str, Any] = {**worker(), "status": {"phase": "Pending"}}
    assert not waits_for_a_node(scheduled)


@pytest.mark.parametrize(
    "option",
    ['worker.computeMajor=["9"]', "worker.tolerations=[]", 'worker.nodeSelector={"pool":"other"}'],
)
def test_a_worker_for_other_nodes_does_not(option: str) -> None:
    assert not waits_for_a_node(worker("--set-json", option))


def test_a_worker_with_more_gpus_than_a_node_has_does_not() -> None:
    assert not waits_for_a_node(worker("--set", "tensorParallel=8"))


def test_the_head_prefers_nodes_without_gpus() -> None:
    head = templates(ray_service(render(NAMESPACE)))["head"]["spec"]
    (preferred,) = head["affinity"]["nodeAffinity"][
        "preferredDuringSchedulingIgnoredDuringExecution"
    ]
    (rule,) = preferred["preference"]["matchExpressions"]
    assert rule == {"key": "nvidia.com/gpu.compute.major", "operator": "DoesNotExist"}


def test_the_head_of_an_endpoint_on_cpus_goes_anywhere() -> None:
    rendered = render(NAMESPACE, "--set", "accelerator=CPU")
    assert "affinity" not in templates(ray_service(rendered))["head"]["spec"]


def test_a_pod_that_waits_in_vain_goes() -> None:
    rendered = render(NAMESPACE, "--set", "ray.idleTimeoutSeconds=90")
    told = ray_service(rendered)["spec"]["rayClusterConfig"]["autoscalerOptions"]
    variables = {one["name"]: one["value"] for one in told["env"]}
    assert told["idleTimeoutSeconds"] == 90
    assert variables["RAY_AUTOSCALER_PENDING_NODE_IDLE_TIMEOUT_S"] == "300"


def test_nothing_keeps_a_node_unasked() -> None:
    rendered = render(NAMESPACE)
    assert of_kind(rendered, "PodDisruptionBudget") == of_kind(rendered, "Deployment") == []
    (kept,) = of_kind(render(NAMESPACE, "--set", "warmNodes=1"), "Deployment")
    assert kept["spec"]["replicas"] == 1
