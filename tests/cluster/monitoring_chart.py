"""The chart `halftone-monitoring`, rendered with Helm.

Called by contract tests of its doctor, and by the API tier.
"""

import subprocess
from pathlib import Path
from typing import Any, Final

import yaml

from tests.cluster.chart import ROOT
from tools.servers import program

Object = dict[str, Any]
CHART: Final = ROOT / "charts" / "halftone-monitoring"
OPERATOR: Final = ("--api-versions", "monitoring.coreos.com/v1")
# As little as a doctor needs.
DOCTOR: Final = (
    *("--set", "doctor.enabled=true,doctor.prometheusUrl=http://prometheus.monitoring:9090"),
    *("--set", "image.registry=registry.test/halftone"),
)
# All that a value adds to it.
WHOLE: Final = (
    *DOCTOR,
    *("--set", "doctor.prometheusUrl=https://prometheus.monitoring/metrics"),
    *("--set", "doctor.prometheusToken.secretName=prometheus,doctor.prometheusToken.key=bearer"),
    *("--set", "doctor.prometheusCa.configMapName=trusted,doctor.prometheusCa.key=all.pem"),
    *("--set", "rules.selector.namespace=models,doctor.model=org/small,doctor.without={ray,dcgm}"),
    *("--set", "doctor.maxAgeSeconds=90,doctor.intervalSeconds=15,doctor.nodeSelector.pool=small"),
    *("--set-string", "doctor.podAnnotations.prometheus\\.io/scrape=true"),
    *("--set-json", 'doctor.tolerations=[{"key":"small","operator":"Exists"}]'),
    *("--set", "doctor.priorityClassName=system-cluster-critical,image.pullSecrets={registry}"),
    *("--set", "podMonitor.labels.release=prometheus,podMonitor.interval=15s"),
    *("--set", "networkPolicy.enabled=true,networkPolicy.prometheusPorts={9090}"),
    *("--set-json", 'networkPolicy.from=[{"namespaceSelector":{"matchLabels":{"a":"b"}}}]'),
    *("--set", f"images.doctor=halftone-operator@sha256:{'a' * 64},commonLabels.team=serving"),
)


def helm(verb: str, *options: str, chart: Path = CHART) -> str:
    """What Helm says of the chart. Raises RuntimeError with what it says when it refuses."""
    release = () if verb == "lint" else ("seen",)
    command = [str(program("helm")), verb, *release, str(chart), *options]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    if found.returncode:
        raise RuntimeError(found.stdout + found.stderr)
    return found.stdout


def template(namespace: str, *options: str) -> str:
    """What it renders where the Prometheus operator is, as text."""
    return helm("template", "--namespace", namespace, *OPERATOR, *options)


def render(namespace: str, *options: str) -> list[Object]:
    """Every object that it renders there."""
    return [one for one in yaml.safe_load_all(template(namespace, *options)) if one]


def of_kind(objects: list[Object], kind: str) -> list[Object]:
    """Those of one kind."""
    return [one for one in objects if one["kind"] == kind]


def pod_specs(objects: list[Object]) -> dict[str, Object]:
    """The pod of the doctor and that of `helm test`, by their component."""
    (deployment,), (pod,) = of_kind(objects, "Deployment"), of_kind(objects, "Pod")
    return {"doctor": deployment["spec"]["template"], "test": pod}
