"""`halftone doctor` at a real Prometheus, which scrapes exporters that a test can spoil.

We test these aspects:
- a replica's own metrics, and those through Ray, pass as they stand, with their true age;
- a metric that is renamed on its way, and a label that is dropped there, are named;
- what is no longer scraped is old, with its age, and what never was is missing;
- rules of the chart that this Prometheus runs are well; one of another version, one that fails and
  a model of which nothing is recorded are named;
- with `--metrics-port` it goes on, exports what it found, and takes it back when nobody answers.
"""

import json
import re
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

from halftone.doctor.prometheus import past
from halftone.telemetry.contract import Source, load_contract
from tests.commands import halftone
from tests.doubles.exporters import AnsweringServer, Exporter, native_page, ray_page, worked
from tests.expositions import Answers, scraped
from tests.servers.lasting import Lasting
from tests.servers.prometheus import Job, Prometheus
from tests.stated_times import RULES

KV = "vllm:kv_cache_usage_perc"
SPOILED = (
    {
        "source_labels": ["__name__"],
        "regex": KV,
        "target_label": "__name__",
        "replacement": "vllm:gpu_cache_usage_perc",
    },
    {
        "source_labels": ["__name__"],
        "regex": "vllm:num_requests_waiting",
        "target_label": "model_name",
        "replacement": "",
    },
)
# This Prometheus runs no rules.
WITHOUT = ("--without", "rules", "--without", "alerts")
PAGES = {
    "whole": (native_page, ()),
    "ray": (ray_page, ()),
    "spoiled": (native_page, SPOILED),
    "gone": (native_page, ()),
}


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """One server; each case has a label `case` of its own."""
    with ExitStack() as stack:
        jobs = {}
        for case, (page, relabelling) in PAGES.items():
            exporter = stack.enter_context(Exporter(page, [worked()]))
            jobs[case] = Job([exporter.address], {"case": case}, relabelling)
        server = stack.enter_context(Prometheus(tmp_path_factory.mktemp("doctor"), jobs))
        for case in PAGES:
            server.until(f'up{{case="{case}"}} == 1')
        yield server


def examined(server: Prometheus, case: str) -> tuple[int, dict[str, dict[str, Any]]]:
    """Exit code, and each metric by name."""
    options = ("--json", "--selector", f"case={case}", "--max-age", "30", *WITHOUT)
    found = halftone("doctor", "--prometheus", server.url, *options)
    return found.code, {each["name"]: each for each in json.loads(found.out)["metrics"]}


def in_state(metrics: dict[str, dict[str, Any]], *states: str) -> set[str]:
    return {name for name, each in metrics.items() if each["state"] in states}


@pytest.mark.parametrize("case", ["whole", "ray"])
def test_what_replicas_export_passes(prometheus: Prometheus, case: str) -> None:
    code, metrics = examined(prometheus, case)
    wrong = in_state(metrics, "Missing", "LabelMissing", "Old")
    # Serve's own process is not there.
    assert wrong - {"ray_serve_deployment_replica_healthy"} == set()
    assert code == bool(wrong)
    there = metrics["ray_vllm_num_requests_running" if case == "ray" else KV]
    assert (there["state"], there["series"]) == ("There", 1)
    assert 0 <= there["ageSeconds"] < 30


def test_what_is_spoiled_on_its_way_is_named(prometheus: Prometheus) -> None:
    code, metrics = examined(prometheus, "spoiled")
    assert (code, in_state(metrics, "Missing")) == (1, {KV})
    assert in_state(metrics, "LabelMissing") == {"vllm:num_requests_waiting"}
    assert metrics["vllm:num_requests_waiting"]["missingLabels"] == ["model_name"]


def test_what_is_no_longer_scraped_is_old(prometheus: Prometheus) -> None:
    (need,) = [each for each in load_contract() if each.name == KV]
    # It looks back in steps, and sees what was there at one of them.
    prometheus.until(past(need, {"case": "gone"}))
    prometheus.scrape("gone", [])
    prometheus.until(f'absent({KV}{{case="gone"}})')
    prometheus.until(f"{past(need, {'case': 'gone'})} > 1")
    options = ("--json", "--selector", "case=gone", "--max-age", "1", *WITHOUT)
    found = halftone("doctor", "--prometheus", prometheus.url, *options)
    metrics = {each["name"]: each for each in json.loads(found.out)["metrics"]}
    assert (found.code, metrics[KV]["state"], metrics[KV]["series"]) == (1, "Old", 0)
    assert metrics[KV]["ageSeconds"] > 1


def rules_of(folder: Path, **changed: tuple[str, str]) -> list[Path]:
    """The chart's files, evaluated each second, with something else in one of them."""
    found = []
    for path in sorted(RULES.glob("*.yaml")):
        text = path.read_text().replace("interval: 15s", "interval: 1s")
        if path.stem in changed:
            assert changed[path.stem][0] in text
            text = text.replace(*changed[path.stem])
        found.append(folder / path.name)
        found[-1].write_text(text)
    return found


def looked(folder: Path, rules: list[Path], *models: str) -> dict[str, dict[str, Any]]:
    """What the doctor finds of groups of rules, by their names, once all were evaluated."""
    with ExitStack() as stack:
        exporters = [
            stack.enter_context(Exporter(native_page, [replace(worked(), name=each, model=each)]))
            for each in models
        ]
        jobs = {"endpoint": Job([each.address for each in exporters], {"namespace": "models"})}
        server = stack.enter_context(Prometheus(folder, jobs, rules))
        server.until(f"count(count by (model_name) (vllm:num_requests_running)) == {len(models)}")
        ((_, all_there),) = (each["value"] for each in server.query("vector(time())"))
        server.until(f"timestamp(halftone:replica_requests_running) > {all_there}")
        server.until("halftone:model_replicas:count")
        deadline = time.monotonic() + 30
        while "unknown" in str(server.ask("rules")) and time.monotonic() < deadline:
            time.sleep(0.2)
        found = halftone("doctor", "--prometheus", server.url, "--json")
    metrics = json.loads(found.out)["metrics"]
    return {each["name"]: each for each in metrics if each["source"] == "Rules"}


def test_rules_of_the_chart_are_well(tmp_path: Path) -> None:
    found = looked(tmp_path, rules_of(tmp_path), "qwen", "gemma")
    assert {each["state"] for each in found.values()} == {"There"}
    assert len(found) == 6


def test_rules_that_are_not_as_they_should_be_are_named(tmp_path: Path) -> None:
    doubled = "sum by (namespace) (halftone_operator_is_leader)"
    rules = rules_of(
        tmp_path,
        # Each model has a series on both sides: many to many.
        jobs=(doubled, "vllm:num_requests_running * on () vllm:num_requests_running"),
        endpoint=("- record: halftone:model_answers:rate1h", "- record: halftone:model_x:rate1h"),
        scaling=("vllm:num_requests_running{}", 'vllm:num_requests_running{model_name="qwen"}'),
    )
    found = looked(tmp_path, rules, "qwen", "gemma")
    wrong = {name: each["state"] for name, each in found.items() if each["state"] != "There"}
    assert wrong == {
        "halftone-jobs": "RuleFailing",
        "halftone-endpoint": "RuleMissing",
        "halftone-scaling": "NotRecorded",
    }
    assert found["halftone-jobs"]["wrongRules"] == ["halftone:operator_leaders:sum"]
    assert "many-to-many" in found["halftone-jobs"]["fix"]
    assert found["halftone-endpoint"]["wrongRules"] == ["halftone:model_answers:rate1h"]
    assert found["halftone-scaling"]["missingModels"] == ["gemma in models"]


def test_it_goes_on_and_exports_what_it_finds() -> None:
    answers = Answers(scraped(Source.VllmServer, Source.Prometheus))
    server = AnsweringServer(answers)
    server.start()
    try:
        with Lasting("doctor", "--prometheus", server.origin, "--interval", "1") as doctor:
            url = f"http://{doctor.address}/metrics"
            until(url, r'contract_ok\{family="vllm",.*\} 1\.0')
            del answers.metrics[KV]
            until(url, r'contract_missing\{family="vllm",.*\} 1\.0')
            server.answer = lambda _: (500, b"")
            until(url, r"(?s)\A(?!.*contract_ok\{)")
    finally:
        server.stop()
    lines = [text for text in doctor.said if "halftone.doctor" in text]
    assert [word in text for word, text in zip(["All that", KV, "500"], lines, strict=True)] == [
        True,
        True,
        True,
    ]


def until(url: str, pattern: str) -> None:
    """Wait until the page has it."""
    deadline = time.monotonic() + 15
    while True:
        with urlopen(url, timeout=5) as answer:
            page = answer.read().decode()
        if re.search(pattern, page):
            return
        assert time.monotonic() < deadline, page
        time.sleep(0.1)
