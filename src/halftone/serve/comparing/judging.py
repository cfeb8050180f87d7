"""Whether the new endpoint is as good as the old one: four measures, and one verdict of them.

    comparison = judge(replayed, old_side, new_side, plan, Limits())

Pure; called by the command line with what `replaying` gathered. `Same` needs every measure to be
within its limit at a one-sided 95 % bound: each claim must hold, so their number needs no
correction (an intersection-union test; Berger, Technometrics 24:295-300, 1982). `Worse` needs one
measure beyond its limit at 95 % over all four together (Bonferroni). All else is `Undecided`.

The share of failed requests is judged without a margin: `Same` allows none that the old endpoint
does not have too, and says what share would have gone unnoticed; `Worse` needs more failures than
chance gives (an exact sign test over the prompts that only one endpoint failed on).
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from halftone.serve.comparing.divergence import estimate
from halftone.serve.comparing.document import (
    Answers,
    Bounds,
    Comparison,
    Failure,
    Measure,
    Side,
    Timing,
    Verdict,
)
from halftone.serve.comparing.replaying import Pair, Plan, Replayed
from halftone.serve.comparing.resampling import FEWEST_PROMPTS, Ratio, percentile_ratio
from halftone.spec.reports import Outcome
from halftone.validate.statistics import FAMILY_ALPHA

_MEASURES: Final = 4
_WORSE_ALPHA: Final = FAMILY_ALPHA / _MEASURES

Percent = Literal["p50", "p95"]
_PERCENTS: Final[dict[Percent, float]] = {"p50": 50, "p95": 95}


@dataclass(frozen=True)
class Limits:
    """How much worse is still the same.

    `divergence` in nats a token; the others are percent that the median may be longer.
    """

    divergence: float = 0.05
    ttft_percent: float = 20.0
    itl_percent: float = 20.0


@dataclass(frozen=True)
class Subject:
    """One endpoint by its address and the model that was asked."""

    url: str
    model: str


def judge(replayed: Replayed, old: Subject, new: Subject, plan: Plan, limits: Limits) -> Comparison:
    """The comparison with its verdict and its reasons, the worst first."""
    pairs = replayed.pairs
    ttft = _timings([_firsts(pair) for pair in pairs])
    itl = _timings([_gaps(pair) for pair in pairs])
    measures = (
        _failures_measure(pairs),
        _divergence_measure(replayed, limits.divergence),
        _time_measure("ttft", "first token", ttft.get("p50"), limits.ttft_percent),
        _time_measure("itl", "time between tokens", itl.get("p50"), limits.itl_percent),
    )
    verdict, reasons = _verdict(measures)
    return Comparison(
        verdict=verdict,
        reasons=reasons,
        old=_side(old, [answer.failure for pair in pairs for answer in pair.old]),
        new=_side(new, [answer.failure for pair in pairs for answer in pair.new]),
        prompts=len(pairs),
        repeats=plan.repeats,
        concurrency=plan.concurrency,
        method="TeacherForced" if replayed.teacher_forced else "CommonPrefix",
        methodBecause=replayed.not_forced,
        topK=plan.top_k,
        measures=measures,
        answers=_answers(pairs),
        ttft={name: _timing(found) for name, found in ttft.items()},
        itl={name: _timing(found) for name, found in itl.items()},
        failures=tuple(_failures(pairs)),
    )


def _verdict(measures: Sequence[Measure]) -> tuple[Verdict, tuple[str, ...]]:
    by_outcome = {
        outcome: tuple(each.message for each in measures if each.outcome is outcome)
        for outcome in Outcome
    }
    failed, open_ = by_outcome[Outcome.Failed], by_outcome[Outcome.Inconclusive]
    if failed:
        return Verdict.Worse, failed + open_
    if open_:
        return Verdict.Undecided, open_
    return Verdict.Same, by_outcome[Outcome.Passed]


def _failures_measure(pairs: Sequence[Pair]) -> Measure:
    """Prompts that one endpoint answered each time and the other did not."""
    old = [any(answer.failure for answer in pair.old) for pair in pairs]
    new = [any(answer.failure for answer in pair.new) for pair in pairs]
    lost = sum(b and not a for a, b in zip(old, new, strict=True))
    gained = sum(a and not b for a, b in zip(old, new, strict=True))
    share = 100 * sum(new) / len(pairs)
    unseen = 100 * (1 - FAMILY_ALPHA ** (1 / len(pairs)))
    example = next(
        _failures([p for p, a, b in zip(pairs, old, new, strict=True) if b and not a]), None
    )
    named = f"; prompt {example.line} {example.message}" if example else ""
    outcome = Outcome.Passed if not lost else Outcome.Inconclusive
    if lost and _sign_tail(lost, gained) < _WORSE_ALPHA:
        outcome = Outcome.Failed
    message = {
        Outcome.Passed: (
            f"No prompt of {len(pairs)} failed on the new endpoint alone; what fails less often "
            f"than in {unseen:.2g} % of prompts may not have shown."
        ),
        Outcome.Inconclusive: (
            f"{lost} of {len(pairs)} prompts failed on the new endpoint alone, which may be "
            f"chance{named}."
        ),
        Outcome.Failed: f"{lost} of {len(pairs)} prompts failed on the new endpoint alone{named}.",
    }[outcome]
    return Measure(
        name="failures",
        unit="% of prompts",
        value=share,
        bounds=None,
        limit=100 * sum(old) / len(pairs),
        outcome=outcome,
        message=message,
    )


def _sign_tail(lost: int, gained: int) -> float:
    """The chance of so many losses or more among all that differ, were either side as likely."""
    count = lost + gained
    return float(sum(math.comb(count, k) for k in range(lost, count + 1)) / 2**count)


def _divergence_measure(replayed: Replayed, limit: float) -> Measure:
    clusters = [pair.scored.kl for pair in replayed.pairs if pair.scored is not None]
    found = estimate(clusters)
    value = found.mean if found.tokens else None
    lower, upper = found.bound(FAMILY_ALPHA, -1), found.bound(FAMILY_ALPHA, +1)
    outcome = Outcome.Inconclusive
    if upper <= limit and found.prompts >= FEWEST_PROMPTS and not _unscored(replayed):
        outcome = Outcome.Passed
    elif found.bound(_WORSE_ALPHA, -1) > limit:
        outcome = Outcome.Failed
    return Measure(
        name="divergence",
        unit="nats a token",
        value=value,
        bounds=_bounds(max(lower, 0.0), upper) if found.error is not None else None,
        limit=limit,
        outcome=outcome,
        message=_divergence_message(replayed, outcome, limit),
    )


def _divergence_message(replayed: Replayed, outcome: Outcome, limit: float) -> str:
    found = estimate([pair.scored.kl for pair in replayed.pairs if pair.scored is not None])
    unscored = _unscored(replayed)
    why = f" Prompt {unscored[0].prompt.line} {unscored[0].unscored}." if unscored else ""
    if not found.tokens:
        return f"The answers' distributions could not be compared.{why}"
    how = "on the old answers" if replayed.teacher_forced else "up to where the answers differ"
    said = (
        f"The new model diverges by at least {found.mean:.4g} nats a token from the old one {how} "
        f"({found.tokens:,} tokens of {found.prompts} prompts)"
    )
    ending = {
        Outcome.Passed: f", within {limit:g}.",
        Outcome.Failed: f", more than {limit:g}.",
        Outcome.Inconclusive: (
            f"; {len(unscored)} of {len(replayed.pairs)} prompts could not be compared."
            if unscored
            else f", which decides neither way about {limit:g}; use more prompts."
        ),
    }[outcome]
    return said + ending + (why if outcome is Outcome.Inconclusive else "")


def _unscored(replayed: Replayed) -> list[Pair]:
    """Prompts that both answered and whose distributions could not be compared: what is not known
    of them may be the worst."""
    return [pair for pair in replayed.pairs if pair.unscored and pair.first is not None]


def _time_measure(name: str, what: str, found: Ratio | None, percent: float) -> Measure:
    limit = 1 + percent / 100
    if found is None:
        return Measure(
            name=name,
            unit="times the old median",
            value=None,
            bounds=None,
            limit=limit,
            outcome=Outcome.Inconclusive,
            message=(
                f"No prompt gave a {what} on both endpoints; see what failed, and let answers be "
                "longer with `--max-tokens`."
            ),
        )
    lower, upper = found.bound(FAMILY_ALPHA, -1), found.bound(FAMILY_ALPHA, +1)
    outcome = Outcome.Inconclusive
    if upper <= limit:
        outcome = Outcome.Passed
    elif found.bound(_WORSE_ALPHA, -1) > limit:
        outcome = Outcome.Failed
    between = f" ({lower:.2f} to {upper:.2f})" if math.isfinite(upper) else ""
    said = (
        f"The median {what} is {1000 * found.new:.3g} ms, {found.value:.2f} times the old "
        f"{1000 * found.old:.3g} ms{between}"
    )
    ending = {
        Outcome.Passed: f", within {limit:.2f}.",
        Outcome.Failed: f", more than {limit:.2f}.",
        Outcome.Inconclusive: f", which decides neither way about {limit:.2f}; use more prompts.",
    }[outcome]
    return Measure(
        name=name,
        unit="times the old median",
        value=found.value,
        bounds=_bounds(lower, upper),
        limit=limit,
        outcome=outcome,
        message=said + ending,
    )


def _timings(rows: Sequence[tuple[list[float], list[float]]]) -> dict[Percent, Ratio]:
    old, new = [row[0] for row in rows], [row[1] for row in rows]
    found = {name: percentile_ratio(old, new, percent) for name, percent in _PERCENTS.items()}
    return {name: ratio for name, ratio in found.items() if ratio is not None}


def _firsts(pair: Pair) -> tuple[list[float], list[float]]:
    both = list(pair.both)
    return (
        [a.first_token for a, _ in both if a.first_token is not None],
        [b.first_token for _, b in both if b.first_token is not None],
    )


def _gaps(pair: Pair) -> tuple[list[float], list[float]]:
    both = list(pair.both)
    return [gap for a, _ in both for gap in a.gaps], [gap for _, b in both for gap in b.gaps]


def _timing(found: Ratio) -> Timing:
    bounds = _bounds(found.bound(FAMILY_ALPHA, -1), found.bound(FAMILY_ALPHA, +1))
    return Timing(oldMs=1000 * found.old, newMs=1000 * found.new, ratio=found.value, bounds=bounds)


def _answers(pairs: Sequence[Pair]) -> Answers:
    both = [pair.first for pair in pairs if pair.first is not None]
    equal = sum(a.text == b.text for a, b in both)
    apart = [
        1
        + next(
            (i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(map(len, (a, b)))
        )
        for a, b in (
            (one.tokens or one.pieces, other.tokens or other.pieces) for one, other in both
        )
        if a != b
    ]
    agreement = estimate([pair.scored.agrees for pair in pairs if pair.scored is not None])
    return Answers(
        compared=len(both),
        equal=equal,
        equalPercent=100 * equal / len(both) if both else None,
        firstDifference=float(np.median(apart)) if apart else None,
        topOneAgreementPercent=100 * agreement.mean if agreement.tokens else None,
    )


def _failures(pairs: Sequence[Pair]) -> Iterator[Failure]:
    for pair in pairs:
        line = pair.prompt.line
        for each in pair.old:
            if each.failure is not None:
                yield Failure(endpoint="old", line=line, message=each.failure)
        for each in pair.new:
            if each.failure is not None:
                yield Failure(endpoint="new", line=line, message=each.failure)


def _side(subject: Subject, failures: Sequence[str | None]) -> Side:
    return Side(
        url=subject.url,
        model=subject.model,
        requests=len(failures),
        failed=sum(failure is not None for failure in failures),
    )


def _bounds(lower: float, upper: float) -> Bounds:
    return Bounds(lower=lower, upper=upper if math.isfinite(upper) else None)
