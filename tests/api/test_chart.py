"""What the chart renders, as a real API server takes it.

We test these aspects:
- every object is accepted, with no field that the API does not know, and without a warning;
- a mistake in a value that is handed on as it is, is refused by the API server;
- what `helm test` runs in its pod succeeds beside an operator that acts, and only then;
- pods of the operator and of `helm test` run where Pod Security enforces "restricted".
"""

import subprocess
import sys
from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import pytest
import yaml

from tests.api.conftest import Start
from tests.cluster.chart import render
from tests.cluster.client import Client, pods_path
from tests.cluster.control_plane import ControlPlane

Object = dict[str, Any]
# All that a value can add, but the ServiceMonitor, whose API this cluster does not have.
ALL = ("--set", "policy.enabled=true,networkPolicy.enabled=true,podDisruptionBudget.enabled=true")
TWO = ("--set", "replicas=2,priorityClassName=system-cluster-critical")
PODS = (
    "--set-json",
    'stages.quantize={"resources":{"limits":{"nvidia.com/gpu":1}},"nodeSelector":{"a":"b"}}',
)
SOME = (
    "--set-json",
    'networkPolicy.from=[{"namespaceSelector":{"matchLabels":{"name":"monitoring"}}}]',
)
BOUNDS = (
    "--set",
    "policy.enabled=true,policy.allowedSecrets={a,b},policy.allowedServiceAccounts={c},"
    "policy.allowedEndpoints={https://s3.test}",
)
EVERYWHERE = ("--set-json", "watchNamespaces=[]", "--set", "serviceAccounts.create=false")


def ask(cluster: ControlPlane, objects: list[Object]) -> str:
    """Apply them without keeping them; returns what the API server warns of."""
    text = yaml.safe_dump_all(objects)
    dry = ("--dry-run=server", "--validate=strict", "--server-side", "--force-conflicts")
    found = cluster.kubectl("apply", *dry, "-f", "-", text=text)
    assert found.count("serverside-applied") == len(objects)
    return found


@pytest.mark.parametrize(
    "options",
    [(), (*ALL, *TWO, *PODS, *SOME), (*EVERYWHERE, *BOUNDS)],
    ids=["as it is", "with all parts", "everywhere, bounded"],
)
def test_the_api_server_takes_all_of_it(
    cluster: ControlPlane, namespace: str, options: tuple[str, ...]
) -> None:
    ask(cluster, render(namespace, *options))


@pytest.mark.parametrize("release", ["r" + "e" * 52, "team-a.quantization"])
def test_every_name_of_a_release_that_helm_takes(
    cluster: ControlPlane, namespace: str, release: str
) -> None:
    ask(cluster, render(namespace, *ALL, *TWO, *SOME, release=release))


def test_several_namespaces(cluster: ControlPlane, client: Client, namespace: str) -> None:
    other = client.namespace(f"{namespace}-b")
    ask(cluster, render(namespace, "--set", f"watchNamespaces={{{namespace},{other}}}"))


def test_a_mistake_in_a_peer_is_refused_by_the_api_server(
    cluster: ControlPlane, namespace: str
) -> None:
    peer = 'networkPolicy.from=[{"podSelecter":{"matchLabels":{"name":"x"}}}]'
    objects = render(namespace, *ALL, *TWO, "--set-json", peer)
    policy = [one for one in objects if one["kind"] == "NetworkPolicy"]
    with pytest.raises(subprocess.SubprocessError, match="podSelecter: field not declared"):
        ask(cluster, policy)


def answers(script: str) -> subprocess.CompletedProcess[str]:
    """Run what the pod of `helm test` runs."""
    command = [sys.executable, "-c", script]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_script_of_helm_test_tells_an_operator_that_acts(
    namespace: str, operator: Start
) -> None:
    (pod,) = (one for one in render(namespace) if one["kind"] == "Pod")
    (script,) = pod["spec"]["containers"][0]["args"]
    acting = operator()
    script = script.replace("http://halftone:8080/metrics", acting.url("/metrics"))
    with acting:
        found = answers(script)
        assert (found.returncode, found.stdout) == (0, "The operator answers, and acts.\n")
    found = answers(script.replace("+ 60", "+ 0"))
    assert found.returncode == 1
    assert "No replica acts. The last answer of http://127.0.0.1" in found.stderr


@pytest.fixture
def restricted(client: Client, namespace: str) -> str:
    """A namespace where Pod Security enforces "restricted", and warns of what it would refuse."""
    modes = ("enforce", "warn")
    labels = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in modes}
    client.patch(f"/api/v1/namespaces/{namespace}", {"metadata": {"labels": labels}})
    return namespace


def pods(objects: list[Object], namespace: str) -> Iterator[Object]:
    """The operator's pod, as its Deployment makes it, and that of `helm test`."""
    for one in objects:
        if one["kind"] == "Deployment":
            metadata = {"name": "operator", "namespace": namespace}
            yield {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": metadata,
                "spec": one["spec"]["template"]["spec"],
            }
        if one["kind"] == "Pod":
            yield one


def make(client: Client, path: str, body: Object) -> tuple[int, str, list[str]]:
    """Ask for an object without keeping it: status, answer, warnings."""
    query = {"dryRun": "All", "fieldValidation": "Strict"}
    answer = client.http.post(path, json=body, params=query)
    return answer.status_code, answer.text, answer.headers.get_list("warning")


def test_pods_are_restricted(client: Client, cluster: ControlPlane, restricted: str) -> None:
    objects = render(restricted)
    accounts = [one for one in objects if one["kind"] == "ServiceAccount"]
    cluster.kubectl("apply", "-f", "-", text=yaml.safe_dump_all(accounts))
    found = list(pods(objects, restricted))
    assert len(found) == 2
    for pod in found:
        status, text, warnings = make(client, pods_path(restricted), pod)
        assert (status, warnings) == (201, []), text
    (deployment,) = (one for one in objects if one["kind"] == "Deployment")
    path = f"/apis/apps/v1/namespaces/{restricted}/deployments"
    assert make(client, path, deployment)[::2] == (201, [])


@pytest.mark.parametrize(
    "field", ["runAsNonRoot", "seccompProfile", "capabilities", "allowPrivilegeEscalation"]
)
def test_pods_with_one_word_less_are_refused(client: Client, restricted: str, field: str) -> None:
    pod = deepcopy(next(pods(render(restricted), restricted)))
    pod["spec"]["serviceAccountName"] = "default"
    for context in (pod["spec"], pod["spec"]["containers"][0]):
        context["securityContext"].pop(field, None)
    status, text, _ = make(client, pods_path(restricted), pod)
    assert status == 403
    assert field in text
