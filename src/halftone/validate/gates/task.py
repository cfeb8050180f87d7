"""The gate `Task`: how much of the source's score on a task the quantized model keeps.

Called with what `serving/tasks.py` measured on both models. Recovery is computed here, from raw
scores of the same items; no figure that somebody typed is accepted. All tasks of a job are judged
together, because every further task is a further chance of a wrong claim.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from halftone.spec.errors import RefusedInput
from halftone.spec.gates import Metric, Task
from halftone.spec.names import Reason
from halftone.spec.reports import GateResult, Interval, Outcome
from halftone.validate.statistics import Judgement, PairedScores, items_needed, judge, paired

Answer = Mapping[str, Any]  # what `serving/tasks.py:measure` gives
_CULPRITS: Final = 3


def judge_tasks(
    gates: Sequence[Task], sources: Sequence[Answer], quantized: Sequence[Answer]
) -> list[tuple[GateResult, dict[str, Any]]]:
    """Each gate's result and evidence, in order; answers stand in the order of the gates.

    The bounds are one-sided, each at the level that Holm's correction gives it (5 % for a single
    task). Raises RefusedInput where both models were not asked the same.
    """
    compared = [
        _Comparison(gate, source, other)
        for gate, source, other in zip(gates, sources, quantized, strict=True)
    ]
    judged = judge([c.scores for c in compared], [c.margin for c in compared])
    return [
        (_result(comparison, judgement, len(gates)), _evidence(comparison, judgement, len(gates)))
        for comparison, judgement in zip(compared, judged, strict=True)
    ]


class _Comparison:
    """One task under both models; `scores` are turned so that more is better."""

    def __init__(self, gate: Task, source: Answer, quantized: Answer) -> None:
        self.gate, self.source = gate, source
        self.pairs = _pair(gate, source, quantized)
        self._sign = 1.0 if source["higherIsBetter"] else -1.0
        before, after = zip(*self.pairs.values(), strict=True)
        self.source_score, self.quantized_score = float(np.mean(before)), float(np.mean(after))
        # Never -0.0: right and wrong stay 0 and 1 where they can.
        self.scores: PairedScores = (
            paired(before, after)
            if self._sign > 0
            else paired([-score for score in before], [-score for score in after])
        )

    @property
    def margin(self) -> float:
        """The loss that is tolerated, in the unit of the scores; 0 where no share can be taken."""
        kept = self.gate.minRecoveryPercent / 100
        if not self.is_meaningful:
            return 0.0
        if self._sign > 0:
            return (1 - kept) * self.source_score
        return (1 / kept - 1) * self.source_score if kept else 1e6 * self.source_score

    @property
    def is_meaningful(self) -> bool:
        """Whether the source's score is something of which a share can be kept."""
        return self.source_score > 0

    def recovery(self, difference: float) -> float | None:
        """Percent of the source's score that is kept at a difference (positive: better)."""
        if not self.is_meaningful:
            return None
        if self._sign > 0:
            return 100 * (1 + difference / self.source_score)
        remaining = self.source_score - difference
        return 100 * self.source_score / remaining if remaining > 0 else None

    def needed_items(self, tasks: int) -> int | None:
        """Items that would decide it, were the model undamaged, at the discordance that it has."""
        if self.margin <= 0:
            return None
        squares = float(np.mean((self.scores.quantized - self.scores.source) ** 2))
        return items_needed(self.margin, max(squares, 1 / self.scores.items), tasks)

    def culprits(self) -> str | None:
        """Up to three items that the source does better on, the greatest losses first."""
        drops = self.scores.source - self.scores.quantized
        worst = [i for i in np.argsort(-drops, kind="stable") if drops[i] > 0][:_CULPRITS]
        prompts = {str(item["id"]): item.get("prompt") for item in self.source["items"]}
        names = [list(self.pairs)[i] for i in worst]
        return ", ".join(_quoted(name, prompts[name]) for name in names) or None


def _pair(gate: Task, source: Answer, quantized: Answer) -> dict[str, tuple[float, float]]:
    """By item: the source's score and the quantized model's, in the source's order."""
    before = {str(item["id"]): float(item["score"]) for item in source["items"]}
    after = {str(item["id"]): float(item["score"]) for item in quantized["items"]}
    same = all(source[field] == quantized[field] for field in ("metric", "fewShot", "dataSha256"))
    if not same or before.keys() != after.keys() or not before:
        told = (
            f"Gate '{gate.name}' cannot pair its items: source and checkpoint were not asked the "
            f"same of '{gate.task}' ({len(before):,} and {len(after):,} items); remove the kept "
            "results of the source, and measure both with one version of the task's data."
        )
        raise RefusedInput(Reason.WorkdirInconsistent, gate.name, told)
    return {name: (score, after[name]) for name, score in before.items()}


def _result(comparison: _Comparison, judgement: Judgement, tasks: int) -> GateResult:
    gate, scores = comparison.gate, comparison.scores
    recovery = comparison.recovery(scores.difference)
    outcome = judgement.outcome if comparison.is_meaningful else Outcome.Inconclusive
    return GateResult(
        name=gate.name,
        metric=Metric.Task,
        outcome=outcome,
        message=_message(comparison, judgement, tasks),
        score=None if recovery is None else _decimal(recovery),
        limit=f"≥ {gate.minRecoveryPercent} %",
        unit="% of the source's score",
        sourceScore=f"{comparison.source_score:.4f}",
        quantizedScore=f"{comparison.quantized_score:.4f}",
        standardError=_standard_error(comparison),
        interval=_interval(comparison, judgement),
        items=scores.items,
        culprit=None if outcome is Outcome.Passed else comparison.culprits(),
    )


def _message(comparison: _Comparison, judgement: Judgement, tasks: int) -> str:
    scores, limit = comparison.scores, comparison.gate.minRecoveryPercent
    told = (
        f"{comparison.source['task']}: {comparison.quantized_score:.4f} against the source's "
        f"{comparison.source_score:.4f} on {scores.items:,} items"
    )
    recovery = comparison.recovery(scores.difference)
    if recovery is None:
        return f"{told}; of such a score no share can be kept, so the task tells nothing here."
    lower, upper = (comparison.recovery(bound) for bound in (judgement.lower, judgement.upper))
    told = f"{told}, a recovery of {recovery:.2f} %"
    if judgement.outcome is Outcome.Passed:
        return f"{told}; at the lower bound it is {_decimal(lower)} %, and {limit} % are asked for."
    if judgement.outcome is Outcome.Failed:
        return (
            f"{told}; even at the upper bound it is {_decimal(upper)} %, and {limit} % are asked "
            f"for; {scores.lost:,} items were lost and {scores.gained:,} gained."
        )
    needed = comparison.needed_items(tasks) or 0
    way_out = (
        f"an undamaged model would need about {needed:,} items"
        if needed > scores.items
        else "the loss itself lies near the limit"
    )
    return (
        f"{told}, between {_decimal(lower)} and {_decimal(upper)} %, which decides neither way "
        f"about {limit} %; {way_out}."
    )


def _interval(comparison: _Comparison, judgement: Judgement) -> Interval | None:
    """Of the recovery; the levels of both bounds together leave its confidence, rounded down."""
    bounds = [comparison.recovery(bound) for bound in (judgement.lower, judgement.upper)]
    if None in bounds:
        return None
    outside = judgement.recovered_alpha + judgement.damaged_alpha
    lower, upper = (f"{bound:.2f}" for bound in bounds)
    confidence = math.floor(100 * (1 - outside) + 1e-9)
    return Interval(lower=lower, upper=upper, confidencePercent=confidence)


def _standard_error(comparison: _Comparison) -> str | None:
    """Of the recovery, in percent of the source's score."""
    error = comparison.scores.standard_error
    if not comparison.is_meaningful or not math.isfinite(error):
        return None
    return f"{100 * error / comparison.source_score:.2f}"


def _evidence(comparison: _Comparison, judgement: Judgement, tasks: int) -> dict[str, Any]:
    source = comparison.source
    return {
        "task": source["task"],
        "metric": source["metric"],
        "higherIsBetter": source["higherIsBetter"],
        "fewShot": source["fewShot"],
        "dataSha256": source["dataSha256"],
        "sourceScore": comparison.source_score,
        "quantizedScore": comparison.quantized_score,
        "recoveryPercent": comparison.recovery(comparison.scores.difference),
        "difference": comparison.scores.difference,
        "interval": {"lower": judgement.lower, "upper": judgement.upper},
        "marginPercent": 100 - comparison.gate.minRecoveryPercent,
        "neededItems": comparison.needed_items(tasks),
        "alpha": {"recovered": judgement.recovered_alpha, "damaged": judgement.damaged_alpha},
        "items": [
            {"id": name, "source": before, "quantized": after}
            for name, (before, after) in comparison.pairs.items()
        ],
    }


def _quoted(name: str, prompt: str | None) -> str:
    lines = (prompt or "").strip().splitlines()
    return f"{name} ('{lines[-1].strip()}')" if lines else name


def _decimal(value: float | None) -> str:
    return "any" if value is None else f"{value:.2f}"
