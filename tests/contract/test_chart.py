"""What the operator's chart renders, as Helm renders it.

We test these aspects:
- without a registry, and for values that exclude each other, there is a sentence and nothing else;
- rights are those of one namespace, of several, or of the cluster, as `watchNamespaces` says;
- the settings that it writes are settings of the operator, for every combination of values;
- two releases in one cluster have no object in common but the CRD;
- labels, images, and what a value changes.
"""

import json
import subprocess
from itertools import product
from typing import Any

import pytest
import yaml

from halftone import __version__
from halftone.control.settings import Settings
from halftone.spec.running import StageName
from tests.cluster.chart import CHART, CRD, REGISTRY, ROOT, render, settings_of
from tools.servers import program

Object = dict[str, Any]
STAGES = ("plan", "calibrate", "quantize", "validate", "publish")
EVERYWHERE = ("--set-json", "watchNamespaces=[]", "--set", "serviceAccounts.create=false")
SEVERAL = ("--set", "watchNamespaces={team-a,team-b}")
# Everything that a value can add.
ALL = (
    *("--set", "policy.enabled=true,networkPolicy.enabled=true,podDisruptionBudget.enabled=true"),
    *("--set", "replicas=2,serviceMonitor.enabled=true"),
    *("--api-versions", "monitoring.coreos.com/v1"),
)
CLUSTER_SCOPED = {
    "ClusterRole",
    "ClusterRoleBinding",
    "CustomResourceDefinition",
    "ValidatingAdmissionPolicy",
    "ValidatingAdmissionPolicyBinding",
}


def refusal(*options: str, registry: str = REGISTRY) -> str:
    """What Helm says when the chart refuses values."""
    with pytest.raises(RuntimeError) as error:
        render("jobs", *options, registry=registry)
    return str(error.value)


def of_kind(objects: list[Object], kind: str) -> list[Object]:
    return [one for one in objects if one["kind"] == kind]


def identity(one: Object) -> tuple[str, str, str]:
    namespace = "" if one["kind"] in CLUSTER_SCOPED else one["metadata"]["namespace"]
    return one["kind"], namespace, one["metadata"]["name"]


def pod_specs(objects: list[Object]) -> list[Object]:
    """Of the operator and of `helm test`."""
    (deployment,), pods = of_kind(objects, "Deployment"), of_kind(objects, "Pod")
    return [deployment["spec"]["template"]["spec"], *(pod["spec"] for pod in pods)]


def test_helm_finds_nothing_to_complain_about() -> None:
    command = [str(program("helm")), "lint", "--strict", str(CHART)]
    command += ["--set", f"image.registry={REGISTRY}"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout + found.stderr
    assert "[WARNING]" not in found.stdout


def test_without_a_registry_there_is_a_sentence() -> None:
    assert "`image.registry` must be set to the registry that holds Halftone's images" in refusal(
        registry=""
    )


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            ("--set", "image.registry=https://registry.test/halftone"),
            "without `https://` and without a '/' at its end; it is 'https://registry.test/halftone'",
        ),
        (
            ("--set", "podDisruptionBudget.enabled=true"),
            "`podDisruptionBudget.enabled` with fewer than two `replicas`",
        ),
        (
            ("--set", "serviceMonitor.enabled=true"),
            "`serviceMonitor.enabled` needs the Prometheus operator's ServiceMonitor",
        ),
        (
            ("--set-json", "watchNamespaces=[]"),
            "set `serviceAccounts.create=false` and give jobs a `serviceAccountName`",
        ),
        (
            (
                *("--set", "policy.enabled=true,policy.publicRepositories=Allow"),
                *("--set-json", "policy.allowedEndpoints=null"),
            ),
            "`policy.enabled` is set and nothing is bounded",
        ),
        (("--kube-version", "1.30.9"), "requires kubeVersion: >=1.31.0-0"),
    ],
)
def test_values_that_cannot_be_are_refused_with_the_way_out(
    options: tuple[str, ...], sentence: str
) -> None:
    assert sentence in refusal(*options)


def test_a_release_whose_name_no_service_may_have_is_refused() -> None:
    command = [str(program("helm")), "template", "1st", str(CHART)]
    command += ["--set", f"image.registry={REGISTRY}"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "must begin with a letter; call it 'halftone-1st'" in found.stderr


def test_rights_are_of_one_namespace_if_nothing_is_said() -> None:
    objects = render("jobs")
    assert {one["metadata"]["namespace"] for one in of_kind(objects, "Role")} == {"jobs"}
    assert of_kind(objects, "ClusterRoleBinding") == []
    # What is added to the cluster's own roles gives the operator nothing.
    names = {one["metadata"]["name"] for one in of_kind(objects, "ClusterRole")}
    assert names == {"halftone.jobs.view", "halftone.jobs.edit"}
    assert yaml.safe_load(settings_of(objects))["watchNamespaces"] == ["jobs"]


def test_several_namespaces_have_the_same_role_each_and_no_other() -> None:
    objects = render("jobs", *SEVERAL)
    rights = [
        one for one in of_kind(objects, "Role") if one["metadata"]["name"] != "halftone-lease"
    ]
    assert [one["metadata"]["namespace"] for one in rights] == ["team-a", "team-b"]
    assert rights[0]["rules"] == rights[1]["rules"] == of_kind(render("x"), "Role")[1]["rules"]
    assert of_kind(objects, "ClusterRoleBinding") == []
    bindings = of_kind(objects, "RoleBinding")
    assert {one["subjects"][0]["namespace"] for one in bindings} == {"jobs"}
    accounts = {identity(one)[1] for one in of_kind(objects, "ServiceAccount")}
    assert accounts == {"jobs", "team-a", "team-b"}


def test_the_whole_cluster_needs_a_cluster_role_of_the_same_rules() -> None:
    objects = render("jobs", *EVERYWHERE)
    role = next(one for one in of_kind(objects, "ClusterRole") if "jobs." not in identity(one)[2])
    assert role["rules"] == of_kind(render("x"), "Role")[1]["rules"]
    assert [one["metadata"]["name"] for one in of_kind(objects, "Role")] == ["halftone-lease"]
    assert yaml.safe_load(settings_of(objects))["watchNamespaces"] == []


def combinations() -> list[tuple[str, ...]]:
    """Values that settings come from, each way."""
    where = ((), SEVERAL, EVERYWHERE, ("--set", "serviceAccounts.create=false"))
    pods = (
        (),
        (
            "--set-json",
            'stages.quantize={"resources":{"requests":{"cpu":2,"memory":"16Gi"},"limits":'
            '{"nvidia.com/gpu":1}},"nodeSelector":{"pool":"123"},"priorityClassName":"123",'
            '"queueName":"on","runtimeClassName":"nvidia","tolerations":'
            '[{"key":"gpu","operator":"Exists","effect":"NoSchedule","tolerationSeconds":5}]}',
        ),
    )
    limits = (
        (),
        (
            *("--set", "backoffLimit=0,progressSeconds=3600,image.pullPolicy=Never"),
            *("--set-string", "cacheSizeLimit=100,image.tag=1,image.pullSecrets={123}"),
        ),
    )
    return [(*a, *b, *c) for a, b, c in product(where, pods, limits)]


@pytest.mark.parametrize("options", combinations())
def test_the_operator_accepts_the_settings(options: tuple[str, ...]) -> None:
    settings = Settings.model_validate(yaml.safe_load(settings_of(render("jobs", *options))))
    assert set(settings.stages) == set(StageName)
    engines = {name for name, stage in settings.stages.items() if stage.engineImage}
    assert engines == {StageName.Validate}


def test_values_reach_the_settings() -> None:
    *_, options = combinations()
    settings = Settings.model_validate(yaml.safe_load(settings_of(render("jobs", *options))))
    stage = settings.stages[StageName.Quantize]
    assert stage.resources.requests == {"cpu": 2, "memory": "16Gi"}
    assert stage.placement.priorityClassName == "123"
    assert stage.placement.tolerations[0]["tolerationSeconds"] == 5
    assert (settings.backoffLimit, settings.cacheSizeLimit) == (0, "100")
    assert stage.image == f"{REGISTRY}/halftone-worker:1"
    assert settings.imagePullSecrets == ("123",)


def test_stages_have_accounts_that_exist_where_jobs_are() -> None:
    for options, places in (((), ["jobs"]), (SEVERAL, ["team-a", "team-b"])):
        objects = render("jobs", *options)
        made = {identity(one)[1:] for one in of_kind(objects, "ServiceAccount")}
        settings = Settings.model_validate(yaml.safe_load(settings_of(objects)))
        for stage, place in product(settings.stages.values(), places):
            assert (place, stage.serviceAccountName) in made
        told = [one["automountServiceAccountToken"] for one in of_kind(objects, "ServiceAccount")]
        assert set(told) == {False}


@pytest.mark.parametrize("options", [(), SEVERAL, EVERYWHERE])
def test_two_releases_have_nothing_in_common(options: tuple[str, ...]) -> None:
    first = {identity(one) for one in render("jobs", *ALL, *options)}
    elsewhere = {identity(one) for one in render("jobs-edit", *ALL, *options)}
    beside = {identity(one) for one in render("jobs", *ALL, *options, release="other")}
    crd = ("CustomResourceDefinition", "", "quantizationjobs.halftone.dev")
    assert first & elsewhere == first & beside == {crd}


def test_everything_carries_the_labels_and_they_win() -> None:
    objects = render(
        "jobs", *ALL, "--set-json", 'commonLabels={"team":"x","app.kubernetes.io/name":"y"}'
    )
    for one in objects:
        labels = one["metadata"]["labels"]
        assert labels["team"] == "x"
        assert labels["app.kubernetes.io/name"] == "halftone-operator"
        assert labels["app.kubernetes.io/instance"] == "halftone"
        assert labels["app.kubernetes.io/part-of"] == "halftone"
        assert labels["app.kubernetes.io/managed-by"] == "Helm"
        assert labels["app.kubernetes.io/version"] == __version__
        assert labels["helm.sh/chart"] == f"halftone-operator-{__version__}"


def test_the_operators_selector_finds_its_pods_and_not_that_of_the_test() -> None:
    objects = render("jobs", *ALL)
    (deployment,), (service,) = of_kind(objects, "Deployment"), of_kind(objects, "Service")
    (test,), (policy,) = of_kind(objects, "Pod"), of_kind(objects, "NetworkPolicy")
    selector = service["spec"]["selector"].items()
    assert deployment["spec"]["selector"]["matchLabels"].items() == selector
    assert policy["spec"]["podSelector"]["matchLabels"].items() == selector
    assert selector <= deployment["spec"]["template"]["metadata"]["labels"].items()
    assert not selector <= test["metadata"]["labels"].items()


def test_prometheus_finds_the_service_and_its_port() -> None:
    objects = render("jobs", *ALL, "--set", "serviceMonitor.labels.release=prometheus")
    (monitor,), (service,) = of_kind(objects, "ServiceMonitor"), of_kind(objects, "Service")
    selector = monitor["spec"]["selector"]["matchLabels"]
    assert selector.items() <= service["metadata"]["labels"].items()
    assert monitor["spec"]["endpoints"] == [{"port": "http", "interval": "30s"}]
    assert [port["name"] for port in service["spec"]["ports"]] == ["http"]
    assert monitor["metadata"]["labels"]["release"] == "prometheus"


def test_the_test_may_reach_an_operator_that_only_some_may_reach() -> None:
    scraper = 'networkPolicy.from=[{"namespaceSelector":{"matchLabels":{"name":"monitoring"}}}]'
    objects = render("jobs", *ALL, "--set-json", scraper)
    (policy,), (test,) = of_kind(objects, "NetworkPolicy"), of_kind(objects, "Pod")
    theirs, ours = policy["spec"]["ingress"][0]["from"]
    assert theirs == {"namespaceSelector": {"matchLabels": {"name": "monitoring"}}}
    assert ours["podSelector"]["matchLabels"].items() <= test["metadata"]["labels"].items()


def test_images_are_named_by_tag_by_digest_and_by_the_charts_version() -> None:
    digest = "halftone-worker@sha256:" + "a" * 64
    objects = render("jobs", "--set", f"images.worker={digest},images.operator=own/operator:7")
    settings = Settings.model_validate(yaml.safe_load(settings_of(objects)))
    assert settings.stages[StageName.Plan].image == f"{REGISTRY}/{digest}"
    assert (
        settings.stages[StageName.Calibrate].image
        == f"{REGISTRY}/halftone-calibrator:{__version__}"
    )
    assert {spec["containers"][0]["image"] for spec in pod_specs(objects)} == {
        f"{REGISTRY}/own/operator:7"
    }


def test_the_documented_command_lists_every_image() -> None:
    readme = (CHART / "README.md").read_text()
    command = next(line for line in readme.splitlines() if "| grep -oE" in line)
    script = command.replace("helm ", f"{program('helm')} ", 1)
    shown = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    names = ("calibrator", "endpoint", "operator", "worker")
    prefix = "registry.example.com/halftone"
    assert shown.split() == [f"{prefix}/halftone-{name}:{__version__}" for name in names]


def test_other_settings_are_another_pod_and_the_same_are_not() -> None:
    def checksum(*options: str) -> str:
        (deployment,) = of_kind(render("jobs", *options), "Deployment")
        found: str = deployment["spec"]["template"]["metadata"]["annotations"]["checksum/settings"]
        return found

    assert checksum() == checksum("--set", "commonLabels.team=x")
    assert checksum() != checksum("--set", "backoffLimit=4")
    assert checksum() == checksum("--set-json", 'podAnnotations={"checksum/settings":"x"}')


def test_the_crd_is_the_file_with_labels_and_is_kept() -> None:
    def schema(objects: list[Object]) -> tuple[Object, Object]:
        (crd,) = of_kind(objects, "CustomResourceDefinition")
        return crd["spec"], crd["metadata"].get("annotations", {})

    written = yaml.safe_load(CRD.read_text())["spec"]
    assert schema(render("jobs")) == (written, {"helm.sh/resource-policy": "keep"})
    assert schema(render("jobs", "--set", "crds.keep=false")) == (written, {})
    assert of_kind(render("jobs", "--set", "crds.enabled=false"), "CustomResourceDefinition") == []


def test_without_replicas_there_is_nothing_to_test() -> None:
    assert of_kind(render("jobs", "--set", "replicas=0"), "Pod") == []
    assert of_kind(render("jobs", "--set", "aggregateRoles=false"), "ClusterRole") == []


def test_it_is_part_of_another_chart_as_any_other(tmp_path: Any) -> None:
    (tmp_path / "Chart.yaml").write_text("apiVersion: v2\nname: whole\nversion: 1.0.0\n")
    (tmp_path / "charts").mkdir()
    (tmp_path / "charts" / "halftone-operator").symlink_to(CHART)
    values = {"global": {"x": 1}, "halftone-operator": {"image": {"registry": REGISTRY}}}
    (tmp_path / "values.yaml").write_text(json.dumps(values))
    command = [str(program("helm")), "template", "whole", str(tmp_path)]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "kind: Deployment" in found.stdout, found.stderr
