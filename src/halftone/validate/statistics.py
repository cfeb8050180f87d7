"""What paired scores of two models allow to say: intervals, three-way judgement, power.

Called by the gates that compare a quantized model with its source (`gates/task.py`,
`gates/power.py`, `gates/speed.py`). Pure: numbers in, numbers out. Differences are quantized minus
source, in the unit of the scores; a `margin` is the loss that is still tolerated, positive.

    score = paired([1, 1, 0, 1], [1, 0, 0, 1])
    judge([score], [0.05])[0].outcome          # Inconclusive: four items decide nothing

Sources of the formulas:

- Right or wrong (scores 0 and 1): the score interval for a difference of paired proportions,
  T. Tango, "Equivalence test and confidence interval for the difference in proportions for the
  paired-sample design", Statistics in Medicine 17:891-908 (1998). It needs no discordant pairs to
  be valid. Its plain form lets up to 5.8 % of damaged models pass and fails up to 7.3 % of honest
  ones, so both sides are corrected for continuity; `tests/unit/test_statistics.py` enumerates the
  errors that are left.
- Other scores: Student's t on the differences, with one more pair that speaks against the claim.
- Several tasks: S. Holm, "A simple sequentially rejective multiple test procedure", Scandinavian
  Journal of Statistics 6:65-70 (1979), once for the claims "recovered" and once for "damaged".
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import NormalDist
from typing import Final

import numpy as np
import numpy.typing as npt

from halftone.spec.reports import Outcome

FAMILY_ALPHA: Final = 0.05  # the chance of any wrong claim of one kind, over all tasks of a job
POWER: Final = 0.80
# The share of items that usually change sides, in either direction, in a good 4-bit model.
USUAL_DISCORDANCE: Final = 0.04

# Continuity corrections of the score statistic, in items. Fewer losses than the margin has happen
# less often than the normal distribution says, more losses more often: hence the difference. Both
# were found by enumerating all outcomes for 30 to 1319 items, margins of 1 to 20 points, any
# discordance and levels down to 5 % / 7: no error was above its level.
_RECOVERED_CORRECTION: Final = 0.5
_DAMAGED_CORRECTION: Final = 1.5
_BISECTIONS: Final = 60

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class PairedScores:
    """Scores of the same items under both models, each float64[items], in the same order."""

    source: Floats
    quantized: Floats

    @property
    def items(self) -> int:
        return len(self.source)

    @property
    def difference(self) -> float:
        """Mean of quantized minus source."""
        return float(np.mean(self.quantized - self.source))

    @cached_property
    def gained(self) -> int:
        """Items that only the quantized model scores on, or scores higher on."""
        return int(np.sum(self.quantized > self.source))

    @cached_property
    def lost(self) -> int:
        return int(np.sum(self.quantized < self.source))

    @property
    def discordance(self) -> float:
        """Share of items whose scores differ."""
        return (self.gained + self.lost) / self.items

    @cached_property
    def is_binary(self) -> bool:
        """Whether every score is right (1) or wrong (0)."""
        return bool(np.isin(self.source, (0, 1)).all() and np.isin(self.quantized, (0, 1)).all())

    @property
    def standard_error(self) -> float:
        """Of the mean difference, as the sample shows it; 0 without a differing item."""
        if self.items < 2:
            return math.inf
        return float(np.std(self.quantized - self.source, ddof=1)) / math.sqrt(self.items)


@dataclass(frozen=True)
class Judgement:
    """What can be said of one task; both levels are Holm's, so the bounds tell the outcome.

    `lower` is the one-sided bound at `recovered_alpha`, `upper` that at `damaged_alpha`.
    """

    outcome: Outcome
    lower: float
    upper: float
    recovered_alpha: float
    damaged_alpha: float


def paired(source: npt.ArrayLike, quantized: npt.ArrayLike) -> PairedScores:
    """Pair scores by position; raises ValueError for unequal lengths, none, or a score not finite.

    Callers pair items by id first.
    """
    scores = PairedScores(np.asarray(source, np.float64), np.asarray(quantized, np.float64))
    if len(scores.source) != len(scores.quantized) or not len(scores.source):
        raise ValueError("both models must have scores for the same items, at least one")
    if not (np.isfinite(scores.source).all() and np.isfinite(scores.quantized).all()):
        raise ValueError("a score is not finite")
    return scores


def judge(tasks: Sequence[PairedScores], margins: Sequence[float]) -> list[Judgement]:
    """Judge every task against its margin, with at most 5 % for any wrong claim of either kind.

    Passed: the lower bound is above -margin. Failed: the upper bound is below. Else Inconclusive.
    """
    pairs = list(zip(tasks, margins, strict=True))
    recovered = holm([recovered_p(scores, margin) for scores, margin in pairs])
    damaged = holm([damaged_p(scores, margin) for scores, margin in pairs])
    judged = []
    for scores, (has_recovered, first), (is_damaged, second) in zip(
        tasks, recovered, damaged, strict=True
    ):
        outcome = Outcome.Failed if is_damaged else Outcome.Inconclusive
        judged.append(
            Judgement(
                outcome=Outcome.Passed if has_recovered else outcome,
                lower=lower_bound(scores, first),
                upper=upper_bound(scores, second),
                recovered_alpha=first,
                damaged_alpha=second,
            )
        )
    return judged


def holm(p_values: Sequence[float], alpha: float = FAMILY_ALPHA) -> list[tuple[bool, float]]:
    """For each p-value, whether its claim holds, and the level that it was held against.

    Smallest first, each against alpha over the number of claims left; the first that fails stops
    all after it, which keep its level.
    """
    results = [(False, alpha)] * len(p_values)
    holds = True
    level = alpha / max(1, len(p_values))
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        if holds:
            level = alpha / (len(p_values) - rank)
            holds = p_values[index] < level
        results[index] = (holds, level)
    return results


def recovered_p(scores: PairedScores, margin: float) -> float:
    """The p-value of "the loss is smaller than `margin`": its chance where the loss equals it."""
    return 1 - NormalDist().cdf(_statistic(scores, margin, against=-1))


def damaged_p(scores: PairedScores, margin: float) -> float:
    """The p-value of "the loss is greater than `margin`"."""
    return NormalDist().cdf(_statistic(scores, margin, against=+1))


def lower_bound(scores: PairedScores, alpha: float) -> float:
    """The one-sided lower bound of the difference at level `alpha`."""
    return -_bisect(lambda margin: recovered_p(scores, margin) < alpha, _reach(scores))


def upper_bound(scores: PairedScores, alpha: float) -> float:
    """The one-sided upper bound of the difference at level `alpha`."""
    return -_bisect(lambda margin: damaged_p(scores, margin) >= alpha, _reach(scores))


def items_needed(margin: float, discordant: float = USUAL_DISCORDANCE, tasks: int = 1) -> int:
    """How many items can tell an undamaged model from one that lost `margin`, four times in five.

    The usual large-sample formula, (z_alpha + z_power)² · discordant / margin², with Holm's first
    level for several tasks. With few items it flatters: what it gives for a margin of one point has
    a power of 78 %, two points 74 %, five points 56 % (enumerated). So fewer items are surely too
    few, and a gate that clears it by half has the power that it says.
    """
    if margin <= 0:
        raise ValueError("no number of items shows that nothing at all was lost")
    return math.ceil((_separation(tasks) / margin) ** 2 * discordant)


def detectable_margin(items: int, discordant: float = USUAL_DISCORDANCE, tasks: int = 1) -> float:
    """The loss that `items` can tell from none; `items_needed` the other way round."""
    return _separation(tasks) * math.sqrt(discordant / items)


def _separation(tasks: int) -> float:
    """Standard errors between no loss and the margin, for the level and the power wanted."""
    normal = NormalDist()
    return normal.inv_cdf(1 - FAMILY_ALPHA / tasks) + normal.inv_cdf(POWER)


def score_statistic(
    gained: npt.ArrayLike, lost: npt.ArrayLike, items: int, margin: float, correction: float
) -> Floats:
    """Tango's statistic for a true difference of -`margin`, elementwise over the two counts.

    Near a standard normal variable there; great when fewer were lost. `correction` is added to the
    difference, in items. -1 < `margin` < 1; counts need not be whole.
    """
    gains, losses = np.asarray(gained, np.float64), np.asarray(lost, np.float64)
    # Written for a loss. With a negative margin the roles of gains and losses are exchanged.
    rare, frequent = (gains, losses) if margin >= 0 else (losses, gains)
    size = abs(margin)
    # The likeliest share of the rarer kind among all models whose true difference is -margin.
    b = size * (2 * items + rare - frequent) - rare - frequent
    c = -rare * size * (1 - size)
    share = (np.sqrt(b * b - 8 * items * c) - b) / (4 * items)
    variance = items * (2 * share + size - size * size)
    excess = gains - losses + items * margin + correction
    with np.errstate(divide="ignore", invalid="ignore"):
        z = excess / np.sqrt(np.maximum(variance, 0))
    return np.where(np.isnan(z), 0.0, z)


def student_tail(t: float, degrees: int) -> float:
    """P(T > t) of Student's distribution with a whole number of degrees of freedom.

    The finite sums of Abramowitz and Stegun, Handbook of Mathematical Functions, 26.7.3 and 26.7.4.
    """
    if degrees > 300:  # where both differ by less than 0.0003
        return 1 - NormalDist().cdf(t)
    angle = math.atan(abs(t) / math.sqrt(degrees))
    sine, cosine = math.sin(angle), math.cos(angle)
    term, total = (cosine, 0.0) if degrees % 2 else (1.0, 0.0)
    for k in range(1 + degrees % 2, degrees, 2):
        total += term
        term *= cosine * cosine * k / (k + 1)
    within = 2 / math.pi * (angle + sine * total) if degrees % 2 else sine * total
    return (1 - within) / 2 if t >= 0 else (1 + within) / 2


def student_quantile(alpha: float, degrees: int) -> float:
    """The t that is exceeded with probability `alpha` < 0.5."""
    return -_bisect(lambda t: student_tail(-t, degrees) > alpha, 1e4)


def _statistic(scores: PairedScores, margin: float, against: int) -> float:
    """Normal variable of the hypothesis that the difference is -margin.

    `against` is the direction of doubt: -1 weakens "recovered", +1 weakens "damaged".
    """
    if scores.is_binary:
        correction = -_RECOVERED_CORRECTION if against < 0 else _DAMAGED_CORRECTION
        return float(score_statistic(scores.gained, scores.lost, scores.items, margin, correction))
    differences = np.append(scores.quantized - scores.source, against * _range(scores))
    error = float(np.std(differences, ddof=1)) / math.sqrt(len(differences))
    excess = float(np.mean(differences)) + margin
    if error == 0:  # every score is the same number
        return math.copysign(math.inf, excess)
    t = excess / error
    tail = student_tail(abs(t), len(differences) - 1)
    return math.copysign(-NormalDist().inv_cdf(max(tail, 1e-300)), t)


def _range(scores: PairedScores) -> float:
    """The widest that one item's scores could differ, as far as the sample shows."""
    both = np.concatenate([scores.source, scores.quantized])
    return float(both.max() - both.min())


def _reach(scores: PairedScores) -> float:
    """Differences are looked for between plus and minus this."""
    return 1 - 1e-12 if scores.is_binary else 10 * _range(scores)


def _bisect(is_beyond: Callable[[float], bool], reach: float) -> float:
    """Where `is_beyond` turns from False to True between -reach and reach."""
    low, high = -reach, reach
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (low, middle) if is_beyond(middle) else (middle, high)
    return (low + high) / 2
