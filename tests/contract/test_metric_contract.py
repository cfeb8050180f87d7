"""The contract of metrics: that it is what rules and dashboards need, and that we export our part.

We test these aspects:
- the file is fresh, sorted, and has what the scaler reads;
- every metric of ours in it is one that `halftone.telemetry` declares, with labels that it gives;
- every metric that the scaler or a rule reads of vLLM is known by both of its names;
- each row of the tables says why, and none is dead where an earlier one takes all of it.
"""

import json
from collections.abc import Iterator

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.metrics import MetricWrapperBase

from halftone.scaling.inputs.names import NATIVE, RAY, Family
from halftone.telemetry import endpoint, scaling
from halftone.telemetry.contract import (
    ALTERNATIVES,
    Exists,
    LabelOrigin,
    Need,
    Source,
    load_contract,
)
from halftone.telemetry.doctor import DoctorMetrics
from halftone.telemetry.operator import OperatorMetrics
from tools import contract
from tools.contract_tables import EXISTENCE, LABELS, SOURCES

# What Ray adds to every metric of a process that belongs to it.
BY_RAY = {"ReplicaId", "WorkerId", "NodeAddress", "SessionName", "Component", "Version"}
BY_SCRAPE = {"job", "instance", "namespace", "pod"}


def test_the_file_is_fresh() -> None:
    assert contract.CONTRACT.read_text() == contract.written(), "run `make generate`"


def test_the_file_is_sorted_and_names_each_metric_once() -> None:
    names = [each["name"] for each in json.loads(contract.CONTRACT.read_text())["metrics"]]
    assert names == sorted(set(names))


def test_every_need_says_who_is_blind_without_it_and_when_it_exists() -> None:
    assert [need.name for need in load_contract() if not (need.needed_by and need.because)] == []


@pytest.mark.parametrize("family", [NATIVE, RAY], ids=lambda family: family.title)
def test_what_the_scaler_reads_is_needed(family: Family) -> None:
    names = set(family.series.values())
    needed = {need.name: need for need in load_contract() if "scaler" in need.needed_by}
    assert names - set(needed) == set()
    labels = {"model_name", *family.replica_labels}
    assert {name for name in names if labels - set(needed[name].labels)} == set()


def declared() -> dict[str, set[str]]:
    """Labels by every name that our exporters' series have in Prometheus."""
    found: dict[str, set[str]] = {}
    for name, (_, labels) in {**scaling.GAUGES, **endpoint.GAUGES}.items():
        found |= {name: set(labels), f"ray_{name}": {*labels, *BY_RAY}}
    for name, (_, labels) in endpoint.COUNTERS.items():
        found |= {f"{name}_total": set(labels), f"ray_{name}_total": {*labels, *BY_RAY}}
    for registry in (OperatorMetrics().registry, DoctorMetrics("p").registry):
        for collector in wrappers(registry):
            found |= dict(series_of(collector))
    return found


def wrappers(registry: CollectorRegistry) -> Iterator[MetricWrapperBase]:
    """The metrics of a registry, with the labels that they were made with."""
    for collector in registry._collector_to_names:
        assert isinstance(collector, MetricWrapperBase)
        yield collector


def series_of(metric: MetricWrapperBase) -> Iterator[tuple[str, set[str]]]:
    labels = set(metric._labelnames)
    match metric._type:
        case "counter":
            yield f"{metric._name}_total", labels
        case "histogram":
            yield f"{metric._name}_bucket", {*labels, "le"}
            yield from ((f"{metric._name}_{part}", labels) for part in ("sum", "count"))
        case _:
            yield metric._name, labels


def ours() -> list[Need]:
    return [need for need in load_contract() if need.family == "halftone"]


def test_every_metric_of_ours_is_one_that_we_declare() -> None:
    known = declared()
    assert "halftone_stage_duration_seconds_bucket" in known
    assert [need.name for need in ours() if need.name not in known] == []


def test_every_label_of_ours_is_one_that_we_give() -> None:
    known = declared()
    strange = {
        need.name: sorted(set(need.labels) - known[need.name] - BY_SCRAPE)
        for need in ours()
        if need.name in known
    }
    assert {name: labels for name, labels in strange.items() if labels} == {}


def test_alternatives_are_of_the_same_things() -> None:
    """A rule that reads vLLM reads it by both names, else it is blind for half of the endpoints."""
    both = {source: set[str]() for source in (Source.VllmServer, Source.VllmRay)}
    for need in load_contract():
        if need.source in both:
            both[need.source].add(need.name.removeprefix("vllm:").removeprefix("ray_vllm_"))
    assert both[Source.VllmServer] == both[Source.VllmRay]
    assert set(both) in ALTERNATIVES


def test_what_comes_after_another_names_one_that_is_needed_too() -> None:
    names = {need.name for need in load_contract()}
    followers = [need for need in load_contract() if need.after is not None]
    assert followers
    assert {need.after for need in followers} <= names
    assert {need.exists for need in followers} == {Exists.UnderLoad}


def test_labels_that_decide_are_never_marked_as_absent() -> None:
    may_lack = {
        (need.name, label)
        for need in load_contract()
        for label, origin in need.labels.items()
        if origin is LabelOrigin.MayLack and label in ("le", "model_name", "model", "stage")
    }
    assert may_lack == set()


def test_what_vllm_itself_exports_is_always_there() -> None:
    scaler = [need for need in load_contract() if "scaler" in need.needed_by]
    own = [need for need in scaler if need.source is Source.VllmServer]
    assert {need.exists for need in own} == {Exists.Always}


@pytest.mark.parametrize("table", [EXISTENCE, LABELS, SOURCES], ids=["when", "label", "whose"])
def test_each_row_of_a_table_stands_once(table: tuple[tuple[str, ...], ...]) -> None:
    rows = [row[:2] for row in table]
    assert len(set(rows)) == len(rows)
    assert all(all(map(str, row)) for row in table)


def test_a_stale_file_is_told_with_its_remedy(capsys: pytest.CaptureFixture[str]) -> None:
    assert contract.main(["check"]) == 0
    assert "fit rules, dashboards and the scaler" in capsys.readouterr().out
    assert contract.main(["read"]) == 2
