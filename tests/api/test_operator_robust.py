"""An operator among people who make things that it did not expect, on a real API server.

We test these aspects:
- a namespace whose Role is lost is named, and the others are served; given back, it is served too
- a foreign pod with our label ends nothing
- an object that was made with our finalizer in it goes when it is deleted
- a webhook that does not answer is told as `PodsRefused`
- a replica that is late cleans up after no job that another one has let go
"""

import asyncio
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from halftone.control.reconciling import reconcile
from halftone.control.settings import Settings
from halftone.spec.cluster import FINALIZER, JOB_LABEL, ChildStage
from halftone.telemetry.operator import OperatorMetrics
from operators.quantizationjob.api import Api, ApiError
from operators.quantizationjob.apply import Applier
from operators.quantizationjob.observe import Observer
from operators.quantizationjob.reading import Key
from tests.api.world import World, stops
from tests.cluster.answers import all_well, job
from tests.cluster.chart import install_rights
from tests.cluster.client import Client, jobs_path, pods_path
from tests.cluster.control_plane import ControlPlane
from tests.cluster.kubelet_stand_in import KubeletStandIn
from tests.cluster.operator_process import OperatorProcess
from tests.unwatched import unwatched

_LOST = "robust-lost"
_WEBHOOKS = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations"
_STAGES = ("Plan", "Calibrate", "Quantize", "Validate", "Publish")
_SETTINGS = Settings.model_validate({"stages": {one: {"image": "i"} for one in _STAGES}})
_OPTIONS = ("--set", f"watchNamespaces={{robust,{_LOST}}}")


@pytest.fixture(scope="module")
def here(
    cluster: ControlPlane, client: Client, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[World]:
    """An operator of two namespaces, which has lost its Role in one before it starts."""
    found = World(cluster, client, client.namespace("robust"))
    client.namespace(_LOST)
    folder = tmp_path_factory.mktemp("robust")
    found.operator = OperatorProcess(cluster, "robust", folder, options=_OPTIONS)
    cluster.kubectl("delete", "rolebindings", "--all", "-n", _LOST)
    with found.operator, KubeletStandIn(cluster, found.answer):
        yield found


def test_a_foreign_pod_and_a_lost_namespace_stop_nobody(here: World) -> None:
    metadata = {"name": "poison", "labels": {JOB_LABEL: "good"}}
    containers = [{"name": "c", "image": "x"}]
    body = {"metadata": metadata, "spec": {"schedulerName": "no", "containers": containers}}
    here.client.create(pods_path(here.namespace), body)
    here.apply("good")
    here.wait_for("good", "Succeeded", "True")
    ready = httpx.get(here.operator.url("/readyz"), timeout=10, trust_env=False)
    assert ready.status_code == 200
    assert f"pods in '{_LOST}' are not listed yet: 403 Forbidden" in ready.text
    here.answers["there"] = all_well
    here.client.create(jobs_path(_LOST), job("there", _LOST))
    install_rights(here.cluster, here.namespace, *_OPTIONS)
    here.client.wait_for(_LOST, "there", "Succeeded", "True")


def test_an_object_that_was_made_with_our_finalizer_goes(here: World) -> None:
    body = job("restored", here.namespace)
    body["metadata"]["finalizers"] = [FINALIZER]
    here.answers["restored"] = all_well
    here.client.create(jobs_path(here.namespace), body)
    here.wait_for("restored", "Succeeded", "True")
    here.delete("restored")
    here.wait_gone("restored")


def test_a_webhook_that_does_not_answer_is_told(here: World) -> None:
    name = "kubernetes.io/metadata.name"
    hook = {
        "name": "dead.example.com",
        "sideEffects": "None",
        "admissionReviewVersions": ["v1"],
        "failurePolicy": "Fail",
        "timeoutSeconds": 1,
        "clientConfig": {"url": "https://127.0.0.1:1/x"},
        "namespaceSelector": {"matchLabels": {name: here.namespace}},
        "rules": [
            {
                "apiGroups": ["batch"],
                "apiVersions": ["v1"],
                "operations": ["CREATE"],
                "resources": ["jobs"],
            }
        ],
    }
    here.client.create(_WEBHOOKS, {"metadata": {"name": "robust"}, "webhooks": [hook]})
    try:
        here.client.wait("the webhook", lambda: _is_refused(here))
        here.apply("hooked")
        row = here.wait_for("hooked", "Accepted", "Unknown", "PodsRefused")
    finally:
        here.client.delete(f"{_WEBHOOKS}/robust")
    assert "failed calling webhook" in row["message"]


def _is_refused(here: World) -> bool:
    """Whether the API server knows the webhook by now: a Job that is only tried."""
    pod = {"restartPolicy": "Never", "containers": [{"name": "a", "image": "b"}]}
    body = {"metadata": {"name": "probe"}, "spec": {"template": {"spec": pod}}}
    path = f"/apis/batch/v1/namespaces/{here.namespace}/jobs"
    tried = here.client.http.post(path, json=body, params={"dryRun": "All"})
    return tried.status_code == 500


def test_a_late_replica_cleans_up_after_nobody(here: World, cluster: ControlPlane) -> None:
    here.apply("late", stops(ChildStage.CleanUp))
    here.wait_for("late", "Succeeded", "True")
    here.delete("late")
    here.wait_pod("late-clean-up-1")
    seen = here.find("late") or {}
    here.answers["late"] = all_well
    here.wait_gone("late")
    here.client.wait("the end of its children", lambda: not here.children("late"))
    with pytest.raises(ApiError) as caught:
        asyncio.run(_visit(cluster, seen))
    assert caught.value.code == 409
    assert here.children("late") == []


async def _visit(cluster: ControlPlane, seen: dict[str, Any]) -> None:
    """What a replica does that has just seen this object and none of its children."""
    key = Key(seen["metadata"]["namespace"], seen["metadata"]["name"])
    api = await Api.connect(str(cluster.kubeconfig), OperatorMetrics().count_request)
    try:
        indexes = unwatched()
        indexes.objects.put(seen)
        observed = await Observer(api, indexes).observe(key)
        assert observed is not None
        decision = reconcile(observed, _SETTINGS)
        assert [one["metadata"]["name"] for one in decision.creations] == ["late-clean-up-1"]
        await Applier(api, "late").apply(key, observed.metadata, decision)
    finally:
        await api.close()
