"""What the benchmark of scaling says of its targets.

We test these aspects:
- means over seeds, and the best static count in hindsight
- the share saved, where it is asked for, and where there is nothing to save
- domination, the bound that a lead sets, and cost, each met and missed
- the table names what is in sample
"""

import pytest

from benchmarks import scaling_judging as judging
from benchmarks.scaling_judging import Group, Mean
from benchmarks.scaling_matrix import Case, Row

GROUP = Group("ramp", 100.0, "dense-27b", "warm")


def mean(attainment: float, hours: float, bound: float = 0.1) -> Mean:
    return Mean(attainment, hours, hours, 1.0, bound)


def policies(**changes: Mean) -> dict[str, Mean]:
    """All that a judgement looks at: ours saves half of what the oracle does."""
    rules = dict.fromkeys(judging.REACTIVE, mean(0.5, 9.0))
    known = {
        "static-7": mean(0.98, 7.0),
        "static-8": mean(0.995, 8.0),
        "static-9": mean(1.0, 9.0),
        "oracle": mean(0.999, 4.0),
        "halftone": mean(0.996, 6.0),
    }
    return {**rules, **known, **{name.replace("_", "-"): each for name, each in changes.items()}}


def test_rows_are_averaged_over_seeds() -> None:
    rows = [
        Row(Case("ramp", 100.0, "dense-27b", "warm", seed), "halftone", attained, hours,
            6.0, 1.0, 0, 0, 0, 1000, 2.0, 10.0)
        for seed, attained, hours in ((1, 0.9, 5.0), (2, 1.0, 7.0))
    ]  # fmt: skip
    found = judging.averaged(rows)[GROUP]["halftone"]
    assert found.attainment == pytest.approx(0.95)
    assert found.hours == 6.0
    assert found.bound == pytest.approx((100 + 45) * 2 / 1000)


def test_the_best_static_count_is_the_cheapest_that_attains_enough() -> None:
    assert judging.best_static(policies()) == "static-8"
    poor = policies(static_8=mean(0.9, 8.0), static_9=mean(0.985, 9.0))
    assert judging.best_static(poor) == "static-9"


def test_the_share_that_is_saved() -> None:
    assert judging.saved(policies()) == pytest.approx(0.5)
    assert judging.saved(policies(halftone=mean(0.991, 6.0))) is None
    nothing = policies(oracle=mean(0.999, 8.0))
    assert judging.saved({**nothing, "halftone": mean(1.0, 8.05)}) == 1
    assert judging.saved({**nothing, "halftone": mean(1.0, 8.5)}) == -1


@pytest.mark.parametrize(
    ("load", "lead_s", "least"),
    [
        ("ramp", 966.0, 0.5),
        ("azure-2023-code", 100.0, 0.5),
        ("azure-2023-conv", 100.0, 0.25),
        ("azure-2023-conv", 277.0, 0.0),
        ("square", 100.0, 0.0),
    ],
)
def test_what_should_be_saved(load: str, lead_s: float, least: float) -> None:
    group = Group(load, lead_s, "dense-27b", "warm")
    assert judging.least_saved(group) == least
    less = policies(halftone=mean(0.996, 8.0 - 4 * (least - 0.01)))
    assert len(judging.unsaved({group: less})) == 1
    assert not judging.unsaved({group: policies(halftone=mean(0.996, 8.0 - 4 * least))})


def test_a_rule_that_attains_as_much_for_as_little_dominates() -> None:
    assert not judging.dominated({GROUP: policies()})
    better = policies(wva_v1=mean(0.996, 5.9))
    assert judging.dominated({GROUP: better}) == ["ramp, dense-27b, 100 s, warm: wva-v1"]
    assert not judging.dominated({GROUP: policies(wva_v1=mean(0.996, 6.0))})


def test_misses_beyond_the_lead_count_from_cold_and_on_a_step_alone() -> None:
    missed = policies(halftone=mean(0.87, 6.0))
    cold = Group("ramp", 100.0, "dense-27b", "cold")
    assert not judging.beyond_bound({GROUP: missed})
    assert len(judging.beyond_bound({cold: missed})) == 1
    assert not judging.beyond_bound({cold: policies(halftone=mean(0.89, 6.0))})


def test_cost_is_held_against_the_peaks_count() -> None:
    assert not judging.too_dear({GROUP: policies(halftone=mean(1.0, 10.0))})
    assert judging.too_dear({GROUP: policies(halftone=mean(1.0, 10.1))})


def test_the_table_says_what_is_in_sample() -> None:
    seen = Group("step", 100.0, "dense-27b", "warm")
    unseen = Group("diurnal", 100.0, "dense-27b", "warm")
    lines = judging.table_lines({unseen: policies(), seen: policies()}, ["oracle", "halftone"])
    assert lines[2].startswith("| diurnal | dense-27b | 100 | warm | out | 99.9 / 4.0 | 99.6 / 6.0")
    assert "| in |" in lines[3]
    assert lines[2].endswith("| 8: 99.5 / 8.0 | 0.50 |")
