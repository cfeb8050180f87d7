"""The operator's chart, rendered with Helm and applied as its users do.

Called by the fixtures of the API tier and by contract tests of the chart.
"""

import subprocess
from pathlib import Path
from typing import Any

import yaml

from tests.cluster.control_plane import ControlPlane
from tools.servers import program

ROOT = Path(__file__).resolve().parent.parent.parent
CHART = ROOT / "charts" / "halftone-operator"
CRD = CHART / "files" / "quantizationjob.yaml"
RELEASE = "halftone"
REGISTRY = "registry.test/halftone"


def render(
    namespace: str, *options: str, registry: str = REGISTRY, release: str = RELEASE
) -> list[dict[str, Any]]:
    """Every object of the chart. Raises RuntimeError with what Helm says when it refuses."""
    command = [str(program("helm")), "template", release, str(CHART), "--namespace", namespace]
    command += ["--set", f"image.registry={registry}", *options]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    if found.returncode:
        raise RuntimeError(found.stderr)
    return [one for one in yaml.safe_load_all(found.stdout) if one]


def settings_of(objects: list[dict[str, Any]]) -> str:
    """The operator's settings file, out of the rendered ConfigMap."""
    text: str = next(one for one in objects if one["kind"] == "ConfigMap")["data"]["settings.yaml"]
    return text


def install_crd(cluster: ControlPlane) -> None:
    """Apply the CRD as it lies in the chart, and wait until the API server serves it."""
    cluster.kubectl("apply", "--server-side", "-f", str(CRD))
    # `kubectl wait` fails on an object that has no conditions yet, so it may be asked again.
    crd = "crd/quantizationjobs.halftone.dev"
    wait = ("wait", "--for=condition=Established", crd, "--timeout=60s")
    cluster.processes.wait("the CRD", lambda: bool(cluster.kubectl(*wait)))


def install_rights(cluster: ControlPlane, namespace: str, *options: str) -> str:
    """Apply accounts, roles and bindings of the chart; returns the operator's settings."""
    objects = render(namespace, "--set", "crds.enabled=false", *options)
    wanted = ("ServiceAccount", "Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding")
    rights = [one for one in objects if one["kind"] in wanted]
    cluster.kubectl("apply", "-f", "-", text=yaml.safe_dump_all(rights))
    return settings_of(objects)
