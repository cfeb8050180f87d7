"""What people see of a replay: the table, and the plot.

We test these aspects: figures and percentiles of a run; the table in eighty columns, with large
numbers and without any; the plot draws every policy, names it, and is the same each time.
"""

import io
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from halftone.cli.replay_text import print_replay
from halftone.scaling.baselines.policies import POLICIES
from halftone.scaling.figures import figures, percentiles
from halftone.scaling.loads.load import Load
from halftone.scaling.plots import draw, plot
from halftone.scaling.replay import Outcome, World
from tests.replay_outcomes import outcome
from tests.scaling_cases import CAPACITY

LOAD = Load.of("a [b] $c$", [0.0, 60.0, 200.0, 290.0], [100] * 4, [10] * 4)
WORLD = World(CAPACITY, lead_s=277.0, start=2, max_replicas=16)
ALL = [outcome(name, replica_seconds=600.0 + 60 * place) for place, name in enumerate(POLICIES)]


def shown(width: int, outcomes: list[Outcome]) -> list[str]:
    file = io.StringIO()
    console = Console(file=file, width=width, highlight=False, soft_wrap=True)
    print_replay(WORLD, LOAD, "dense-27b", outcomes, console)
    return file.getvalue().splitlines()


def test_figures_are_shares_hours_and_seconds() -> None:
    found = figures(outcome("oracle"))
    assert found["attainment"] == 0.75
    assert found["replicaHours"] == pytest.approx(1 / 6)
    assert found["ttft"] == {"p50": 0.2, "p90": pytest.approx(0.28), "p99": pytest.approx(0.298)}
    assert (found["scaleEvents"], found["preemptions"], found["dropped"]) == (3, 4, 1)


def test_without_an_answer_there_are_no_percentiles() -> None:
    nothing = percentiles(np.array([np.nan, np.nan]))
    assert nothing == {"p50": None, "p90": None, "p99": None}
    assert any("–/–/–" in line for line in shown(80, [outcome("x", ttft_s=np.array([np.nan]))]))


def test_the_table_has_a_row_for_each_policy_in_eighty_columns() -> None:
    large = [
        replace(
            each,
            attainment=1.0,
            replica_seconds=123.45 * 3600,
            ttft_s=np.array([0.1, 99.0, 290.0]),
            dropped=12345,
            preemptions=123456,
        )
        for each in ALL
    ]
    for outcomes in (ALL, large):
        lines = shown(80, outcomes)
        rows = [line.split() for line in lines[-len(POLICIES) :]]
        assert [row[0] for row in rows] == list(POLICIES)
        assert {len(row) for row in rows} == {9}
        table = lines[-len(POLICIES) - 2 :]
        assert max(map(len, table)) <= 80
        assert not any("…" in line for line in table)


def test_the_head_says_what_was_replayed() -> None:
    text = "\n".join(shown(200, ALL))
    assert "a [b] $c$ 4 requests in 5 minutes (0.01 a second), 100 tokens in, 10 out" in text
    assert "on dense-27b: 2 replicas at first, at most 16, ready 277 s after the ask" in text


def test_every_policy_is_drawn_over_time_and_by_cost() -> None:
    figure = draw(WORLD, LOAD, ALL)
    left, right = figure.subfigs
    for axes in left.axes[1:]:
        assert len(axes.get_lines()) == len(ALL)
        looks = {(line.get_color(), str(line.get_linestyle())) for line in axes.get_lines()}
        assert len(looks) == len(ALL)
    points = right.axes[0].get_lines()
    assert len({point.get_marker() for point in points}) == len(ALL)
    hours = [float(np.asarray(point.get_xdata())[0]) for point in points]
    assert hours == [each.replica_seconds / 3600 for each in ALL]
    legend = right.axes[1].get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == list(POLICIES)


@pytest.fixture(scope="module")
def twice() -> list[tuple[bytes, bytes]]:
    """SVG and PNG of equal outcomes; a plot takes a second, too much for a test."""
    return [plot(WORLD, LOAD, ALL[:2]) for _ in range(2)]


def test_equal_outcomes_give_equal_plots(twice: list[tuple[bytes, bytes]]) -> None:
    assert twice[0] == twice[1]
    svg, png = twice[0]
    assert b"a [b] $c$: 4 requests" in svg
    assert png.startswith(b"\x89PNG")
