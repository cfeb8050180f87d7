"""The chart's alerts: rules by hand, their suites, their runbooks, and what Helm makes of them.

We test these aspects:
- Prometheus takes every file of rules, and every suite of the chart passes;
- every alert and every recording rule is in a suite, and every alert there is quiet once;
- a rule that was changed for the worse fails its suite;
- every alert has a runbook, a severity, a sentence and words on what to do first, and every runbook
  an alert; runbooks and alerts name no series and no value that nobody has;
- reasons and stages that rules choose by are those that the code has;
- Helm renders every file with the user's selector, objective, labels and runbooks, or no alerts.
"""

import re
import subprocess
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from halftone.scaling.inputs.names import FAMILIES
from halftone.spec.cluster import ChildStage, Ended, Waiting
from halftone.spec.names import Reason
from halftone.telemetry.endpoint import COUNTERS, GAUGES
from halftone.telemetry.operator import OperatorMetrics
from halftone.telemetry.scaling import GAUGES as SCALING
from tests.cluster.chart import ROOT
from tests.servers.prometheus import built
from tools import charts
from tools.servers import program

CHART: Final = ROOT / "charts" / "halftone-monitoring"
RUNBOOKS: Final = ROOT / "docs" / "runbooks"
HOME: Final = "https://halftone.dev/runbooks/"
OPERATOR: Final = ("--api-versions", "monitoring.coreos.com/v1")
FILES: Final = sorted(each.stem for each in (CHART / "rules").glob("*.yaml"))
# By hand; `scaling` is written by tools/rules.py.
BY_HAND: Final = ("endpoint", "jobs")


def groups(name: str) -> list[dict[str, Any]]:
    """The groups of one file of rules."""
    found: list[dict[str, Any]] = yaml.safe_load((CHART / "rules" / f"{name}.yaml").read_text())[
        "groups"
    ]
    return found


def rules(*names: str) -> list[dict[str, Any]]:
    """Every rule of some files."""
    return [rule for name in names for group in groups(name) for rule in group["rules"]]


def alerts() -> dict[str, dict[str, Any]]:
    """Every alert, by its name."""
    return {rule["alert"]: rule for rule in rules(*FILES) if "alert" in rule}


def suite(name: str) -> dict[str, Any]:
    """One suite of promtool."""
    found: dict[str, Any] = yaml.safe_load((CHART / "tests" / f"{name}.yaml").read_text())
    return found


def cases(name: str) -> list[dict[str, Any]]:
    """What a suite says of alerts."""
    return [case for test in suite(name)["tests"] for case in test.get("alert_rule_test", ())]


def promtool(*words: str | Path) -> subprocess.CompletedProcess[str]:
    command = [built("promtool"), *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def rendered(*options: str) -> dict[str, dict[str, Any]]:
    """The PrometheusRules that Helm renders, by name. Raises RuntimeError with what it says when it
    refuses.
    """
    command = [str(program("helm")), "template", "seen", str(CHART), "--namespace", "team"]
    found = subprocess.run(
        [*command, *OPERATOR, *options], capture_output=True, text=True, check=False
    )
    if found.returncode:
        raise RuntimeError(found.stderr)
    every = yaml.safe_load_all(found.stdout)
    return {each["metadata"]["name"]: each for each in every if each["kind"] == "PrometheusRule"}


@pytest.mark.parametrize("name", FILES)
def test_prometheus_takes_the_rules(name: str) -> None:
    path = CHART / "rules" / f"{name}.yaml"
    found = promtool("check", "rules", "--lint=all", "--lint-fatal", path)
    assert found.returncode == 0, found.stdout + found.stderr
    assert f"{len(rules(name))} rules found" in found.stdout


@pytest.mark.parametrize("name", BY_HAND)
def test_the_suite_passes(name: str) -> None:
    found = promtool("test", "rules", CHART / "tests" / f"{name}.yaml")
    assert found.returncode == 0, found.stdout + found.stderr


@pytest.mark.parametrize("name", BY_HAND)
def test_every_alert_is_seen_to_fire_and_to_be_quiet(name: str) -> None:
    mine = {rule["alert"] for rule in rules(name) if "alert" in rule}
    counts: dict[str, list[int]] = {alert: [] for alert in mine}
    for case in cases(name):
        counts[case["alertname"]].append(len(case["exp_alerts"]))
    assert {alert for alert, found in counts.items() if max(found, default=0) > 0} == mine
    assert {alert for alert, found in counts.items() if min(found, default=1) == 0} == mine
    told = [each for case in cases(name) for each in case["exp_alerts"]]
    for each in told:
        assert each["exp_labels"]["severity"] in ("critical", "warning")
        assert set(each["exp_annotations"]) == {"summary", "description", "runbook_url"}


@pytest.mark.parametrize("name", BY_HAND)
def test_every_recording_rule_has_a_value_in_the_suite(name: str) -> None:
    text = (CHART / "tests" / f"{name}.yaml").read_text()
    recorded = [rule["record"] for rule in rules(name) if "record" in rule]
    assert [each for each in recorded if f"'{each}{{" not in text] == []
    assert len(set(recorded)) == len(recorded)


# A file of rules, what is changed in it, and the suite's test that must notice.
WORSE: Final = (
    ("endpoint", 'status=~"5.."', 'status=~"[45].."', "answers by status"),
    ("endpoint", "      0 * halftone:replica_answers_total", "      0 * vector(0)", "answers by"),
    ("endpoint", "and halftone:model_answers:rate1h > 1 / 60", "", "a replica whose answers"),
    ("endpoint", "and halftone:model_requests_finished:rate1h > 1 / 60", "", "first tokens"),
    ("endpoint", 'le="2.5"', 'le="5.0"', "first tokens"),
    ("endpoint", "unless sum without (le)", "and sum without (le)", "where requests"),
    (
        "endpoint",
        "unless (halftone:model_generation",
        "and (halftone:model_generation",
        "where req",
    ),
    ("endpoint", "> 6 * 0.02", "> 2 * 0.02", "first tokens"),
    ("endpoint", "usage_ratio:avg[2m]) > 0.9", "usage_ratio:max[2m]) > 0.9", "a full cache"),
    ("endpoint", "usage_ratio:avg[2m]) > 0.9", "usage_ratio:avg[30s]) > 0.9", "a full cache"),
    ("endpoint", "min by (namespace, job, instance, replica) (", "(", "a replica that is down"),
    ("endpoint", "0.05 * halftone:model_requests", "0.01 * halftone:model_requests", "preemptions"),
    ("endpoint", ">= 0.9 * avg_over_time", ">= 0.0 * avg_over_time", "at the bound"),
    (
        "endpoint",
        "and on (model, namespace, job, instance) halftone_scaling_leader{} == 1",
        "",
        "who",
    ),
    ("endpoint", "halftone_scaling_desired_replicas{}[2m]", "halftone_scaling_x{}[2m]", "whoever"),
    ("endpoint", ") and on (model_name, namespace) halftone:model_replicas:count", ")", "a count"),
    ("endpoint", "[1d] offset 1h", "[10m]", "a lead is held"),
    ("endpoint", '{deployment=~"EndpointServer:.*"}', "", "a replica that is down"),
    (
        "endpoint",
        "ray_vllm_prompt_tokens_total{}[1d]",
        "ray_vllm_x{}[1d]",
        "a replica that is down",
    ),
    ("endpoint", '{source="native"}[1d]', '{source="native"}[6h]', "where nothing is left"),
    ("endpoint", '{source="native"}[6h]', '{source="native"}[5m]', "where nothing is left"),
    ("endpoint", "(halftone:replica_up:min or halftone:model", "(halftone:model", "a replica that"),
    ("endpoint", "up:min or halftone:model_replicas:count)", "up:min)", "where nothing is left"),
    ("endpoint", "(-[a-z0-9]{5})?", "", "where nothing is left"),
    (
        "endpoint",
        "(namespace, ray_io_cluster, application",
        "(namespace, application",
        "of two end",
    ),
    ("endpoint", "ready_replicas:max[30m])", "ready_replicas:max[3m])", "a replica that is wanted"),
    (
        "endpoint",
        "and halftone:model_scaling_ready_replicas:max offset 30m",
        "",
        "a replica that is w",
    ),
    (
        "endpoint",
        "unless halftone:model_scaling_lead_seconds:max > 1800",
        "",
        "a replica that is w",
    ),
    ("endpoint", "unless halftone:model_scaling_observe_only:max == 1", "", "a replica that is w"),
    ("endpoint", "[1d] offset 30m", "[1m] offset 30m", "starts that fail"),
    ("endpoint", "halftone:model_artifact_refusals:increase30m) >= 3", "vector(1)) >= 3", "starts"),
    ("jobs", '{stage=~"plan|target|clean-up"} > 1800', "> 1800", "each stage"),
    ("jobs", 'condition="Succeeded", status="Unknown", reason=~"Un', 'reason=~"Queued|Un', "a job"),
    ("jobs", ', reason!="NotReached"}', "}", "what could not"),
    ("jobs", "offset 1d or", "offset 1h or", "what could not"),
    (
        "jobs",
        "min_over_time(halftone:jobs",
        "max_over_time(halftone:jobs",
        "what fails every night",
    ),
    ("jobs", "(0.98 * count_over_time", "(1.02 * count_over_time", "what fails every night"),
    ("jobs", "(0.98 * count_over_time", "(0.1 * count_over_time", "what fails every night"),
    ("jobs", "or halftone:operator_leaders:sum == 0", "", "an operator"),
    ("jobs", "max by (namespace, condition", "sum by (namespace, condition", "of two replicas"),
)


@pytest.mark.parametrize(("name", "before", "after", "test"), WORSE)
def test_a_worse_rule_fails_its_suite(
    tmp_path: Path, name: str, before: str, after: str, test: str
) -> None:
    for each in FILES:
        text = (CHART / "rules" / f"{each}.yaml").read_text()
        if each == name:
            assert before in text
            text = text.replace(before, after)
        (tmp_path / "rules").mkdir(exist_ok=True)
        (tmp_path / "rules" / f"{each}.yaml").write_text(text)
    (tmp_path / "tests").mkdir()
    path = tmp_path / "tests" / f"{name}.yaml"
    path.write_text((CHART / "tests" / f"{name}.yaml").read_text())
    assert promtool("check", "rules", tmp_path / "rules" / f"{name}.yaml").returncode == 0
    found = promtool("test", "rules", f"--run={test}", path)
    assert "FAILED" in found.stdout + found.stderr


def test_every_alert_says_who_since_when_and_what_to_do_first() -> None:
    assert 12 <= len(alerts()) <= 14
    for name, alert in alerts().items():
        assert re.fullmatch(r"[A-Za-z]+", name)
        assert re.fullmatch(r"\d+[mh]", alert["for"])
        assert alert["labels"]["severity"] in ("critical", "warning")
        assert set(alert["annotations"]) == {"summary", "description", "runbook_url"}
        assert alert["annotations"]["runbook_url"] == HOME + name
        assert "See first" in alert["annotations"]["description"]
        assert "$labels" in alert["annotations"]["summary"]
    text = "".join((CHART / "rules" / f"{name}.yaml").read_text() for name in FILES)
    assert sorted(re.findall(r"(?m)^ *- alert: ([A-Za-z]+)$", text)) == sorted(alerts())


def test_every_alert_has_a_runbook_and_every_runbook_an_alert() -> None:
    there = {each.stem for each in RUNBOOKS.glob("*.md")} - {"README"}
    assert there == set(alerts())
    index = (RUNBOOKS / "README.md").read_text()
    assert re.findall(r"\]\((\w+)\.md\)", index) == list(dict.fromkeys(alerts()))
    for name in there:
        text = (RUNBOOKS / f"{name}.md").read_text()
        assert text.startswith(f"# {name}\n")
        assert re.findall(r"(?m)^## (.+)$", text) == [
            "What it means",
            "What users see",
            "Look first",
            "What usually causes it",
            "How to make it stop",
            "When it is no fault",
        ]


def test_runbooks_and_alerts_name_only_series_that_there_are() -> None:
    recorded = {rule["record"] for rule in rules(*FILES) if "record" in rule}
    operator = {value._name for key, value in vars(OperatorMetrics()).items() if key != "registry"}
    scraped = {name for family in FAMILIES for name in family.series.values()}
    ours = {*operator, *COUNTERS, *GAUGES, *SCALING, "halftone_metric_contract_ok"}
    for path in (*RUNBOOKS.glob("*.md"), *(CHART / "rules" / f"{name}.yaml" for name in BY_HAND)):
        text = path.read_text()
        assert set(re.findall(r"halftone:\w+:\w+", text)) <= recorded, path
        named = re.findall(r"\b(?:ray_)?(halftone_(?:endpoint|scaling|operator|stage)_\w+)", text)
        short = {re.sub(r"_(total|bucket|count)$", "", each) for each in named}
        assert short <= ours, path
        assert set(re.findall(r"\b(?:vllm:|ray_vllm_)\w+", text)) <= scraped, path


def test_runbooks_name_only_values_that_charts_have() -> None:
    known = set()
    for path in (ROOT / "charts").glob("*/values.yaml"):
        values = charts.read(path.read_text())
        while values:
            known |= {each.name for each in values}
            values = [below for each in values for below in each.below]
    first = {name.partition(".")[0] for name in known if "." in name}
    for path in RUNBOOKS.glob("*.md"):
        words = re.findall(r"`([a-z]\w+)\.([\w.]+)`", path.read_text())
        told = {f"{head}.{rest}" for head, rest in words if head in first}
        assert told <= known, path


def test_rules_choose_by_reasons_and_stages_that_there_are() -> None:
    known = {*Reason, *Waiting, *Ended}
    chosen = re.findall(r'reason!?=~?"([^"]+)"', "".join(each["expr"] for each in rules(*BY_HAND)))
    assert {one for each in chosen for one in each.split("|")} <= known
    stuck = alerts()["JobStuck"]["expr"]
    stages = re.findall(r'stage=~"([^"]+)"', stuck)
    assert sorted(one for each in stages for one in each.split("|")) == sorted(ChildStage)
    patient = {Waiting.Queued, Waiting.Disrupted, Waiting.Retrying}
    (waiting,) = re.findall(r'reason=~"([^"]+)"', stuck)
    assert set(waiting.split("|")) == set(Waiting) - patient


def test_helm_renders_every_file_as_it_is() -> None:
    found = rendered()
    assert sorted(found) == [f"seen-{name}" for name in FILES]
    for name in FILES:
        assert found[f"seen-{name}"]["spec"]["groups"] == groups(name)


def test_helm_puts_in_what_the_user_says() -> None:
    found = rendered(
        *("--set", "rules.selector.namespace=models", "--set", "alerts.labels.team=serving"),
        *("--set", "alerts.runbookUrl=https://wiki/halftone/", "--set", "rules.interval=30s"),
        *("--set", "objectives.timeToFirstTokenSeconds=10"),
    )
    endpoint, jobs = found["seen-endpoint"]["spec"]["groups"], found["seen-jobs"]["spec"]["groups"]
    assert {group["interval"] for group in (*endpoint, *jobs)} == {"30s"}
    mine = [rule for group in endpoint for rule in group["rules"]]
    for rule, file in zip(mine, rules("endpoint"), strict=True):
        wanted = file["expr"].replace("{}", '{namespace="models"}')
        assert rule["expr"] == wanted.replace('le="2.5"', 'le="10.0"')
    for rule in (*mine, *(rule for group in jobs for rule in group["rules"])):
        if "alert" in rule:
            assert rule["labels"]["team"] == "serving"
            assert rule["labels"]["severity"] == alerts()[rule["alert"]]["labels"]["severity"]
            link = rule["annotations"]["runbook_url"]
            assert link == f"https://wiki/halftone/{rule['alert']}"
    (burn,) = (rule for rule in mine if rule.get("alert") == "TimeToFirstTokenBurn")
    assert burn["annotations"]["summary"].endswith("later than 10 seconds.")
    assert "2.5" not in str(burn)


def test_every_series_of_a_scrape_of_endpoints_has_a_place_for_the_selector() -> None:
    scraped = r"\b(?:vllm:|ray_(?!io_)|halftone_scaling_)\w+|\bup\b"
    for rule in rules("endpoint"):
        found = re.findall(rf"(?:{scraped})", rule["expr"])
        assert len(found) == rule["expr"].count("{}"), rule


def test_severity_is_the_alerts_own() -> None:
    found = rendered("--set", "alerts.labels.severity=none")
    (group,) = (g for g in found["seen-jobs"]["spec"]["groups"] if "alerts" in g["name"])
    assert {rule["labels"]["severity"] for rule in group["rules"]} == {"critical", "warning"}


def test_without_alerts_what_they_are_computed_from_stays() -> None:
    found = rendered("--set", "alerts.enabled=false")
    left = [r for each in found.values() for g in each["spec"]["groups"] for r in g["rules"]]
    assert left == [rule for name in FILES for rule in rules(name) if "record" in rule]


@pytest.mark.parametrize("seconds", ["1", "2.5", "0.25", "2560"])
def test_an_objective_that_vllm_counts_by_is_taken(tmp_path: Path, seconds: str) -> None:
    values = tmp_path / "values.yaml"
    values.write_text(f"objectives: {{timeToFirstTokenSeconds: {seconds}}}\n")
    found = rendered("--values", str(values))["seen-endpoint"]
    path = tmp_path / "rules.yaml"
    path.write_text(yaml.safe_dump(found["spec"]))
    assert promtool("check", "rules", path).returncode == 0
    bound = seconds if "." in seconds else f"{seconds}.0"
    assert str(found).count(f'le="{bound}"') == 4


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("objectives.timeToFirstTokenSeconds=3", "is 3, and vLLM does not count by that"),
        ("objectives.timeToFirstTokenSeconds=soon", "timeToFirstTokenSeconds"),
        ("alerts.runbookUrl=wiki", "runbookUrl"),
        ("alerts.enabled=yes please", "enabled"),
    ],
)
def test_values_that_cannot_be_are_refused(option: str, said: str) -> None:
    with pytest.raises(RuntimeError, match=re.escape(said)):
        rendered("--set", option)


def test_the_readme_names_every_rule() -> None:
    told = (CHART / "README.md").read_text()
    recorded = [rule["record"] for rule in rules(*BY_HAND) if "record" in rule]
    short = [re.sub(r"^halftone:(replica_|model_)?", "", name) for name in recorded]
    assert [name for name in short if f"`{name}`" not in told] == []
    assert [name for name in alerts() if f"`{name}`" not in told] == []
