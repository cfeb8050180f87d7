"""What is made of the chart's `values.yaml`, and what Helm says to values that do not fit.

We test these aspects:
- schema, tables and version fit their sources, and a misfit is named with its remedy;
- every kind of mistake in a value is refused, with its place and what was wanted;
- comments that say too little, or what nobody understands, are refused;
- the oldest Kubernetes of `Chart.yaml` is the oldest that has what the chart and the stages use.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from halftone import __version__
from tests.cluster.chart import CHART, ROOT, render
from tools import charts


def walk(schema: Any) -> list[dict[str, Any]]:
    """Every object of a JSON schema that describes a mapping with named properties."""
    found = (
        [schema] if isinstance(schema, dict) and isinstance(schema.get("properties"), dict) else []
    )
    below = schema.values() if isinstance(schema, dict) else schema
    if isinstance(schema, dict | list):
        for one in below:
            found += walk(one)
    return found


def test_generated_files_fit() -> None:
    assert charts.check(CHART) == []
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["version"] == chart["appVersion"] == __version__


@pytest.mark.parametrize(
    ("file", "before", "after"),
    [
        ("values.schema.json", '"integer"', '"number"'),
        ("README.md", "| `replicas` | `1` |", "| `replicas` | `2` |"),
        ("Chart.yaml", f"appVersion: {__version__}", "appVersion: 9.9.9"),
        ("values.yaml", "replicas: 1", "replicas: 2"),
    ],
)
def test_a_misfit_is_named_with_its_remedy_which_helps(
    tmp_path: Path, file: str, before: str, after: str
) -> None:
    copy = Path(shutil.copytree(CHART, tmp_path / "chart"))
    text = (copy / file).read_text()
    assert before in text
    (copy / file).write_text(text.replace(before, after, 1))
    problems = charts.check(copy)
    stale = "values.schema.json" if file == "values.yaml" else file
    remedy = f"charts/chart/{stale} does not fit its values or the version; run `make generate`."
    assert remedy in problems
    charts.write(copy)
    assert charts.check(copy) == []


@pytest.mark.parametrize("words", [[], ["bogus"], ["check", "jobs"]])
def test_a_verb_that_it_does_not_know_is_refused(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert charts.main(words) == 2
    told = capsys.readouterr()
    assert (told.out, told.err) == ("", "charts: `write` or `check`, and nothing else.\n")


def test_no_mapping_takes_a_value_that_it_does_not_know() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    mappings = walk(schema)
    assert len(mappings) > 10
    assert [one for one in mappings if one["additionalProperties"] is not False] == []


@pytest.mark.parametrize(
    ("option", "told"),
    [
        ("--set=replicaas=2", "at '': additional properties 'replicaas' not allowed"),
        ("--set=policy.allowedSecret={a}", "at '/policy': additional properties 'allowedSecret'"),
        ("--set=stages.publish.queue=x", "at '/stages/publish': additional properties 'queue'"),
        ("--set=stages.plan.resources.limit.cpu=1", "at '/stages/plan/resources': additional"),
        (
            '--set-json=tolerations=[{"keey":"a"}]',
            "at '/tolerations/0': additional properties 'keey'",
        ),
        ("--set=serviceAccounts.annotations.all.x=y", "additional properties 'all' not allowed"),
        ("--set=replicas=two", "at '/replicas': got string, want integer"),
        ("--set=crds.enabled=yes", "at '/crds/enabled': got string, want boolean"),
        ("--set=commonLabels.a=1", "at '/commonLabels/a': got number, want string"),
        ("--set=watchNamespaces=jobs", "at '/watchNamespaces': got string, want null or array"),
        ("--set=watchNamespaces={a,a}", "at '/watchNamespaces': items at 0 and 1 are equal"),
        ("--set=watchNamespaces={Jobs}", "at '/watchNamespaces/0': 'Jobs' does not match pattern"),
        ("--set=logLevel=info", "at '/logLevel': value must be one of 'DEBUG', 'INFO', 'WARNING'"),
        ("--set=backoffLimit=21", "at '/backoffLimit': maximum: got 21, want 20"),
        ("--set=backoffLimit=null", "at '': missing property 'backoffLimit'"),
        ("--set=progressSeconds=0", "at '/progressSeconds': minimum: got 0, want 1"),
        ("--set=networkPolicy.apiServerPorts={70000}", "maximum: got 70,000, want 65,535"),
        ("--set=stages.plan.resources.limits.memory=4GB", "limits/memory': '4GB' does not match"),
        ("--set=stages.plan.queueName=a_b", "at '/stages/plan/queueName': 'a_b' does not match"),
        ("--set=images.worker=a:b:c", "at '/images/worker': 'a:b:c' does not match pattern"),
        ("--set=policy.allowedEndpoints={s3.test}", "at '/policy/allowedEndpoints/0': 's3.test'"),
        ("--set=serviceMonitor.interval=often", "at '/serviceMonitor/interval': 'often' does not"),
    ],
)
def test_a_mistake_is_refused_at_its_place(option: str, told: str) -> None:
    with pytest.raises(RuntimeError) as error:
        render("jobs", option)
    assert told in str(error.value)


@pytest.mark.parametrize(
    "option",
    [
        "--set=policy.allowedEndpoints=null",
        '--set-json=stages.quantize.resources.limits={"nvidia.com/gpu":1,"cpu":"500m"}',
        "--set=cacheSizeLimit=2Gi",
        "--set=image.tag=v1.0_rc-2",
        "--set=serviceMonitor.interval=1m30s",
    ],
)
def test_what_is_right_is_taken(option: str) -> None:
    assert render("jobs", option)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("replicas: 1\n", "`replicas` has no comment; say above it what it is"),
        (
            "# How many.\n# +typ integer\nreplicas: 1\n",
            "`replicas` has `+typ`; known are enum, items",
        ),
        ("# Where.\n# +type place\nregion: x\n", "`region` has the type 'place', which is none of"),
        ("# Which.\nnames: []\n", "`names` has no `+type` and no `+items`"),
    ],
)
def test_a_comment_that_says_too_little_is_refused(text: str, told: str) -> None:
    with pytest.raises(charts.Undescribed, match="^" + told.replace("+", r"\+")):
        charts.schema(charts.read(text))


# The first minor version of Kubernetes 1 that has it switched on without being asked.
FEATURES = {
    "x-kubernetes-validations": 25,
    "?.": 29,  # optional values in a policy's expressions
    "podFailurePolicy": 26,
    "podReplacementPolicy": 29,
    "unhealthyPodEvictionPolicy": 27,
    "kind: ValidatingAdmissionPolicy": 30,
    "selectableFields": 31,
}


def test_the_oldest_kubernetes_is_that_of_the_youngest_feature() -> None:
    places = [*(CHART / "templates").rglob("*.yaml"), CHART / "files" / "quantizationjob.yaml"]
    places += (ROOT / "src" / "halftone" / "control").glob("*.py")
    text = "\n".join(path.read_text() for path in places)
    assert [feature for feature in FEATURES if feature not in text] == []
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["kubeVersion"] == f">=1.{max(FEATURES.values())}.0-0"
