"""What the chart `halftone-endpoint` renders, as a real API server and KubeRay's operator take it.

We test these aspects:
- the API server takes every object of every variant, without a warning, KubeRay's CRDs included;
- Pod Security "restricted" admits every pod, those that KubeRay adds its own containers to as well;
- a RayService becomes a RayCluster, a head and pods of replicas: placement, GPUs, environment,
  probes, the token of Ray and that of the autoscaler, and Services that find the pods;
- another artifact, or another number of replicas, leaves the cluster; another image makes another;
- a name that KubeRay does not take is one that the chart refuses, and no shorter one is.
"""

from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from halftone.serve.ray_environment import environment
from tests.cluster.client import Client, pods_path
from tests.cluster.control_plane import ControlPlane
from tests.cluster.endpoint_chart import endpoint_of, of_kind, render, variables
from tests.cluster.endpoint_variants import VARIANTS
from tests.cluster.kuberay import RAY_API, Visits, operator
from tools.servers import gateway_definitions

Object = dict[str, Any]
WHOLE = (
    *("--set", "gateway.enabled=true,gateway.parentRefs[0].name=public,replicas=4"),
    *("--set", "podDisruptionBudget.enabled=true,gateway.hostnames={models.test}"),
    *("--set", "ray.gcsFaultTolerance.redisAddress=redis:6379,tensorParallel=8"),
    *("--set", "ray.gcsFaultTolerance.passwordSecretName=redis,pipelineParallel=2"),
    *("--set", "credentials.s3.secretName=s3,credentials.huggingFace.secretName=hub"),
    *("--set", "cache.type=PersistentVolumeClaim,cache.claimName=weights"),
    *("--set", "worker.nodeSelector.pool=blackwell,modes={multimodal,tools}"),
    *("--set-json", 'networkPolicy.monitoring=[{"namespaceSelector":{}}]'),
    *("--set-json", 'networkPolicy.clients=[{"podSelector":{}}]'),
    *("--api-versions", "gateway.networking.k8s.io/v1"),
)


@pytest.fixture(scope="module")
def visits(cluster: ControlPlane) -> Iterator[Visits]:
    """KubeRay's operator at work, and the Gateway API's definitions."""
    gateway = [word for path in gateway_definitions() for word in ("-f", str(path))]
    cluster.kubectl("apply", "--server-side", *gateway)
    with operator(cluster) as found:
        yield found


@pytest.fixture
def ray(cluster: ControlPlane, visits: Visits) -> ControlPlane:
    """The cluster, with KubeRay's operator."""
    assert visits() >= 0
    return cluster


@pytest.fixture
def restricted(client: Client, namespace: str) -> str:
    """A namespace where Pod Security enforces "restricted", and warns of what it would refuse."""
    labels = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn")}
    client.patch(f"/api/v1/namespaces/{namespace}", {"metadata": {"labels": labels}})
    return namespace


def apply(cluster: ControlPlane, objects: list[Object], *words: str) -> str:
    kept = [one for one in objects if "helm.sh/hook" not in one["metadata"].get("annotations", {})]
    text = yaml.safe_dump_all(kept)
    return cluster.kubectl(
        "apply", "--validate=strict", "--server-side", *words, "-f", "-", text=text
    )


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_api_server_takes_all_of_it(
    ray: ControlPlane, client: Client, restricted: str, variant: str
) -> None:
    rendered = render(restricted, *VARIANTS[variant])
    # What is for another namespace needs that, and this cluster has no Prometheus operator.
    objects = [
        one
        for one in rendered
        if one["kind"] != "PodMonitor"
        and one["metadata"].get("namespace", restricted) == restricted
    ]
    found = ray.kubectl(
        *("apply", "--dry-run=server", "--validate=strict", "--server-side", "-f", "-"),
        text=yaml.safe_dump_all(objects),
    )
    assert found.count("serverside-applied") == len(objects)
    for one in of_kind(objects, "Deployment") + of_kind(objects, "Pod"):
        plural, group = (
            ("pods", "/api/v1") if one["kind"] == "Pod" else ("deployments", "/apis/apps/v1")
        )
        answer = client.http.post(
            f"{group}/namespaces/{restricted}/{plural}", json=one, params={"dryRun": "All"}
        )
        assert (answer.status_code, answer.headers.get_list("warning")) == (201, []), answer.text


def clusters(client: Client, namespace: str) -> list[Object]:
    return client.items(f"{RAY_API}/namespaces/{namespace}/rayclusters")


def pods_of(client: Client, namespace: str) -> dict[str, list[Object]]:
    """Pods that KubeRay has made, by their component."""
    found: dict[str, list[Object]] = {"head": [], "replica": []}
    for pod in client.items(pods_path(namespace)):
        found[pod["metadata"]["labels"]["app.kubernetes.io/component"]].append(pod)
    return found


def started(ray: ControlPlane, client: Client, namespace: str, *options: str) -> list[Object]:
    """Apply the chart, and wait until KubeRay has made all pods; returns what was applied."""
    objects = render(namespace, *options)
    apply(ray, objects)
    group = objects_group(objects)
    client.wait(
        "pods of the RayService",
        lambda: list(map(len, pods_of(client, namespace).values())) == [1, group["replicas"]],
        60,
    )
    return objects


def objects_group(objects: list[Object]) -> Object:
    (service,) = of_kind(objects, "RayService")
    group: Object = service["spec"]["rayClusterConfig"]["workerGroupSpecs"][0]
    return group


def test_a_ray_service_becomes_pods_of_a_restricted_namespace(
    ray: ControlPlane, client: Client, restricted: str
) -> None:
    objects = started(ray, client, restricted, *WHOLE)
    (cluster,) = clusters(client, restricted)
    found = pods_of(client, restricted)
    (head,) = found["head"]
    assert len(found["replica"]) == 8  # two stages of each of four replicas
    wanted = environment(endpoint_of(objects))
    for pod in (head, *found["replica"]):
        container = pod["spec"]["containers"][0]
        assert wanted.items() <= variables(container).items()
        assert container["env"] == [*{one["name"]: one for one in container["env"]}.values()]
        assert container["livenessProbe"]["httpGet"]["path"] == "/api/healthz"
        assert "exec" not in container["readinessProbe"]
        told = {one["name"]: one.get("valueFrom") for one in container["env"]}
        ref = told["RAY_AUTH_TOKEN"]["secretKeyRef"]
        assert (ref["name"], ref["key"]) == (cluster["metadata"]["name"], "auth_token")
    for pod in found["replica"]:
        _is_a_replica(pod)
    _is_the_head(head)
    _services_find(client, restricted, head, found["replica"][0])


def _is_a_replica(pod: Object) -> None:
    spec, container = pod["spec"], pod["spec"]["containers"][0]
    (term,) = spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"][
        "nodeSelectorTerms"
    ]
    assert term["matchExpressions"] == [
        {"key": "nvidia.com/gpu.compute.major", "operator": "In", "values": ["10", "12"]}
    ]
    assert spec["nodeSelector"] == {"pool": "blackwell"}
    assert {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"} in spec[
        "tolerations"
    ]
    assert container["resources"]["limits"] == {"nvidia.com/gpu": "8"}
    assert "--num-gpus=8" in " ".join(container["args"])
    assert spec["terminationGracePeriodSeconds"] == 990
    assert container["readinessProbe"]["httpGet"] == {
        "path": "/-/healthz", "port": 8000, "scheme": "HTTP"
    }  # fmt: skip
    assert {"VLLM_API_KEY", "HF_TOKEN"} <= {one["name"] for one in container["env"]}
    assert spec["automountServiceAccountToken"] is False
    assert "token" not in {one["name"] for one in spec["volumes"]}
    memory = {one["name"]: one["emptyDir"] for one in spec["volumes"] if "emptyDir" in one}
    assert memory["shm"] == {"medium": "Memory", "sizeLimit": "16Gi"}
    assert "shared-mem" not in memory


def _is_the_head(pod: Object) -> None:
    ray, autoscaler = pod["spec"]["containers"]
    assert "--num-cpus=0" in " ".join(ray["args"])
    assert "nvidia.com/gpu" not in ray["resources"].get("limits", {})
    assert not {"VLLM_API_KEY", "HF_TOKEN"} & {one["name"] for one in ray["env"]}
    token = "/var/run/secrets/kubernetes.io/serviceaccount"
    assert token in {one["mountPath"] for one in autoscaler["volumeMounts"]}
    assert token not in {one["mountPath"] for one in ray["volumeMounts"]}
    names = {one["name"]: one.get("value") for one in ray["env"]}
    assert names["RAY_REDIS_ADDRESS"] == "redis:6379"
    assert "REDIS_PASSWORD" in names
    assert names["RAY_enable_autoscaler_v2"] == "true"


def _services_find(client: Client, namespace: str, head: Object, replica: Object) -> None:
    """KubeRay's Service of the head chooses the head, by labels that KubeRay sets."""
    services = client.items(f"/api/v1/namespaces/{namespace}/services")
    of_head = [one for one in services if one["metadata"]["name"].endswith("-head-svc")]
    assert of_head
    for service in of_head:
        assert service["spec"]["selector"].items() <= head["metadata"]["labels"].items()
        assert not service["spec"]["selector"].items() <= replica["metadata"]["labels"].items()


def test_another_artifact_or_number_is_no_other_cluster_but_another_image_is(
    ray: ControlPlane, client: Client, namespace: str, visits: Visits
) -> None:
    started(ray, client, namespace)
    (first,) = clusters(client, namespace)
    # The bound of a running cluster, which KubeRay does not change.
    assert first["spec"]["workerGroupSpecs"][0]["maxReplicas"] == 64

    def makes(count: int, *options: str) -> None:
        """KubeRay has looked at the changed service, and there are so many clusters."""
        apply(ray, render(namespace, *options), "--force-conflicts")
        before = visits()
        client.wait("KubeRay's visits", lambda: visits() >= before + 2)
        # Visits of other services count too, so a cluster that is to come may not be there yet.
        client.wait(f"{count} clusters", lambda: len(clusters(client, namespace)) >= count)
        assert len(clusters(client, namespace)) == count

    other = ("--set", "artifact.uri=s3://models/other,modes={tools},maxModelLen=4096")
    makes(1, *other)
    makes(1, *other, "--set", "replicas=3")
    makes(2, *other, "--set", "replicas=3,worker.maxPods=65")
    makes(3, *other, "--set", "replicas=3,worker.maxPods=65,image.tag=next")


@pytest.mark.parametrize(("letters", "taken"), [(47, True), (48, False)])
def test_the_longest_name_is_the_one_of_kuberay(
    ray: ControlPlane, client: Client, namespace: str, letters: int, taken: bool
) -> None:
    name = "a" * letters
    (service,) = of_kind(render(namespace), "RayService")
    service["metadata"]["name"] = name
    service["spec"]["rayClusterConfig"]["headGroupSpec"]["template"]["spec"].pop(
        "serviceAccountName"
    )
    apply(ray, [service])
    events = f"/api/v1/namespaces/{namespace}/events"
    client.wait(
        "what KubeRay makes of the name",
        lambda: (
            bool(clusters(client, namespace))
            or any("InvalidRayServiceMetadata" in one["reason"] for one in client.items(events))
        ),
    )
    assert bool(clusters(client, namespace)) is taken
    if taken:
        assert render(namespace, release=name)
    else:
        with pytest.raises(RuntimeError, match="takes no RayService whose name has more than 47"):
            render(namespace, release=name)
