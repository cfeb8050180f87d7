"""`halftone replay`, run on small loads.

We test these aspects: profiles alone; JSON and its names, in order and reproducible; table and
plots, and where they go; what is scaled to what by default; a warning before anything runs; loads
from files, shapes and histories; what is refused, and that nothing is left behind then.
"""

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from halftone.scaling.baselines.policies import POLICIES
from halftone.scaling.profiles import profile_names
from tests.commands import Outcome, halftone
from tests.doubles.range_queries import RangeQueries
from tests.scaling_cases import compile_plant

LEAD = ("--profile", "dense-27b", "--lead-seconds", "60")
FEW = ("--rate-scale", "1", "--policies", "static-2,oracle")
KEYS = ["policy", "attainment", "replicaHours", "meanReplicas", "ttft", "itl"]
COUNTS = ["scaleEvents", "preemptions", "dropped"]


@pytest.fixture(autouse=True, scope="module")
def compiled() -> None:
    compile_plant()


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty requests in a little more than a minute."""
    path = tmp_path_factory.mktemp("traces") / "some requests.jsonl"
    rows = [
        {"timestamp": 1700 * place, "input_length": 300 + place, "output_length": 20}
        for place in range(40)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def replayed(*arguments: str | Path) -> list[dict[str, Any]]:
    ended = halftone("replay", *arguments, "--json")
    assert ended.code == 0, ended.err
    found: list[dict[str, Any]] = json.loads(ended.out)
    return found


def test_profiles_are_listed_one_a_line_and_nothing_else() -> None:
    ended = halftone("replay", "--list-profiles")
    assert ended == Outcome(0, "".join(f"{name}\n" for name in profile_names()), "")


def test_json_has_a_row_for_each_policy_in_order(trace: Path) -> None:
    found = replayed(trace, *LEAD, "--rate-scale", "1")
    assert [row["policy"] for row in found] == ["static-1", *POLICIES[1:]]
    for row in found:
        assert list(row) == [*KEYS, *COUNTS]
        assert list(row["ttft"]) == list(row["itl"]) == ["p50", "p90", "p99"]
        assert 0 <= row["attainment"] <= 1
        assert row["replicaHours"] > 0
        assert all(isinstance(row[name], int) for name in COUNTS)


def test_a_static_row_is_what_it_says(trace: Path) -> None:
    (row,) = replayed(trace, *LEAD, "--rate-scale", "1", "--start", "3", "--policies", "static-3")
    assert (row["meanReplicas"], row["scaleEvents"], row["dropped"]) == (3.0, 0, 0)
    assert row["attainment"] == 1.0
    # 300 to 339 tokens at 8000 a second, and a step of 12 ms.
    assert row["ttft"]["p50"] == pytest.approx(320 / 8000 + 0.012, rel=0.05)


def test_equal_seeds_give_equal_figures(trace: Path) -> None:
    options = (trace, *LEAD, "--rate-scale", "7.5", "--policies", "halftone,oracle")
    one, same = (replayed(*options, "--seed", "3") for _ in range(2))
    assert one == same
    assert one != replayed(*options, "--seed", "4")


def test_a_name_twice_and_all_beside_it_is_one_row(trace: Path) -> None:
    found = replayed(
        trace, *LEAD, "--rate-scale", "1", "--policies", "static-N,oracle, static-1,all"
    )
    names = [row["policy"] for row in found]
    assert names[:2] == ["static-1", "oracle"]
    assert sorted(names) == sorted(["static-1", *POLICIES[1:]])


def test_a_count_above_the_most_is_refused(trace: Path) -> None:
    found = halftone("replay", trace, *LEAD, "--max-replicas", "16", "--policies", "static-20")
    assert found.code == 2
    assert "static-20, more than `--max-replicas 16`" in found.err


@pytest.mark.parametrize("option", ["--lead-seconds", "--rate-scale", "--slo-ttft", "--slo-itl"])
def test_what_is_no_number_is_refused(trace: Path, option: str) -> None:
    found = halftone("replay", trace, *LEAD, option, "nan")
    assert found.code == 2
    assert "nan is not a number" in found.err


def test_by_default_the_peak_needs_eight_and_there_are_eight(trace: Path) -> None:
    (row,) = replayed(trace, *LEAD, "--policies", "static-N")
    assert (row["policy"], row["meanReplicas"]) == ("static-8", 8.0)
    (lean,) = replayed(trace, *LEAD, "--policies", "static-40")
    assert lean["meanReplicas"] > 8
    assert lean["replicaHours"] / row["replicaHours"] > 4  # a count that is stated is a count


@pytest.fixture(scope="module")
def drawn(trace: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Outcome, Outcome]:
    """A folder in which one command was run, and one for its folder `new`."""
    folder = tmp_path_factory.mktemp("drawn")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        ended = [
            halftone("replay", trace, *LEAD, *FEW, *more) for more in ((), ("--output", "new"))
        ]
    return folder, ended[0], ended[1]


def test_the_table_and_both_plots_are_written(drawn: tuple[Path, Outcome, Outcome]) -> None:
    folder, here, below = drawn
    names = [f"replay-some-requests.{kind}" for kind in ("svg", "png")]
    for place, ended in (("", here), ("new/", below)):
        assert ended.code == 0, ended.err
        assert "some requests 40 requests in 1 minutes" in ended.out
        assert "static-2" in ended.out
        assert f"plots {place}{names[0]} and {place}{names[1]}\n" in ended.out
        written = [folder / place / name for name in names]
        assert ET.fromstring(written[0].read_text()).tag.endswith("}svg")
        assert written[1].read_bytes().startswith(b"\x89PNG\r\n")
    found = sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))
    assert found == sorted(["new", *names, *(f"new/{name}" for name in names)])


def test_json_draws_nothing(trace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    replayed(trace, *LEAD, *FEW)
    assert list(tmp_path.iterdir()) == []


def test_a_time_between_tokens_that_no_count_keeps_is_told_first(trace: Path) -> None:
    ended = halftone("replay", trace, *LEAD, *FEW, "--slo-itl", "0.01", "--json")
    assert ended.code == 0
    assert ended.err.startswith("halftone: warning: A step with a whole token budget (512) takes")
    assert "warning" not in halftone("replay", trace, *LEAD, *FEW, "--json").err


def test_a_shape_is_a_load() -> None:
    (row,) = replayed("step", *LEAD, "--rate-scale", "0.002", "--policies", "static-1")
    assert row["attainment"] > 0.9


def test_a_history_is_a_load() -> None:
    minutes = [60.0] * 6
    series = {
        name: {"pocket": [value * one for one in minutes]}
        for name, value in {
            "tokens_sum": 100.0,
            "tokens_count": 1.0,
            "request_success": 1.0,
            "num_requests": 0.0,
        }.items()
    }
    with RangeQueries(series) as prometheus:
        (row,) = replayed(
            *("--from-prometheus", prometheus.origin, "--range", "5m30s"),
            *(*LEAD, "--rate-scale", "1", "--policies", "static-1"),
        )
        asked = prometheus.asked[0]
    assert float(asked["end"]) - float(asked["start"]) == 300
    assert row["replicaHours"] == pytest.approx(1 / 12, rel=0.1)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["step", *LEAD, "--model", "m"], "`--model` chooses among the series of"),
        (["step", *LEAD, "--selector", "job=a"], "`--selector` chooses among the series of"),
        (["--from-prometheus", "http://a", *LEAD, "--selector", "job"], "must be LABEL=VALUE"),
        (["absent.csv", *LEAD], "The trace 'absent.csv': cannot be read: No such file"),
        (["step", "--profile", "absent", "--lead-seconds", "1"], "no profile and no file 'absent'"),
        ([*LEAD], "Name one load: a trace file, one of ramp, step, square, diurnal, or"),
        (["step", "--from-prometheus", "http://a", *LEAD], "Name one load"),
        (["step", *LEAD, "--policies", "oracle,hpa"], "`--policies` has 'hpa', which is none of"),
        (["step", *LEAD, "--policies", ""], "`--policies` has '', which is none of"),
        (["step", *LEAD, "--max-replicas", "3"], "`--max-replicas 3` is less than the 8 at first"),
        (["step", *LEAD, "--rate-scale", "1e-9"], "leaves no request of 'step'; choose a larger"),
        (["step", *LEAD, "--rate-scale", "1e9"], "5,000,000 can be replayed; choose a smaller"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_runs(
    arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ended = halftone("replay", *arguments)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith("halftone: ")
    assert said in ended.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["6", "6x", "h", "1.5h", "-6h", "30s", "5w", "99999999999w"])
def test_a_range_that_is_none_is_refused(text: str) -> None:
    ended = halftone("replay", "--from-prometheus", "http://a", "--range", text, *LEAD)
    assert ended.code == 2
    assert "Invalid value for '--range'" in ended.err


def test_a_place_that_cannot_be_written_is_told_before_anything_runs(
    trace: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    ended = halftone("replay", trace, *LEAD, *FEW, "--output", tmp_path / "file" / "new")
    assert ended.code == 3
    assert "cannot be written" in ended.err
    assert ended.out == ""
