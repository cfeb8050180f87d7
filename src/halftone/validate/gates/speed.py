"""The gate `Speed`: output tokens per second of the quantized model over the source's.

Called with what `serving/speed.py` measured on both models, in two processes one after the other on
one device. The interval is that of the ratio of two means over repetitions (Welch's, on
logarithms), so it covers what changes between repetitions, and not what changes between two starts
of a machine. The capacity card is fitted from the same measurement and left in the work directory.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np

from halftone.spec.errors import RefusedInput
from halftone.spec.gates import Metric, Speed
from halftone.spec.names import Reason
from halftone.spec.reports import GateResult, Interval, Outcome
from halftone.validate.capacity import build_card
from halftone.validate.serving.session import EngineFacts
from halftone.validate.statistics import FAMILY_ALPHA, student_quantile

Answer = Mapping[str, Any]  # what `serving/speed.py:measure` gives

_PROMPT_TOKENS: Final = 256
_OUTPUT_TOKENS: Final = 64
_REPETITIONS: Final = 5


class Ratio(NamedTuple):
    """Quantized over source, with one-sided 95 % bounds."""

    value: float
    lower: float
    upper: float


def parameters(gate: Speed, card: bool = True) -> dict[str, Any]:
    """What both models are asked: the gate's load, and a single stream beside it.

    `card`: also the steps for a capacity card, which only the quantized model needs.
    """
    return {
        "concurrencies": sorted({1, gate.concurrency}),
        "promptTokens": _PROMPT_TOKENS,
        "outputTokens": _OUTPUT_TOKENS,
        "repetitions": _REPETITIONS,
        "card": card,
    }


def judge(
    gate: Speed,
    source: Answer,
    quantized: Answer,
    facts: EngineFacts,
    checkpoint_digest: str,
    workdir: Path,
) -> tuple[GateResult, dict[str, Any]]:
    """The gate's result and evidence; `facts` are the quantized engine's, whose card is written.

    Raises RefusedInput where the models did not have the same load, OSError where the card cannot
    be written.
    """
    loads = _paired(gate, source, quantized)
    ratios = {load["concurrency"]: ratio(mine, theirs) for load, mine, theirs in loads}
    evidence = {
        "promptTokens": source["promptTokens"],
        "outputTokens": source["outputTokens"],
        "loads": [load for load, _, _ in loads],
        **_card(facts, quantized, checkpoint_digest, workdir),
    }
    for load in evidence["loads"]:
        found = ratios[load["concurrency"]]
        load["ratioPercent"] = 100 * found.value
        upper = 100 * found.upper if math.isfinite(found.upper) else None
        load["interval"] = {"lower": 100 * found.lower, "upper": upper}
    return _result(gate, evidence["loads"], ratios), evidence


def ratio(quantized: Sequence[float], source: Sequence[float]) -> Ratio:
    """Of mean rates over repetitions; without a bound for fewer than two of either."""
    after, before = np.log(np.asarray(quantized)), np.log(np.asarray(source))
    difference = float(after.mean() - before.mean())
    if min(len(after), len(before)) < 2:
        return Ratio(math.exp(difference), 0.0, math.inf)
    parts = [float(np.var(rates, ddof=1)) / len(rates) for rates in (after, before)]
    spread = sum(parts)
    reach = 0.0
    if spread > 0:
        shares = [part**2 / (len(r) - 1) for part, r in zip(parts, (after, before), strict=True)]
        # Rounded down: fewer degrees of freedom are the wider interval.
        degrees = max(1, math.floor(spread**2 / sum(shares) + 1e-9))
        reach = student_quantile(FAMILY_ALPHA, degrees) * math.sqrt(spread)
    bounds = (difference, difference - reach, difference + reach)
    return Ratio(*(math.exp(value) for value in bounds))


def _paired(
    gate: Speed, source: Answer, quantized: Answer
) -> list[tuple[dict[str, Any], list[float], list[float]]]:
    """By load: its row of the evidence, the quantized model's rates and the source's."""
    before = {load["concurrency"]: load for load in source["loads"]}
    after = {load["concurrency"]: load for load in quantized["loads"]}
    same = all(source[name] == quantized[name] for name in ("promptTokens", "outputTokens"))
    if not same or before.keys() != after.keys() or gate.concurrency not in before:
        told = (
            f"Gate '{gate.name}' cannot compare source and checkpoint: they were not timed under "
            f"the same load, {gate.concurrency} at once among others; measure both again."
        )
        raise RefusedInput(Reason.WorkdirInconsistent, gate.name, told)
    return [
        (
            {"concurrency": n, "source": _served(before[n]), "quantized": _served(after[n])},
            after[n]["repetitions"],
            before[n]["repetitions"],
        )
        for n in sorted(before)
    ]


def _served(load: Answer) -> dict[str, Any]:
    return {name: dict(load[name]) for name in ("ttftMs", "itlMs", "tokensPerSecond")}


def _card(
    facts: EngineFacts, quantized: Answer, checkpoint_digest: str, workdir: Path
) -> dict[str, Any]:
    """The card as written, or why there is none: a gate's outcome does not depend on it."""
    try:
        card = build_card(facts, quantized, checkpoint_digest)
    except ValueError as error:
        return {"card": None, "noCardBecause": str(error)}
    path = card.path
    card.save(workdir / path)
    return {"card": card.model_dump(mode="json"), "cardFile": path}


def _result(
    gate: Speed, loads: Sequence[Mapping[str, Any]], ratios: Mapping[int, Ratio]
) -> GateResult:
    found = ratios[gate.concurrency]
    limit = gate.minRatioPercent / 100
    outcome = Outcome.Inconclusive
    if found.lower >= limit:
        outcome = Outcome.Passed
    elif found.upper < limit:
        outcome = Outcome.Failed
    [load] = [load for load in loads if load["concurrency"] == gate.concurrency]
    return GateResult(
        name=gate.name,
        metric=Metric.Speed,
        outcome=outcome,
        message=_message(gate, outcome, ratios),
        score=f"{100 * found.value:.1f}",
        limit=f"≥ {gate.minRatioPercent} % at {gate.concurrency} concurrent",
        unit="% of the source's output tokens per second",
        sourceScore=f"{load['source']['tokensPerSecond']['p50']:.1f}",
        quantizedScore=f"{load['quantized']['tokensPerSecond']['p50']:.1f}",
        interval=_interval(found),
        culprit=f"{gate.concurrency} concurrent" if outcome is Outcome.Failed else None,
    )


def _interval(found: Ratio) -> Interval | None:
    if not math.isfinite(found.upper):
        return None
    return Interval(
        lower=f"{100 * found.lower:.1f}",
        upper=f"{100 * found.upper:.1f}",
        confidencePercent=round(100 * (1 - 2 * FAMILY_ALPHA)),
    )


def _message(gate: Speed, outcome: Outcome, ratios: Mapping[int, Ratio]) -> str:
    found = ratios[gate.concurrency]
    decided = {
        Outcome.Passed: f"at least {gate.minRatioPercent} % are asked for",
        Outcome.Failed: f"less than the {gate.minRatioPercent} % that are asked for",
        Outcome.Inconclusive: f"which decides neither way about {gate.minRatioPercent} %",
    }[outcome]
    bounds = (
        f"between {100 * found.lower:.1f} and {100 * found.upper:.1f} %"
        if math.isfinite(found.upper)
        else "from one repetition"
    )
    return (
        f"{100 * found.value:.1f} % of the source's output tokens per second at "
        f"{gate.concurrency} concurrent ({bounds}), {decided}; {_compared(ratios)}."
    )


def _compared(ratios: Mapping[int, Ratio]) -> str:
    """Which model wins at which of the measured loads."""
    slower = [n for n, found in ratios.items() if found.upper < 1]
    faster = [n for n, found in ratios.items() if found.lower > 1]
    even = [n for n in ratios if n not in slower and n not in faster]
    parts = [
        f"{word} at {' and '.join(map(str, numbers))} concurrent"
        for word, numbers in (("slower", slower), ("faster", faster), ("no different", even))
        if numbers
    ]
    return f"the quantized model is {', '.join(parts)}"
