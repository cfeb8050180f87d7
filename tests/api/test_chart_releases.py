"""Releases of the chart on a real API server, from `helm install` to after `helm uninstall`.

There is no node, so nothing waits for pods. We test these aspects:
- an upgrade brings the new CRD and settings, and keeps every QuantizationJob as it was;
- a CRD that came from kubectl is upgraded when Helm is told to, and from then on by itself;
- a rollback brings the former ones back;
- an uninstall keeps the CRD and the jobs, and says so; what it installed is gone;
- the next install takes the kept CRD over; under another name it must be told to;
- a second release has no CRD of its own, and leaves the first one's alone;
- the three commands of the notes work as they are printed.
"""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster.answers import job
from tests.cluster.chart import CHART, CRD, REGISTRY
from tests.cluster.client import Client, jobs_path
from tests.cluster.control_plane import ControlPlane
from tests.cluster.helm import Helm
from tools.servers import program

Object = dict[str, Any]
CRD_PATH = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/quantizationjobs.halftone.dev"
OWNED = ("--set", f"image.registry={REGISTRY}")
# The cluster of these tests has the CRD already, as it came from kubectl.
FIRST = (*OWNED, "--take-ownership")


@pytest.fixture
def helm(cluster: ControlPlane, client: Client, namespace: str) -> Iterator[Helm]:
    """Helm in this test's namespace; afterwards the CRD is nobody's, as it was."""
    found = Helm(cluster, namespace)
    yield found
    for release in found("list", "--short").split():
        found("uninstall", release)
    gone = dict.fromkeys(
        ("meta.helm.sh/release-name", "meta.helm.sh/release-namespace", "helm.sh/resource-policy")
    )
    labels = {"app.kubernetes.io/managed-by": None}
    client.patch(CRD_PATH, {"metadata": {"annotations": gone, "labels": labels}})
    cluster.kubectl("apply", "--server-side", "--force-conflicts", "-f", str(CRD))


def changed(folder: Path) -> Path:
    """The next version of the chart: another column, a field more, and other settings."""
    chart = Path(shutil.copytree(CHART, folder / "next"))
    path = chart / "files" / "quantizationjob.yaml"
    crd = yaml.safe_load(path.read_text())
    (version,) = crd["spec"]["versions"]
    column = {"name": "Shards", "type": "integer", "jsonPath": ".status.plan.shards"}
    version["additionalPrinterColumns"].append(column)
    spec = version["schema"]["openAPIV3Schema"]["properties"]["spec"]
    spec["properties"]["note"] = {"type": "string", "maxLength": 63}
    path.write_text(yaml.safe_dump(crd))
    values = chart / "values.yaml"
    values.write_text(values.read_text().replace("backoffLimit: 3", "backoffLimit: 7"))
    return chart


def seen(client: Client, namespace: str) -> tuple[bool, bool, int]:
    """Of the installed version: its column, its field, and its limit of retries."""
    (version,) = client.get(CRD_PATH)["spec"]["versions"]
    columns = [column["name"] for column in version["additionalPrinterColumns"]]
    spec = version["schema"]["openAPIV3Schema"]["properties"]["spec"]
    settings = client.get(f"/api/v1/namespaces/{namespace}/configmaps/halftone")["data"]
    limit = yaml.safe_load(settings["settings.yaml"])["backoffLimit"]
    return "Shards" in columns, "note" in spec["properties"], limit


def unchanged(client: Client, job: Object) -> bool:
    """Whether a job is still the same object, untouched since."""
    path = f"{jobs_path(job['metadata']['namespace'])}/{job['metadata']['name']}"
    found = client.find(path)
    return found is not None and all(found[part] == job[part] for part in ("metadata", "spec"))


def deployments(client: Client, namespace: str) -> list[str]:
    found = client.items(f"/apis/apps/v1/namespaces/{namespace}/deployments")
    return [one["metadata"]["name"] for one in found]


def test_upgrade_rollback_uninstall_and_install_again(
    client: Client, namespace: str, helm: Helm, tmp_path: Path
) -> None:
    helm("install", "halftone", str(CHART), *FIRST)
    kept = client.create(jobs_path(namespace), job("kept", namespace))
    assert seen(client, namespace) == (False, False, 3)

    newer = str(changed(tmp_path))
    with pytest.raises(RuntimeError, match='conflict with "kubectl"'):
        helm("upgrade", "halftone", newer, *OWNED)
    helm("upgrade", "halftone", newer, *OWNED, "--force-conflicts")
    assert seen(client, namespace) == (True, True, 7)
    assert unchanged(client, kept)

    helm("rollback", "halftone", "1")
    assert seen(client, namespace) == (False, False, 3)
    assert unchanged(client, kept)

    helm("upgrade", "halftone", newer, *OWNED)
    assert seen(client, namespace) == (True, True, 7)
    helm("rollback", "halftone")
    assert seen(client, namespace) == (False, False, 3)
    history = yaml.safe_load(helm("history", "halftone", "-o", "yaml"))
    assert [row["status"] for row in history][-1] == "deployed"
    assert unchanged(client, kept)

    said = helm("uninstall", "halftone")
    assert "kept due to the resource policy" in said
    assert "[CustomResourceDefinition] quantizationjobs.halftone.dev" in said
    assert deployments(client, namespace) == []
    assert unchanged(client, kept)

    helm("install", "halftone", str(CHART), *OWNED)
    assert deployments(client, namespace) == ["halftone"]
    assert unchanged(client, kept)


def test_another_name_takes_the_kept_crd_over_when_told_to(
    client: Client, namespace: str, helm: Helm
) -> None:
    helm("install", "halftone", str(CHART), *FIRST)
    helm("uninstall", "halftone")
    kept = client.create(jobs_path(namespace), job("kept", namespace))
    with pytest.raises(RuntimeError, match="invalid ownership metadata"):
        helm("install", "other", str(CHART), *OWNED)
    helm("install", "other", str(CHART), *FIRST)
    assert deployments(client, namespace) == ["other"]
    assert "quantizationjobs.halftone.dev" in helm("uninstall", "other")
    assert unchanged(client, kept)


def test_a_second_release_leaves_the_crd_of_the_first_alone(
    cluster: ControlPlane, client: Client, namespace: str, helm: Helm
) -> None:
    helm("install", "halftone", str(CHART), *FIRST)
    elsewhere = client.namespace(f"{namespace}-b")
    second = Helm(cluster, elsewhere)
    with pytest.raises(RuntimeError, match="invalid ownership metadata"):
        second("install", "halftone", str(CHART), *OWNED)
    before = client.get(CRD_PATH)["metadata"]["resourceVersion"]
    second("install", "halftone", str(CHART), *OWNED, "--set", "crds.enabled=false")
    helm("install", "other", str(CHART), *OWNED, "--set", "crds.enabled=false")
    assert deployments(client, namespace) == ["halftone", "other"]
    second("uninstall", "halftone")
    helm("uninstall", "other")
    assert client.get(CRD_PATH)["metadata"]["resourceVersion"] == before
    assert deployments(client, namespace) == ["halftone"]


def test_the_commands_of_the_notes_work(
    cluster: ControlPlane, client: Client, namespace: str, helm: Helm, tmp_path: Path
) -> None:
    notes = helm("install", "halftone", str(CHART), *FIRST)
    lines = [line.strip() for line in notes.splitlines()]
    apply, watch, describe = (line for line in lines if line.startswith("kubectl "))
    written = job("mine", namespace)
    del written["metadata"]["namespace"]
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(written))
    environment = {
        "PATH": f"{program('kubectl').parent}:/usr/bin:/bin",
        "KUBECONFIG": str(cluster.kubeconfig),
    }

    def run(command: str) -> str:
        words = command.split()
        return subprocess.check_output(words, cwd=tmp_path, env=environment, text=True)

    assert "quantizationjob.halftone.dev/mine created" in run(apply)
    assert "Name:         mine" in run(describe)
    with subprocess.Popen(
        watch.split(), cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True
    ) as watching:
        assert watching.stdout is not None
        assert watching.stdout.readline().split()[:3] == ["NAME", "SOURCE", "RECIPE"]
        assert watching.stdout.readline().startswith("mine")
        watching.terminate()


def test_the_notes_name_a_namespace_that_is_watched(
    client: Client, namespace: str, helm: Helm
) -> None:
    other = client.namespace(f"{namespace}-b")
    notes = helm("install", "halftone", str(CHART), *FIRST, "--set", f"watchNamespaces={{{other}}}")
    assert f"Halftone carries out QuantizationJobs in {other}." in notes
    assert f"kubectl apply -n {other} -f job.yaml" in notes
    assert "Uninstalling keeps the CRD and every QuantizationJob." in notes
