"""`halftone doctor` on pages of exporters, and what is judged of what was seen.

We test these aspects:
- a page with everything passes; one metric renamed fails it, is named, and so is who needs it;
- a label that is gone is named; one that a scrape adds is not looked for on a page;
- what one model has, others of its source have too, or it is told which one has not;
- vLLM's own server or Ray suffices, and either has to be whole where it is there;
- what is optional, or exists under load alone, fails nobody; what exists together is missed;
- names are those that Prometheus stores, whatever `# TYPE` says, in both formats;
- what is no page, and options that do not fit each other, are refused with the way out.
"""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from halftone.doctor.expositions import seen_on
from halftone.doctor.judging import Circumstances, Diagnosis, Seen, State, judge
from halftone.telemetry.contract import Exists, LabelOrigin, Need, Source, load_contract
from tests.commands import Outcome, halftone
from tests.doubles.exporters import Exported, native_page, ray_page
from tests.expositions import line, needs_of, page_of

VLLM = (Source.VllmServer,)
THROUGH_RAY = (Source.VllmRay, Source.Ray)
# Families of what these pages are not about.
OTHERS = ("--without", "halftone", "--without", "kubernetes", "--without", "dcgm")


def doctor(folder: Path, *pages: str, options: tuple[str, ...] = OTHERS) -> Outcome:
    """`halftone doctor` on these pages."""
    words: list[str | Path] = ["doctor", *options]
    for number, page in enumerate(pages):
        path = folder / f"{number}.txt"
        path.write_text(page)
        words += ["--exposition", path]
    return halftone(*words)


def states(told: str) -> dict[str, str]:
    """The state of each metric in the JSON."""
    return {each["name"]: each["state"] for each in json.loads(told)["metrics"]}


def need(name: str, exists: Exists = Exists.Always, source: Source = Source.VllmServer) -> Need:
    labels = {"model_name": LabelOrigin.Exporter, "pod": LabelOrigin.MayLack}
    return Need(name, "vllm", source, exists, "a reason", labels, ("a panel",))


def judged(needs: list[Need], seen: dict[str, Seen], *, is_scraped: bool = True) -> Diagnosis:
    return judge(needs, seen, Circumstances(is_scraped))


def state_of(diagnosis: Diagnosis) -> dict[str, State]:
    return {finding.need.name: finding.state for finding in diagnosis.findings}


@pytest.mark.parametrize("sources", [VLLM, THROUGH_RAY, VLLM + THROUGH_RAY])
def test_a_page_with_everything_passes(tmp_path: Path, sources: tuple[Source, ...]) -> None:
    found = doctor(tmp_path, page_of(*sources))
    assert (found.code, found.err) == (0, "")
    assert "nothing that is needed is missing" in found.out


def test_pages_of_several_exporters_are_one(tmp_path: Path) -> None:
    pages = [page_of(Source.VllmRay), page_of(Source.Ray)]
    assert doctor(tmp_path, *pages).code == 0
    found = doctor(tmp_path, pages[0])
    assert (found.code, "`ray_node_mem_used`" in found.err) == (1, True)
    assert "Nothing of Ray's own" in found.out


@pytest.mark.parametrize("name", [each.name for each in needs_of(*VLLM)])
def test_each_metric_of_vllm_that_is_renamed_is_named(tmp_path: Path, name: str) -> None:
    page = page_of(*VLLM).replace(f"{name}{{", f"{name}_new{{")
    found = doctor(tmp_path, page)
    assert found.code == 1
    (row,) = [each for each in load_contract() if each.name == name]
    (told,) = [text for text in found.out.splitlines() if text.startswith("missing ")]
    assert told.startswith(f"missing `{name}`: needed by {row.needed_by[0]}")
    assert f"1 of {len(needs_of(*VLLM, *THROUGH_RAY))} metrics are not as needed" in found.err


@pytest.mark.parametrize(
    "name", [each.name for each in needs_of(Source.VllmRay) if each.exists is Exists.UnderLoad]
)
def test_under_load_each_metric_through_ray_that_is_renamed_is_named(
    tmp_path: Path, name: str
) -> None:
    page = page_of(*THROUGH_RAY).replace(f"{name}{{", f"{name}_new{{")
    found = doctor(tmp_path, page)
    assert (found.code, f"`{name}`" in found.err) == (1, True)


@pytest.mark.parametrize("label", ["model_name", "le"])
def test_a_label_that_is_gone_is_named(tmp_path: Path, label: str) -> None:
    name = "vllm:time_to_first_token_seconds_bucket"
    (row,) = [each for each in needs_of(*VLLM) if each.name == name]
    found = doctor(tmp_path, page_of(*VLLM, without=[name]) + line(row, without=label))
    assert found.code == 1
    assert f"label missing `{name}` (`{label}` in 1 of 1 series): needed by" in found.out
    assert "metricRelabelings" in found.out


def test_of_the_model_that_is_named_alone(tmp_path: Path) -> None:
    other = native_page([Exported("b", model="other")]).replace("kv_cache_usage_perc", "gone")
    page = native_page([Exported("a")])
    assert doctor(tmp_path, page, other, options=(*OTHERS, "--model", "qwen")).code == 0
    assert doctor(tmp_path, page, options=(*OTHERS, "--model", "other")).code == 1


def test_what_vllm_and_ray_write_is_what_is_needed(tmp_path: Path) -> None:
    worked = Exported("a", running=1, stopped=1, prompt_tokens=9, generation_tokens=9)
    worked = replace(worked, finished_prompt_tokens=9, finished_output_tokens=9, first_tokens=1)
    scaler = {each.name for each in load_contract() if "scaler" in each.needed_by}
    for page, sources in ((native_page([worked]), VLLM), (ray_page([worked]), THROUGH_RAY)):
        found = doctor(tmp_path, page, options=("--json", *OTHERS))
        seen = {name for name, state in states(found.out).items() if state == "There"}
        always = (each.name for each in needs_of(*sources) if each.exists is not Exists.Optional)
        wanted = scaler & set(always) - {"ray_serve_deployment_replica_healthy"}
        assert wanted - seen == set()


def test_an_idle_replica_of_ray_lacks_nothing(tmp_path: Path) -> None:
    gauges = [each.name for each in needs_of(Source.VllmRay) if "vanishes" in each.because]
    assert gauges
    assert doctor(tmp_path, page_of(*THROUGH_RAY, without=gauges)).code == 0
    assert doctor(tmp_path, page_of(*THROUGH_RAY, without=gauges[:1])).code == 1


def test_without_any_vllm_the_way_to_one_is_told_once(tmp_path: Path) -> None:
    found = doctor(tmp_path, "")
    assert found.code == 1
    assert found.out.count("`podMonitor.enabled` of halftone-endpoint") == 1
    assert doctor(tmp_path, "", options=(*OTHERS, "--without", "vllm")).code == 0


def test_a_source_that_nobody_runs_lacks_nothing(tmp_path: Path) -> None:
    assert doctor(tmp_path, page_of(*VLLM), options=()).code == 0


def test_optional_ones_fail_nobody() -> None:
    needs = [need("vllm:a"), need("vllm:b", Exists.Optional)]
    lacking = {"model_name": 1}
    assert judged(needs, {"vllm:a": Seen(1)}).ok
    wrong = judged(needs, {"vllm:a": Seen(1), "vllm:b": Seen(1, lacking)})
    assert state_of(wrong)["vllm:b"] is State.LabelMissing


def test_what_comes_with_another_one_is_missed_beside_it() -> None:
    always, lazy = need("vllm:c"), need("vllm:a", Exists.UnderLoad)
    follower = replace(lazy, name="vllm:b", because="another load", after="vllm:a")
    needs = [always, replace(lazy, because="load"), follower]
    assert judged(needs, {"vllm:c": Seen(1)}).ok
    found = judged(needs, {"vllm:c": Seen(1), "vllm:a": Seen(1)})
    assert state_of(found)["vllm:b"] is State.Missing


def test_what_comes_and_goes_is_looked_for_in_prometheus_alone() -> None:
    needs = [need("vllm:a"), need("vllm:b", Exists.Intermittent)]
    seen = {"vllm:a": Seen(1)}
    assert judged(needs, seen, is_scraped=False).ok
    assert state_of(judged(needs, seen))["vllm:b"] is State.Missing


@pytest.mark.parametrize(("age", "state"), [(179, State.There), (181, State.Old)])
def test_what_is_not_exported_any_more_is_old(age: float, state: State) -> None:
    found = judged(
        [need("vllm:a"), need("vllm:b")], {"vllm:a": Seen(1), "vllm:b": Seen(1, {}, age)}
    )
    assert state_of(found) == {"vllm:a": State.There, "vllm:b": state}
    assert found.missing_by_family() == {"vllm": int(state is State.Old)}


def test_an_exporter_that_was_taken_away_lacks_nothing_beside_another() -> None:
    needs = [need("vllm:a"), need("ray_vllm_a", source=Source.VllmRay)]
    found = judged(needs, {"vllm:a": Seen(0, {}, 900), "ray_vllm_a": Seen(1, {}, 5)})
    assert found.ok
    assert not judged(needs, {"vllm:a": Seen(0, {}, 900)}).ok


def test_what_one_model_has_the_others_of_its_source_have_too(tmp_path: Path) -> None:
    other = native_page([Exported("b", model="other")])
    pages = native_page([Exported("a")]), other.replace("kv_cache_usage_perc", "gone")
    found = doctor(tmp_path, *pages, options=("--json", *OTHERS))
    wrong = {name: state for name, state in states(found.out).items() if state == "ModelMissing"}
    assert (found.code, wrong) == (1, {"vllm:kv_cache_usage_perc": "ModelMissing"})
    (row,) = [each for each in json.loads(found.out)["metrics"] if each["name"] in wrong]
    assert (row["missingModels"], row["missingLabels"]) == (["other"], [])
    assert "with `--model`" in row["fix"]
    told = doctor(tmp_path, *pages).out
    assert "missing of a model `vllm:kv_cache_usage_perc` (`other`): needed by" in told
    assert doctor(tmp_path, native_page([Exported("a")]), other).code == 0


def of_models(name: str, **more: Any) -> dict[str, Seen]:
    return {name: Seen(1, models=frozenset(more["models"]))}


def test_of_each_model_what_exists_together_is_missed() -> None:
    lazy = need("vllm:a", Exists.UnderLoad)
    needs = [
        *(need("vllm:c"), replace(lazy, because="load"), need("vllm:seldom", Exists.Optional)),
        replace(lazy, name="vllm:b", because="load"),
        replace(lazy, name="vllm:d", because="another load", after="vllm:a"),
    ]
    seen = {
        **of_models("vllm:c", models={"q", "idle"}),
        **of_models("vllm:a", models={"q", "g in n"}),
        **of_models("vllm:b", models={"q"}),
        **of_models("vllm:d", models={"q"}),
        **of_models("vllm:seldom", models={"q"}),
    }
    found = judged(needs, seen)
    assert {each.need.name: each.lacking for each in found.failing} == {
        "vllm:c": ("g in n",),
        "vllm:b": ("g in n",),
        "vllm:d": ("g in n",),
    }
    assert {each.state for each in found.failing} == {State.ModelMissing}


def test_labels_that_may_be_absent_are_not_missed() -> None:
    assert judged([need("vllm:a")], {"vllm:a": Seen(2, {"pod": 2})}).ok


COUNTED = '# HELP vllm:a Text.\n# TYPE vllm:a counter\nvllm:a{model_name="m"} 1\n'


def test_names_are_those_that_prometheus_stores() -> None:
    needs = [need("vllm:a"), need("vllm:a_total")]
    assert list(seen_on([COUNTED], needs)) == ["vllm:a"]
    renamed = COUNTED.replace("vllm:a{", "vllm:a_total{")
    assert list(seen_on([renamed], needs)) == ["vllm:a_total"]


def test_openmetrics_with_exemplars_is_read() -> None:
    page = (
        "# TYPE vllm:b histogram\n"
        'vllm:b_bucket{model_name="m",le="1.0"} 1 # {trace_id="x"} 0.5\n'
        'vllm:b_bucket{model_name="m",le="+Inf"} 1\n# EOF\n'
    )
    seen = Seen(2, {"pod": 2}, models=frozenset({"m"}))
    assert seen_on([page], [need("vllm:b_bucket")]) == {"vllm:b_bucket": seen}


@pytest.mark.parametrize(
    ("page", "said"),
    [
        ("<html>no</html>\n", "metrics: line 1 is no sample;"),
        ('# HELP a A.\n\na{b="c"} 1\na{b="d"} one\n', "metrics: line 4 is no sample;"),
        ('{"status": "success"}\n', "metrics: line 1 is no sample;"),
        ("a\x1bb\x00c 1\n", "metrics: line 1 is no sample;"),
        ("a 1 # {\n# EOF\n", "OpenMetrics, though it ends as such;"),
    ],
)
def test_what_is_no_page_is_refused(tmp_path: Path, page: str, said: str) -> None:
    found = doctor(tmp_path, page)
    assert (found.code, found.out) == (2, "")
    assert f"0.txt` is no page of {said}" in found.err
    assert "save what `/metrics` answers" in found.err
    assert found.err.rstrip("\n").isprintable()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("", "Exactly one of `--prometheus` and `--exposition`"),
        ("--prometheus http://x --exposition PAGE", "Exactly one of"),
        ("--prometheus prometheus:9090", "must be a URL"),
        ("--prometheus http://x --selector a", "must be LABEL=VALUE"),
        ("--exposition PAGE --selector a=b", "are for a Prometheus"),
        ("--exposition PAGE --metrics-port 0", "are for a Prometheus"),
        ("--exposition PAGE --without nobody", "'nobody' is not one of"),
        ("--prometheus http://x --max-age 0", "--max-age"),
    ],
)
def test_options_that_cannot_be_are_refused(tmp_path: Path, options: str, said: str) -> None:
    (tmp_path / "page").write_text("")
    found = halftone("doctor", *options.replace("PAGE", str(tmp_path / "page")).split())
    assert (found.code, found.out) == (2, "")
    assert said in found.err


def test_the_table_is_read_in_eighty_columns(tmp_path: Path) -> None:
    found = doctor(tmp_path, page_of(*VLLM), options=("--all",))
    rows = [text for text in found.out.splitlines() if not text.startswith("nothing")]
    assert max(map(len, rows)) <= 80
    assert [text.split()[:2] for text in rows if text.startswith("vllm:kv_cache")] == [
        ["vllm:kv_cache_usage_perc", "there"]
    ]


def test_json_has_every_need_with_its_fix(tmp_path: Path) -> None:
    name = "vllm:num_requests_running"
    found = doctor(tmp_path, page_of(*VLLM, without=[name]), options=("--json",))
    told: dict[str, Any] = json.loads(found.out)
    assert (found.code, told["ok"], told["missing"]["vllm"]) == (1, False, 1)
    (row,) = [each for each in told["metrics"] if each["name"] == name]
    assert (row["state"], row["family"], row["source"]) == ("Missing", "vllm", "VllmServer")
    assert "scaler" in row["neededBy"]
    assert re.match("Others of vLLM's own server are there", row["fix"])
