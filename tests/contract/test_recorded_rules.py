"""The chart's rules on series that real servers exported, and the alert that one was renamed.

We test these aspects:
- every recording rule makes of the recorded pages what is reckoned from them without PromQL, for
  replicas that vLLM exports itself and for those behind Ray;
- MetricContractBroken is quiet on what was recorded, and fires when a server renames a metric: by
  what moves together and is not seen together, and by what the doctor says of the altered page,
  also where a label is gone.
"""

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from prometheus_client import generate_latest

from halftone.doctor.expositions import seen_on
from halftone.doctor.judging import Circumstances, judge
from halftone.telemetry.contract import Exists, load_contract
from halftone.telemetry.doctor import DoctorMetrics
from tests.contract.test_chart_alerts import CHART, FILES, groups, promtool, rules
from tests.recorded import (
    RECORDING,
    input_series,
    needed_lines,
    needs_on,
    renamed,
    without_label,
)
from tests.recorded_values import Of, expected

EXPECTED: Final = expected(RECORDING)
RECORDS: Final = [rule["record"] for rule in rules(*FILES) if "record" in rule]
STEP: Final = f"{RECORDING.interval_s}s"
MOMENTS: Final = len(next(iter(RECORDING.pages.values())))
NAMESPACES: Final = {"native": "vllm", "ray": "ray"}
# Steps after which a server exports a metric no more, and steps in all: five minutes, and twenty.
RENAMED, STEPS = 20, 84
ALERT: Final = "MetricContractBroken"
# What is told of each metric that moves together with others.
TOGETHER: Final = {
    "request_success_total": "requests finished",
    "prompt_tokens_total": "prompt tokens",
    "generation_tokens_total": "generated tokens",
    "time_to_first_token_seconds_bucket": "time to first token",
    "kv_cache_usage_perc": "KV cache usage",
}
CASES: Final = [
    # Through Ray an idle replica has no gauge, so that one alone says nothing there.
    ("native", "num_requests_running", "requests running"),
    *(("native", name, told) for name, told in TOGETHER.items()),
    *(("ray", name, told) for name, told in TOGETHER.items()),
]
ROUND: Final = 1e-9
MODELS: Final = {"native": "pocket-native", "ray": "pocket"}


def evaluated(folder: Path, tests: list[dict[str, Any]], every: str = STEP) -> str:
    """What promtool says that is not as expected, of rules that run `every` so often."""
    suite = {
        "rule_files": [str(CHART / "rules" / f"{name}.yaml") for name in FILES],
        "evaluation_interval": every,
        "group_eval_order": [
            group["name"] for name in ("scaling", "endpoint", "jobs") for group in groups(name)
        ],
        "fuzzy_compare": True,
        "tests": [{"interval": STEP, **test} for test in tests],
    }
    path = folder / "suite.yaml"
    path.write_text(yaml.safe_dump(suite, sort_keys=False))
    found = promtool("test", "rules", path)
    told = found.stdout + found.stderr
    assert (found.returncode == 0) == ("SUCCESS" in told), told
    return "" if found.returncode == 0 else told


def wanted(record: str, at: str, values: Mapping[Of, float]) -> dict[str, Any]:
    """A rule's values at one moment, all of them."""
    samples = [
        {
            "labels": f"{{{', '.join(f'{name}={json.dumps(text)}' for name, text in labels)}}}",
            "value": rounded(value),
        }
        for labels, value in values.items()
    ]
    return {"expr": f"round({record}, {ROUND})", "eval_time": at, "exp_samples": samples}


def rounded(value: float) -> float:
    """As PromQL does it; sums that are made in another order differ in their last digit."""
    return math.floor(value * (1 / ROUND) + 0.5) / (1 / ROUND)


def test_every_rule_records_what_follows_from_the_pages(tmp_path: Path) -> None:
    at = f"{(MOMENTS - 1) * RECORDING.interval_s}s"
    cases = [wanted(record, at, EXPECTED.get(record, {})) for record in RECORDS]
    suite = {"input_series": input_series(RECORDING.pages), "promql_expr_test": cases}
    assert evaluated(tmp_path, [suite]) == ""


def test_a_value_that_does_not_follow_is_noticed(tmp_path: Path) -> None:
    record = "halftone:model_generation_tokens:rate2m"
    at = f"{(MOMENTS - 1) * RECORDING.interval_s}s"
    wrong = {labels: 1.01 * value for labels, value in EXPECTED[record].items()}
    suite = {
        "input_series": input_series(RECORDING.pages),
        "promql_expr_test": [wanted(record, at, wrong)],
    }
    assert record in evaluated(tmp_path, [suite])


def test_no_rule_is_without_values() -> None:
    assert set(RECORDS) - set(EXPECTED) == set()


@pytest.mark.parametrize("namespace", sorted(NAMESPACES))
def test_what_is_recorded_of_a_model_under_load_makes_sense(namespace: str) -> None:
    def value(name: str, *more: tuple[str, str]) -> float:
        of = (("model_name", MODELS[namespace]), ("namespace", namespace), *more)
        return EXPECTED[f"halftone:model_{name}"][tuple(sorted(of))]

    assert value("replicas:count") == (1 if namespace == "native" else 2)
    assert value("requests_running:sum") > 0
    assert 0 < value("kv_cache_usage_ratio:avg") <= value("kv_cache_usage_ratio:max") <= 1
    for name in ("requests_finished", "prompt_tokens", "generation_tokens"):
        assert value(f"{name}:rate2m") > 0
    assert 0 <= value("prompt_tokens_computed:rate2m") <= value("prompt_tokens:rate2m")
    assert 0 <= value("first_tokens_in_time:ratio_rate5m") <= 1
    assert value("answers_failed:ratio_rate5m") == 0
    every = value("time_to_first_token_seconds_bucket:rate5m", ("le", "+Inf"))
    assert 0 < value("time_to_first_token_seconds_bucket:rate5m", ("le", "2.5")) <= every
    assert value("scaling_held:max") == 0
    assert value("scaling_desired_replicas:max") == value("replicas:count")


def firing(labels: Mapping[str, str] | None) -> dict[str, Any]:
    """The alert with these labels at the end, or none."""
    every = {"alertname": ALERT, "alertstate": "firing", "severity": "warning", **(labels or {})}
    written = ", ".join(f'{name}="{value}"' for name, value in every.items())
    samples = [] if labels is None else [{"labels": f"ALERTS{{{written}}}", "value": 1}]
    minutes = STEPS * RECORDING.interval_s // 60
    expression = f'ALERTS{{alertname="{ALERT}", alertstate="firing"}}'
    return {"expr": expression, "eval_time": f"{minutes}m", "exp_samples": samples}


def quiet() -> dict[str, Any]:
    """No alert, not even one that is about to be, when the metric is renamed."""
    minutes = RENAMED * RECORDING.interval_s // 60
    return {"expr": f'ALERTS{{alertname="{ALERT}"}}', "eval_time": f"{minutes}m", "exp_samples": []}


def from_a_page(place: str, gone: str = "") -> list[dict[str, str]]:
    """Its series, prolonged; `gone` is exported no more from some step on."""
    found = []
    for each in input_series({place: RECORDING.pages[place]}, STEPS + 1):
        values = each["values"].split()
        if each["series"].startswith(f"{gone}{{"):
            values = [*values[: RENAMED + 1], "stale"]
        found.append({**each, "values": " ".join(values)})
    return found


def test_the_alert_notices_a_renamed_metric_by_what_moves_with_it(tmp_path: Path) -> None:
    tests: list[dict[str, Any]] = [
        {
            "name": f"{place} as it was recorded",
            "input_series": from_a_page(place),
            "promql_expr_test": [quiet(), firing(None)],
        }
        for place in NAMESPACES.values()
    ]
    for namespace, name, told in CASES:
        place = NAMESPACES[namespace]
        renamed_name = f"{'vllm:' if place == 'vllm' else 'ray_vllm_'}{name}"
        labels = {"model_name": MODELS[namespace], "namespace": namespace, "missing": told}
        tests.append(
            {
                "name": f"{renamed_name} renamed",
                "input_series": from_a_page(place, renamed_name),
                "promql_expr_test": [quiet(), firing(labels)],
            }
        )
    assert evaluated(tmp_path, tests, "30s") == ""


def doctors_page(pages: Iterable[str]) -> str:
    """What a doctor that keeps looking exports of these pages."""
    needs = load_contract()
    metrics = DoctorMetrics("prometheus:9090")
    diagnosis = judge(needs, seen_on(pages, needs), Circumstances(False))
    metrics.tell(diagnosis.missing_by_family())
    return generate_latest(metrics.registry).decode()


def test_the_alert_notices_what_the_doctor_finds(tmp_path: Path) -> None:
    last = {name: needed_lines(page) for name, page in RECORDING.last().items()}
    well = doctors_page(last.values())
    found: dict[str, str] = {}
    for need, place in needs_on({name: [page] for name, page in last.items()}).values():
        spoiled = [
            without_label(last[place], need.name, label)
            for label in need.needed_labels(is_scraped=False)
        ]
        if need.exists in (Exists.Always, Exists.UnderLoad):
            spoiled.append(renamed(last[place], need.name))
        for page in spoiled:
            found.setdefault(doctors_page({**last, place: page}.values()), need.name)
    assert well not in found
    tests = [story("the pages as they were recorded", well, well, None)]
    for page, name in found.items():
        tests.append(story(f"{name} altered", well, page, {"prometheus": "prometheus:9090"}))
    assert len(tests) == 4  # one of each family: vllm, ray, halftone
    assert evaluated(tmp_path, tests, "30s") == ""


def story(name: str, before: str, after: str, labels: Mapping[str, str] | None) -> dict[str, Any]:
    """The doctor's page until the metric is renamed, and from then on."""
    pages = [before] * (RENAMED + 1) + [after] * (STEPS - RENAMED)
    return {
        "name": name,
        "input_series": input_series({"doctor": pages}),
        "promql_expr_test": [quiet(), firing(labels)],
    }
