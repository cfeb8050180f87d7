"""Paired statistics: against published numbers, against exact enumeration, and on themselves.

Enumeration sums the probability of every outcome (items gained, items lost) that leads to a wrong
claim, so it has no sampling error; `tests/unit/test_task_gate.py` simulates whole gate runs.
"""

import math
from itertools import product
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from halftone.spec.reports import Outcome
from halftone.validate.statistics import (
    PairedScores,
    damaged_p,
    detectable_margin,
    holm,
    items_needed,
    judge,
    lower_bound,
    paired,
    recovered_p,
    score_statistic,
    student_quantile,
    student_tail,
    upper_bound,
)

Array = npt.NDArray[Any]

LEVELS = (0.05, 0.05 / 3, 0.05 / 7)


def of_counts(items: int, gained: int, lost: int) -> PairedScores:
    """Scores with so many items gained and lost, the others right under both models."""
    source = np.ones(items)
    source[:gained] = 0
    quantized = np.ones(items)
    quantized[gained : gained + lost] = 0
    return paired(source, quantized)


def test_the_score_interval_is_the_published_one() -> None:
    # Fagerland, Lydersen and Laake, Statistics in Medicine 33:2850-2875 (2014): 21 children, one
    # changed for the better and seven for the worse; -0.517 to -0.026 at 95 %, uncorrected.
    for difference, side in ((-0.517, +1), (-0.026, -1)):
        statistic = float(score_statistic(1, 7, 21, -difference, 0.0))
        assert statistic == pytest.approx(side * 1.96, abs=0.01)


@pytest.mark.parametrize("margin", [-0.2, -0.01, 0.0, 0.03, 0.3])
@pytest.mark.parametrize(("gained", "lost"), [(0, 5), (5, 0), (3, 11), (11, 3), (0, 0)])
def test_the_variance_is_that_of_the_likeliest_model(gained: int, lost: int, margin: float) -> None:
    """The closed form against a search over all models whose true difference is -margin."""
    items = 60
    gains = np.linspace(max(0, -margin) + 1e-9, (1 - margin) / 2 - 1e-9, 200_001)
    losses = gains + margin
    likelihood = gained * np.log(gains) + lost * np.log(losses)
    best = np.argmax(likelihood + (items - gained - lost) * np.log1p(-gains - losses))
    variance = items * (gains[best] + losses[best] - margin**2)
    expected = (gained - lost + items * margin) / math.sqrt(variance)
    statistic = float(score_statistic(gained, lost, items, margin, 0.0))
    if (gained, lost, margin) != (0, 0, 0.0):  # nothing to divide by
        assert statistic == pytest.approx(expected, rel=1e-3, abs=1e-3)


@pytest.mark.parametrize(
    ("t", "degrees", "tail"),
    [
        (6.313752, 1, 0.05),
        (2.919986, 2, 0.05),
        (2.353363, 3, 0.05),
        (2.015048, 5, 0.05),
        (3.169273, 10, 0.005),
        (1.697261, 30, 0.05),
    ],
)
def test_students_distribution_is_the_tabled_one(t: float, degrees: int, tail: float) -> None:
    assert student_tail(t, degrees) == pytest.approx(tail, abs=1e-6)
    assert student_tail(-t, degrees) == pytest.approx(1 - tail, abs=1e-6)
    assert student_quantile(tail, degrees) == pytest.approx(t, abs=1e-5)


@pytest.mark.parametrize(("items", "margin"), [(100, 0.05), (400, 0.02), (1319, 0.02)])
@pytest.mark.parametrize("gain", [0.0, 0.002, 0.02, 0.08])
def test_a_wrong_claim_is_no_more_likely_than_its_level(
    items: int, margin: float, gain: float
) -> None:
    """The model has lost exactly the margin: neither claim is true, whatever the discordance."""
    gains, losses, chances = outcomes(items, gain, gain + margin)
    recovered, damaged = {}, {}
    for level in LEVELS:
        z = NormalDist().inv_cdf(1 - level)
        recovered[level] = chances[score_statistic(gains, losses, items, margin, -0.5) > z].sum()
        damaged[level] = chances[score_statistic(gains, losses, items, margin, +1.5) < -z].sum()
    assert all(error <= level for level, error in recovered.items()), recovered
    assert all(error <= level for level, error in damaged.items()), damaged


def outcomes(items: int, gain: float, loss: float) -> tuple[Array, Array, Array]:
    """All counts (gained [g, 1], lost [1, l]) that are at all likely, and their chances [g, l]."""
    gains = np.arange(min(items, int(items * gain + 9 * math.sqrt(items * gain + 1))) + 1)
    losses = np.arange(min(items, int(items * loss + 9 * math.sqrt(items * loss + 1))) + 1)
    table = np.array([math.lgamma(n + 1) for n in range(items + 1)])
    rest = items - gains[:, None] - losses
    logs = (
        table[items]
        - table[gains][:, None]
        - table[losses]
        - table[np.maximum(rest, 0)]
        + (gains * math.log(gain) if gain else np.where(gains, -np.inf, 0.0))[:, None]
        + losses * math.log(loss)
        + rest * math.log(1 - gain - loss)
    )
    return gains[:, None], losses[None, :], np.where(rest >= 0, np.exp(logs), 0.0)


def test_the_enumeration_sees_what_the_corrections_are_for() -> None:
    """Without them damaged models pass, and honest ones fail, too often."""
    gains, losses, chances = outcomes(100, 0.15, 0.25)
    assert chances.sum() == pytest.approx(1)
    assert chances[score_statistic(gains, losses, 100, 0.1, 0.0) > 1.645].sum() > 0.05
    gains, losses, chances = outcomes(275, 0.0, 0.03)
    assert chances[score_statistic(gains, losses, 275, 0.03, 0.0) < -1.645].sum() > 0.05


def test_no_differing_item_still_leaves_doubt() -> None:
    """Where a Wald interval is a point."""
    for items in (20, 100, 1000):
        scores = of_counts(items, 0, 0)
        assert -4 / items - 0.1 < lower_bound(scores, 0.05) < -2 / items
        assert upper_bound(scores, 0.05) == pytest.approx(-lower_bound(scores, 0.05), rel=0.5)
    assert judge([of_counts(100, 0, 0)], [0.05])[0].outcome is Outcome.Passed
    assert judge([of_counts(100, 0, 0)], [0.02])[0].outcome is Outcome.Inconclusive


@pytest.mark.parametrize(
    ("gained", "lost", "outcome"),
    [
        (20, 20, Outcome.Passed),
        (15, 30, Outcome.Inconclusive),
        (20, 60, Outcome.Failed),
        (0, 1000, Outcome.Failed),
        (1000, 0, Outcome.Passed),
    ],
)
def test_a_thousand_items_are_judged_three_ways(gained: int, lost: int, outcome: Outcome) -> None:
    [judgement] = judge([of_counts(1000, gained, lost)], [0.02])
    assert judgement.outcome is outcome
    assert (judgement.lower > -0.02) == (outcome is Outcome.Passed)
    assert (judgement.upper < -0.02) == (outcome is Outcome.Failed)
    assert judgement.lower - 1e-9 < (gained - lost) / 1000 < judgement.upper + 1e-9


def test_bounds_and_p_values_say_the_same() -> None:
    for gained, lost in product((0, 1, 7, 40), repeat=2):
        scores = of_counts(300, gained, lost)
        assert recovered_p(scores, -lower_bound(scores, 0.01)) == pytest.approx(0.01, abs=1e-6)
        assert damaged_p(scores, -upper_bound(scores, 0.01)) == pytest.approx(0.01, abs=1e-6)


def test_holm_steps_down_and_stops() -> None:
    assert holm([0.001, 0.04, 0.02]) == [(True, 0.05 / 3), (True, 0.05), (True, 0.025)]
    assert holm([0.001, 0.04, 0.03]) == [(True, 0.05 / 3), (False, 0.025), (False, 0.025)]
    assert holm([0.02, 0.02]) == [(True, 0.025), (True, 0.05)]
    assert holm([0.03, 0.03]) == [(False, 0.025), (False, 0.025)]
    assert holm([0.04]) == [(True, 0.05)]
    assert holm([]) == []


def test_several_tasks_need_more_than_one_does() -> None:
    scores = of_counts(1000, 12, 20)
    assert judge([scores], [0.02])[0].outcome is Outcome.Passed
    beside_others = judge([scores] + [of_counts(1000, 30, 50)] * 6, [0.02] * 7)
    assert beside_others[0].outcome is Outcome.Inconclusive
    assert beside_others[0].lower < judge([scores], [0.02])[0].lower


@pytest.mark.parametrize("losses", ["few and great", "many and small"])
def test_real_valued_scores_keep_the_same_promise(losses: str) -> None:
    """The model has lost exactly the margin, or nothing; 1,000 runs each, fixed seed."""
    source = np.random.default_rng(7)
    runs, items, margin = 1000, 400, 0.03
    if losses == "few and great":
        drops = np.where(source.random((runs, items)) < 0.06, source.random((runs, items)), 0.0)
    else:
        drops = source.normal(margin, 0.1, (runs, items))
    before = source.random((runs, items))
    wrong_pass = wrong_fail = right_pass = 0
    for base, drop in zip(before, drops, strict=True):
        scores = paired(base, base - drop)
        wrong_pass += recovered_p(scores, margin) < 0.05
        wrong_fail += damaged_p(scores, margin) < 0.05
        right_pass += recovered_p(paired(base, base - drop + margin), margin) < 0.05
    assert wrong_pass <= 0.05 * runs
    assert wrong_fail <= 0.05 * runs
    assert right_pass > 0.9 * runs


def test_equal_real_valued_scores_are_no_proof_by_themselves() -> None:
    scores = paired([0.2, 0.7, 0.4], [0.2, 0.7, 0.4])
    assert lower_bound(scores, 0.05) < -0.1
    assert upper_bound(scores, 0.05) > 0.1


def test_the_published_figures_of_power_are_met() -> None:
    # Facts of the design: 4 % discordance, 100 items see 5 points, 1,319 items 1.4 points.
    assert items_needed(0.05) == 99
    assert items_needed(0.02) == 619
    assert 0.049 < detectable_margin(100) < 0.051
    assert 0.0135 < detectable_margin(1319) < 0.014
    assert items_needed(0.02, tasks=7) > 1.7 * items_needed(0.02)
    assert items_needed(0.02, discordant=0.08) == pytest.approx(2 * items_needed(0.02), abs=1)
    with pytest.raises(ValueError, match="nothing at all"):
        items_needed(0.0)


@pytest.mark.parametrize(("margin", "power"), [(0.05, 0.56), (0.02, 0.74), (0.01, 0.776)])
def test_the_stated_power_of_the_formula_is_the_true_one(margin: float, power: float) -> None:
    """Few items have less power than the formula promises, as its docstring says."""
    items = items_needed(margin)
    gains, losses, chances = outcomes(items, 0.02, 0.02)
    reached = chances[score_statistic(gains, losses, items, margin, -0.5) > 1.644854].sum()
    assert reached == pytest.approx(power, abs=0.005)


@pytest.mark.parametrize(
    ("source", "quantized"), [([1], [1, 0]), ([], []), ([1, math.nan], [1, 0]), ([1], [math.inf])]
)
def test_scores_that_cannot_be_paired_are_refused(
    source: list[float], quantized: list[float]
) -> None:
    with pytest.raises(ValueError, match=r"same items|not finite"):
        paired(source, quantized)
