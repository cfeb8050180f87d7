"""`halftone doctor` in pods of a real node: the chart `halftone-monitoring`, and `helm test`.

We test these aspects:
- its pod, of the operator's image, is ready where Pod Security enforces "restricted" and looks at a
  real Prometheus, which scrapes what it found there;
- `helm test` passes while all is there; once an exporter has renamed a metric, it fails, its pod
  names the metric, and the doctor's own metric says so.

This cluster has the Prometheus operator's definitions alone, so Prometheus is told of the pod.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.cluster.client import pods_path
from tests.cluster.monitoring_chart import CHART
from tests.cluster.network import ADDRESS
from tests.cluster.own_images import REGISTRY
from tests.doubles.exporters import Exported, Exporter, native_page, worked
from tests.node.conftest import Up
from tests.servers.prometheus import Job, Prometheus

KV = "vllm:kv_cache_usage_perc"
RELEASE = "seen"
TEST = f"{RELEASE}-contract"
KINDS = {"prometheusrules": "PrometheusRule", "podmonitors": "PodMonitor"}


@dataclass
class Page:
    """What the exporter writes; a renamed metric once that is wanted."""

    renames: bool = False

    def __call__(self, replicas: Iterable[Exported]) -> str:
        text = native_page(replicas)
        return text.replace(KV, "vllm:gpu_cache_usage_perc") if self.renames else text


@dataclass(frozen=True)
class Looked:
    """A Prometheus with a replica's metrics, and the doctor that looks at it."""

    page: Page
    prometheus: Prometheus


@pytest.fixture
def definitions(up: Up) -> Iterator[None]:
    """What the chart needs of the Prometheus operator."""
    items = [definition(plural, kind) for plural, kind in KINDS.items()]
    text = json.dumps({"apiVersion": "v1", "kind": "List", "items": items})
    names = [f"crd/{plural}.monitoring.coreos.com" for plural in KINDS]
    up.cluster.kubectl("apply", "--server-side", "-f", "-", text=text)
    up.client.wait("the definitions", lambda: established(up, names), 60)
    yield
    up.cluster.kubectl("delete", *names)


def definition(plural: str, kind: str) -> dict[str, object]:
    """A CustomResourceDefinition that takes any fields."""
    anything = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    version = {
        "name": "v1",
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": anything},
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.monitoring.coreos.com"},
        "spec": {
            "group": "monitoring.coreos.com",
            "names": {"plural": plural, "singular": kind.lower(), "kind": kind},
            "scope": "Namespaced",
            "versions": [version],
        },
    }


def established(up: Up, names: list[str]) -> bool:
    found = up.cluster.get(*names)["items"]
    conditions = [
        {each["type"]: each["status"] for each in one.get("status", {}).get("conditions", ())}
        for one in found
    ]
    return all(each.get("Established") == "True" for each in conditions)


@pytest.fixture
def looked(up: Up, definitions: None, tmp_path: Path) -> Iterator[Looked]:
    """The chart installed, and its doctor scraped."""
    page = Page()
    jobs = {"endpoint": Job([]), "doctor": Job([])}
    with (
        Exporter(page, [worked()]) as exporter,
        Prometheus(tmp_path, jobs, address=ADDRESS) as prometheus,
    ):
        prometheus.scrape("endpoint", [exporter.address])
        prometheus.until('up{job="endpoint"} == 1')
        values = {
            "doctor.enabled": "true",
            "doctor.prometheusUrl": prometheus.url,
            "doctor.intervalSeconds": "1",
            "doctor.maxAgeSeconds": "30",
            "doctor.without": "{rules,alerts}",  # this Prometheus runs none
            "image.registry": REGISTRY,
            "image.pullPolicy": "Never",
        }
        told = [word for name, value in values.items() for word in ("--set", f"{name}={value}")]
        up.helm("install", RELEASE, str(CHART), "--wait", "--timeout", "120s", *told)
        try:
            selector = "app.kubernetes.io/component=doctor"
            (pod,) = up.client.items(pods_path(up.namespace), labelSelector=selector)
            prometheus.scrape("doctor", [f"{pod['status']['podIP']}:9464"])
            yield Looked(page, prometheus)
        finally:
            up.cluster.kubectl("delete", "-n", up.namespace, "pod", TEST, "--ignore-not-found")
            up.helm("uninstall", RELEASE, "--wait")


def test_the_doctor_in_the_cluster_sees_what_is_renamed(up: Up, looked: Looked) -> None:
    looked.prometheus.until('halftone_metric_contract_ok{family="vllm"} == 1')
    said = up.helm("test", RELEASE, "--timeout", "120s")
    assert "Phase:          Succeeded" in said

    looked.page.renames = True
    looked.prometheus.until('halftone_metric_contract_ok{family="vllm"} == 0')
    looked.prometheus.until('halftone_metric_contract_missing{family="vllm"} == 1')
    # Helm 4 waits for a pod that has failed, to the end of its patience.
    with pytest.raises(RuntimeError, match=r"Phase: +Failed"):
        up.helm("test", RELEASE, "--timeout", "45s")
    logs = up.cluster.kubectl("logs", "-n", up.namespace, TEST)
    assert KV in logs
    pod = up.client.get(f"{pods_path(up.namespace)}/{TEST}")
    (status,) = pod["status"]["containerStatuses"]
    assert status["state"]["terminated"]["exitCode"] == 1
