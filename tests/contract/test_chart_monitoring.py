"""The chart `halftone-monitoring`: its recording rules, and what Helm makes of them.

We test these aspects:
- the rules are those that follow from the names that scaling reads, and Prometheus takes them;
- what they make of series is what the chart's own suites say, and a rule that is wrong fails them;
- Helm renders the same rules, with the user's interval, labels and selector;
- values that cannot be are refused with a sentence; README and notes say what there is.
"""

import re
import subprocess
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from halftone.scaling.inputs.names import FAMILIES, RECORDED
from tests.cluster.chart import ROOT
from tests.servers.prometheus import built
from tools import charts, rules
from tools.servers import program

CHART: Final = ROOT / "charts" / "halftone-monitoring"
SUITE: Final = CHART / "tests" / "scaling.yaml"
OPERATOR: Final = ("--api-versions", "monitoring.coreos.com/v1")


def promtool(*words: str | Path) -> subprocess.CompletedProcess[str]:
    command = [built("promtool"), *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def helm(*options: str) -> str:
    """What Helm renders. Raises RuntimeError with what it says when it refuses."""
    command = [str(program("helm")), "template", "seen", str(CHART), "--namespace", "team"]
    found = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
    if found.returncode:
        raise RuntimeError(found.stderr)
    return found.stdout


def rendered(*options: str) -> dict[str, Any]:
    """The PrometheusRule of the generated rules."""
    found = {
        each["metadata"]["name"]: each for each in yaml.safe_load_all(helm(*OPERATOR, *options))
    }
    told: dict[str, Any] = found["seen-scaling"]
    return told


def plain() -> list[dict[str, Any]]:
    """The groups of the file that a plain Prometheus takes."""
    groups: list[dict[str, Any]] = yaml.safe_load(rules.RULES.read_text())["groups"]
    return groups


def test_generated_files_fit() -> None:
    assert charts.check(CHART) == []
    assert rules.RULES.read_text() == rules.written()


def test_prometheus_takes_the_rules() -> None:
    found = promtool("check", "rules", "--lint=all", "--lint-fatal", rules.RULES)
    assert found.returncode == 0, found.stdout + found.stderr
    assert f"{sum(len(group['rules']) for group in plain())} rules found" in found.stdout


def test_the_suite_passes() -> None:
    found = promtool("test", "rules", SUITE)
    assert found.returncode == 0, found.stdout + found.stderr


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('0 * halftone:replica_sample_timestamp_seconds{source="ray"}', "vector(0) > 1"),
        ("or on (model_name, namespace) (", "or ("),
        ("== 1", ">= 0"),
        ("max by (model_name, namespace, replica)", "sum by (model_name, namespace, replica)"),
        ("timestamp(vllm:num_requests_running{})", "vllm:num_requests_running{} * 0 + time()"),
    ],
)
def test_a_wrong_rule_fails_the_suite(tmp_path: Path, before: str, after: str) -> None:
    text = rules.RULES.read_text()
    assert before in text
    (tmp_path / "rules").mkdir()
    (tmp_path / "rules" / rules.RULES.name).write_text(text.replace(before, after))
    (tmp_path / "tests").mkdir()
    suite = tmp_path / "tests" / SUITE.name
    suite.write_text(SUITE.read_text())
    assert promtool("check", "rules", tmp_path / "rules" / rules.RULES.name).returncode == 0
    assert promtool("test", "rules", suite).returncode != 0


def test_every_series_that_scaling_reads_is_in_a_rule() -> None:
    text = rules.RULES.read_text()
    names = {name for family in FAMILIES for name in family.series.values()}
    assert {name for name in names if not re.search(rf"{name}[{{\s]", text)} == set()
    recorded = [rule["record"] for group in plain() for rule in group["rules"]]
    assert {*RECORDED.series.values(), RECORDED.time} <= set(recorded)
    assert len(set(recorded)) == len(recorded)


def test_the_readme_names_every_rule() -> None:
    told = (CHART / "README.md").read_text()
    recorded = [rule["record"] for group in plain() for rule in group["rules"]]
    short = [re.sub(r"^halftone:(replica|model)_", "", name) for name in recorded]
    assert [name for name in short if f"`{name}`" not in told] == []


def test_helm_renders_the_rules_of_the_file() -> None:
    rule = rendered()
    assert (rule["kind"], rule["metadata"]["name"]) == ("PrometheusRule", "seen-scaling")
    assert rule["spec"]["groups"] == plain()


def test_helm_puts_the_selector_into_every_series_of_a_scrape() -> None:
    options = ("--set", "rules.selector.namespace=models", "--set", 'rules.selector.team=a"b')
    rule = rendered(*options, "--set", "rules.interval=5s", "--set", "rules.labels.release=p")
    assert rule["metadata"]["labels"]["release"] == "p"
    (group,) = rule["spec"]["groups"]
    assert group["interval"] == "5s"
    chosen = '{namespace="models", team="a\\"b"}'
    for mine, file in zip(group["rules"], plain()[0]["rules"], strict=True):
        assert mine["expr"] == file["expr"].replace("{}", chosen)
        raw = re.findall(r"\b(?:vllm:|ray_vllm_|ray_serve_)\w+", mine["expr"])
        assert mine["expr"].count(chosen) == len(raw)


def test_what_helm_renders_with_a_selector_is_taken_by_prometheus(tmp_path: Path) -> None:
    rule = rendered("--set", "rules.selector.namespace=models")
    path = tmp_path / "rules.yaml"
    path.write_text(yaml.safe_dump(rule["spec"]))
    assert promtool("check", "rules", path).returncode == 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--set", "rules.selector.na-me=a"), "'na-me', which is no name of a label"),
        (("--set", "rules.selector.replica=a"), "which the rules themselves decide by"),
        (("--set", "rules.interval=often"), "rules/interval"),
        (("--set", "rules.intervall=5s"), "additional properties 'intervall' not allowed"),
    ],
)
def test_values_that_cannot_be_are_refused(options: tuple[str, ...], said: str) -> None:
    with pytest.raises(RuntimeError, match=re.escape(said)):
        helm(*OPERATOR, *options)


def test_without_the_operator_of_prometheus_the_way_out_is_told() -> None:
    with pytest.raises(RuntimeError, match=r"give the files of `rules/` to Prometheus"):
        helm()


def test_the_notes_ask_for_what_is_there() -> None:
    text = (CHART / "templates" / "NOTES.txt").read_text()
    told = text.replace("{{ .Release.Name }}", "seen").replace("{{ .Release.Namespace }}", "team")
    rule = rendered()
    assert f"prometheusrule -n team {rule['metadata']['name']}\n" in told
    asked = re.findall(r"halftone:\w+(?::\w+)?", told)
    recorded = {each["record"] for group in plain() for each in group["rules"]}
    assert {name for name in asked if not name.endswith("_")} <= recorded


def test_the_command_of_the_readme_renders() -> None:
    text = (CHART / "README.md").read_text()
    (command,) = re.findall(r"helm install monitoring .*", text)
    words = command.split()
    found = subprocess.run(
        [str(program("helm")), "template", *words[2:], *OPERATOR],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "release: prometheus" in found.stdout, found.stderr
