"""What the chart `halftone-monitoring` renders, as a real API server takes it.

We test these aspects:
- every object is accepted with no field that the API does not know, whatever the doctor is told;
- Pod Security "restricted" admits the doctor's pod and that of `helm test`, without a warning, and
  neither with a word less.

PrometheusRules and PodMonitors are left out, for this cluster has no Prometheus operator.
"""

from collections.abc import Iterator
from copy import deepcopy

import pytest
import yaml

from tests.cluster.client import Client, pods_path
from tests.cluster.control_plane import ControlPlane
from tests.cluster.monitoring_chart import DOCTOR, WHOLE, Object, pod_specs, render

FOREIGN = ("PrometheusRule", "PodMonitor")


@pytest.fixture
def restricted(client: Client, namespace: str) -> str:
    """A namespace where Pod Security enforces "restricted", and warns of what it would refuse."""
    labels = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn")}
    client.patch(f"/api/v1/namespaces/{namespace}", {"metadata": {"labels": labels}})
    return namespace


@pytest.mark.parametrize("options", [(), DOCTOR, WHOLE], ids=["without", "doctor", "whole"])
def test_the_api_server_takes_all_of_it(
    cluster: ControlPlane, restricted: str, options: tuple[str, ...]
) -> None:
    objects = [one for one in render(restricted, *options) if one["kind"] not in FOREIGN]
    found = cluster.kubectl(
        *("apply", "--dry-run=server", "--validate=strict", "--server-side", "-f", "-"),
        text=yaml.safe_dump_all(objects),
    )
    assert found.count("serverside-applied") == len(objects)
    assert "Warning" not in found


def made(client: Client, namespace: str, pod: Object) -> tuple[int, str, list[str]]:
    """Ask for a pod without keeping it: status, answer, warnings."""
    query = {"dryRun": "All", "fieldValidation": "Strict"}
    answer = client.http.post(pods_path(namespace), json=pod, params=query)
    return answer.status_code, answer.text, answer.headers.get_list("warning")


def pods(namespace: str, *options: str) -> Iterator[Object]:
    """Both pods, as they would be made."""
    for name, pod in pod_specs(render(namespace, *options)).items():
        metadata = {"name": name, "namespace": namespace}
        yield {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": pod["spec"]}


@pytest.mark.parametrize("options", [DOCTOR, WHOLE], ids=["doctor", "whole"])
def test_pods_are_restricted(client: Client, restricted: str, options: tuple[str, ...]) -> None:
    for pod in pods(restricted, *options):
        status, text, warnings = made(client, restricted, pod)
        assert (status, warnings) == (201, []), text


@pytest.mark.parametrize("field", ["seccompProfile", "capabilities", "allowPrivilegeEscalation"])
def test_pods_with_one_word_less_are_refused(client: Client, restricted: str, field: str) -> None:
    for pod in map(deepcopy, pods(restricted, *DOCTOR)):
        for context in (pod["spec"], pod["spec"]["containers"][0]):
            context["securityContext"].pop(field, None)
        status, text, _ = made(client, restricted, pod)
        assert (status, field in text) == (403, True), text
