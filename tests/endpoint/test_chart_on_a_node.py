"""The chart's RayService on a real node: KubeRay's operator, Ray, vLLM for CPUs, real probes.

We test these aspects:
- head and replica become ready under Pod Security "restricted", with Ray's token authentication,
  and OpenAI's client has its chat answered through the Service; without the key it has not;
- `helm test` succeeds;
- another replica gets a pod of its own: Ray's autoscaler has the token that the chart gives it;
- a pod that is deleted finishes every stream that it carries, and another takes its place;
- another artifact takes the first one's place without a failed request;
- uninstalling leaves no pod and no object behind, soon.
The tests need their order. Not tested here: GPUs, and NetworkPolicies, which this node's network
does not enforce.
"""

import openai
import pytest

from tests.cluster.client import Object
from tests.cluster.kuberay import RAY_API
from tests.endpoint.release import LENGTH, NAME, NAMESPACE, Release, chat

STREAMS, TOKENS = 40, LENGTH - 100
LEAVING = "import halftone.serve.leaving as l; print(l.requests())"


def test_pods_become_ready_and_a_chat_is_answered(release: Release) -> None:
    release.install("first", 1)
    (head,) = release.ready("head")
    (replica,) = release.ready("replica")
    assert [one["name"] for one in head["spec"]["containers"]] == ["ray-head", "autoscaler"]
    for pod in (head, replica):
        told = {one["name"]: one.get("value") for one in pod["spec"]["containers"][0]["env"]}
        assert told["RAY_AUTH_MODE"] == "token"
        assert all(row["restartCount"] == 0 for row in pod["status"]["containerStatuses"])
    with release.asking() as client:
        answer = chat(client)
        release.tell(f"a chat is answered: {answer!r}")
        assert answer
        with pytest.raises(openai.AuthenticationError):
            chat(client.with_options(api_key="another"))
    release.tell("without the key it is not")


def test_helms_own_test_succeeds(release: Release) -> None:
    assert "Succeeded" in release.helm("test", NAME)
    release.tell("helm test succeeds")


def test_the_autoscaler_brings_a_pod_for_another_replica(release: Release) -> None:
    with release.asked_all_the_while() as answers:
        release.install("first", 2)
    release.tell(f"{len(answers)} chats meanwhile, of which {len(failed(answers))} failed")
    assert failed(answers) == []
    assert len(release.ready("replica")) == 2
    (cluster,) = clusters(release)
    assert cluster["spec"]["workerGroupSpecs"][0]["replicas"] == 2


def test_a_deleted_pod_finishes_what_it_streams(release: Release) -> None:
    release.install("first", 2)
    first, *_ = release.ready("replica")
    name = first["metadata"]["name"]
    with release.asked_all_the_while() as answers:
        with release.streams(STREAMS, TOKENS) as streams:
            release.wait("streams", lambda: sum(one.events > 0 for one in streams) >= 12)
            release.client.delete(f"/api/v1/namespaces/{NAMESPACE}/pods/{name}")
            carried = int(kubectl_exec(release, name, LEAVING))
            running = [one for one in streams if one.finish is None and one.error is None]
            release.tell(f"{name} is deleted, and carries {carried} requests")
        release.tell(f"{sum(one.whole for one in streams)} of {STREAMS} streams came whole")
        gone = f"/api/v1/namespaces/{NAMESPACE}/pods/{name}"
        release.wait("the end of the pod", lambda: release.client.find(gone) is None)
        release.wait("another pod", lambda: len(release.ready("replica")) >= 2)
    release.tell(f"{len(answers)} chats meanwhile, of which {len(failed(answers))} failed")
    assert carried > 0
    assert running
    assert [one for one in streams if not one.whole] == []
    assert failed(answers) == []


def test_another_artifact_takes_over_without_a_failed_request(release: Release) -> None:
    release.install("first", 1)
    with release.asked_all_the_while() as answers:
        release.install("second", 1)
    release.tell(f"{len(answers)} chats meanwhile, of which {len(failed(answers))} failed")
    assert failed(answers) == []
    assert len(clusters(release)) == 1


def test_uninstalling_leaves_nothing(release: Release) -> None:
    own = set(objects(release))
    release.uninstall()
    left = objects(release)
    assert {"ServiceAccount/default", "Secret/clients", "ConfigMap/signer"} <= set(left)
    assert own > set(left)
    assert [one for one in left if NAME in one] == []
    assert clusters(release) == []


def failed(answers: list[str]) -> list[str]:
    """What the chats that failed say; that none was tried is a failure too."""
    return [one for one in answers if one] if answers else ["no chat was tried"]


def clusters(release: Release) -> list[Object]:
    """Clusters of Ray that KubeRay has made."""
    return release.client.items(f"{RAY_API}/namespaces/{NAMESPACE}/rayclusters")


def kubectl_exec(release: Release, pod: str, code: str) -> str:
    """What Python says in a replica's container."""
    command = ("exec", "-n", NAMESPACE, pod, "-c", "ray-worker", "--", "python", "-c", code)
    return release.cluster.kubectl(*command)


def objects(release: Release) -> list[str]:
    """Kinds and names of whatever a release could leave in the namespace."""
    kinds = (
        "pods,services,serviceaccounts,roles,rolebindings,secrets,configmaps,networkpolicies,"
        "poddisruptionbudgets,deployments,jobs,persistentvolumeclaims,rayservices,rayclusters"
    )
    found = release.cluster.get(kinds, "-n", NAMESPACE)["items"]
    return [f"{one['kind']}/{one['metadata']['name']}" for one in found]
