"""Prometheus as clusters have it: its operator, a Prometheus that takes every rule and monitor, and
an Alertmanager, in pods.

    monitoring = PrometheusInCluster(cluster)
    monitoring.query("up")

Called by `tests/e2e`. What kube-prometheus-stack installs beside these (Grafana, exporters of the
cluster) is not here. A client on the node, which has no name service, asks the Services' addresses.
"""

import json
from pathlib import Path
from typing import Any, Final

import httpx

from tests.cluster import definitions
from tests.cluster.archives import binaries_image, single_binary_image
from tests.cluster.control_plane import ControlPlane
from tools.servers import (
    ALERTMANAGER_VERSION,
    PROMETHEUS_VERSION,
    monitoring_definitions,
    program,
)

NAMESPACE: Final = "monitoring"
# What a user's Prometheus would choose rules and monitors by.
LABELS: Final = {"release": "prometheus"}
_OPERATOR: Final = "localhost/prometheus-operator:1"
_RELOADER: Final = "localhost/prometheus-config-reloader:1"
_PROMETHEUS: Final = "localhost/prometheus:1"
_ALERTMANAGER: Final = "localhost/alertmanager:1"
# By which the operator knows what flags a server takes.
_VERSIONS: Final = {
    "prometheus": f"v{PROMETHEUS_VERSION}",
    "alertmanager": f"v{ALERTMANAGER_VERSION}",
}
_PORTS: Final = {"prometheus": 9090, "alertmanager": 9093}
_RIGHTS: Final = "rbac.authorization.k8s.io"
_API: Final = "monitoring.coreos.com/v1"


def images(folder: Path) -> list[Path]:
    """The archives of all four."""
    whole = {
        "prometheus-operator": _OPERATOR,
        "prometheus-in-cluster": _PROMETHEUS,
        "alertmanager": _ALERTMANAGER,
    }
    archives = [folder / f"{name}.tar" for name in (*whole, "reloader")]
    for archive, (name, image) in zip(archives, whole.items(), strict=False):
        single_binary_image(archive, image, program(name))
    # The operator calls it by its path.
    binaries_image(archives[-1], _RELOADER, program("prometheus-config-reloader"))
    return archives


class PrometheusInCluster:
    """Servers that are ready once this is made. `url` and `alertmanager` are for the node,
    `inside` is Prometheus's address for pods.
    """

    def __init__(self, cluster: ControlPlane) -> None:
        self.inside = f"http://prometheus.{NAMESPACE}.svc.cluster.local:9090"
        definitions.install(cluster, "Prometheus's CRDs", monitoring_definitions())
        for objects in (_operator(), _servers()):
            listed = {"apiVersion": "v1", "kind": "List", "items": objects}
            cluster.kubectl("apply", "-f", "-", text=json.dumps(listed))
        for name in ("prometheus-prometheus", "alertmanager-alertmanager"):
            for state in ("create", "condition=Ready"):
                wait = ("wait", f"--for={state}", f"pod/{name}-0", "--timeout=180s")
                cluster.kubectl(*wait, "-n", NAMESPACE)
        self.url, self.alertmanager = (
            f"http://{cluster.service(name, NAMESPACE)}:{port}" for name, port in _PORTS.items()
        )

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The samples of an instant query."""
        answer = httpx.get(
            f"{self.url}/api/v1/query", params={"query": expression}, timeout=30, trust_env=False
        )
        found: list[dict[str, Any]] = answer.raise_for_status().json()["data"]["result"]
        return found

    def value(self, expression: str) -> float | None:
        """The one sample of a query; None where there is none."""
        found = self.query(expression)
        return float(found[0]["value"][1]) if found else None

    def rules(self) -> list[dict[str, Any]]:
        """The groups of rules that it runs."""
        answer = httpx.get(f"{self.url}/api/v1/rules", timeout=30, trust_env=False)
        found: list[dict[str, Any]] = answer.raise_for_status().json()["data"]["groups"]
        return found

    def alerts(self) -> list[dict[str, Any]]:
        """What Alertmanager holds."""
        url = f"{self.alertmanager}/api/v2/alerts"
        answer = httpx.get(url, timeout=30, trust_env=False)
        found: list[dict[str, Any]] = answer.raise_for_status().json()
        return found


def _operator() -> list[dict[str, Any]]:
    meta = {"name": "prometheus-operator", "namespace": NAMESPACE}
    labels = {"app": "prometheus-operator"}
    container = {
        "name": "operator",
        "image": _OPERATOR,
        "imagePullPolicy": "Never",
        "args": [
            f"--prometheus-config-reloader={_RELOADER}",
            "--config-reloader-cpu-request=10m",
            "--config-reloader-memory-request=32Mi",
        ],
        "resources": {"requests": {"cpu": "20m", "memory": "128Mi"}},
    }
    return [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}},
        *_account("prometheus-operator", "cluster-admin"),
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": meta,
            "spec": {
                "selector": {"matchLabels": labels},
                "template": {
                    "metadata": {"labels": labels},
                    "spec": {"serviceAccountName": meta["name"], "containers": [container]},
                },
            },
        },
    ]


def _servers() -> list[dict[str, Any]]:
    common = {
        "replicas": 1,
        "serviceAccountName": "prometheus",
        "securityContext": {"runAsUser": 1000, "runAsNonRoot": True, "fsGroup": 2000},
        "resources": {"requests": {"cpu": "20m", "memory": "256Mi"}},
    }
    chosen = {
        f"{kind}{part}": {} if part.startswith("Namespace") else {"matchLabels": LABELS}
        for kind in ("rule", "podMonitor", "serviceMonitor")
        for part in ("Selector", "NamespaceSelector")
    }
    alerting = {"namespace": NAMESPACE, "name": "alertmanager", "port": "web"}
    return [
        *_account("prometheus", "prometheus"),
        {
            "apiVersion": f"{_RIGHTS}/v1",
            "kind": "ClusterRole",
            "metadata": {"name": "prometheus"},
            "rules": [
                {
                    "apiGroups": ["", "discovery.k8s.io"],
                    "resources": ["services", "endpoints", "endpointslices", "pods"],
                    "verbs": ["get", "list", "watch"],
                }
            ],
        },
        _resource(
            "Prometheus",
            {
                **common,
                **chosen,
                "image": _PROMETHEUS,
                "version": _VERSIONS["prometheus"],
                "scrapeInterval": "15s",
                "evaluationInterval": "15s",
                "alerting": {"alertmanagers": [alerting]},
            },
        ),
        _resource(
            "Alertmanager",
            {**common, "image": _ALERTMANAGER, "version": _VERSIONS["alertmanager"]},
        ),
        *(_service(kind, port) for kind, port in _PORTS.items()),
    ]


def _resource(kind: str, spec: dict[str, Any]) -> dict[str, Any]:
    name = kind.lower()
    metadata = {"name": name, "namespace": NAMESPACE}
    return {"apiVersion": _API, "kind": kind, "metadata": metadata, "spec": spec}


def _service(name: str, port: int) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {
            "selector": {"app.kubernetes.io/name": name},
            "ports": [{"name": "web", "port": port, "targetPort": port}],
        },
    }


def _account(name: str, role: str) -> list[dict[str, Any]]:
    meta = {"name": name, "namespace": NAMESPACE}
    return [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta},
        {
            "apiVersion": f"{_RIGHTS}/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": name},
            "roleRef": {"apiGroup": _RIGHTS, "kind": "ClusterRole", "name": role},
            "subjects": [{"kind": "ServiceAccount", **meta}],
        },
    ]
