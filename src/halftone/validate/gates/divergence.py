"""The gates `KlDivergence`, `TopOneAgreement` and `Perplexity`: does the model still say the same?

    measured = compare(…)                    # of `token_divergence`, which says what is computed
    result = judge(gate, measured)
    document = evidence(measured)            # one evidence file serves all three gates

Called by `halftone.validate.engine_gates`. Low divergence rejects a damaged model; it does not rank
good ones (arXiv:2606.19558 finds no correlation with benchmarks among good quantizations).
"""

from typing import Any, Final

import numpy as np

from halftone.spec.gates import KlDivergence, Perplexity, TopOneAgreement
from halftone.spec.reports import GateResult, Interval, Outcome
from halftone.validate.gates.decimals import decimal_text
from halftone.validate.gates.token_divergence import (
    Divergence,
    Floats,
    PromptMeasure,
    clustered_mean,
    compare,
    perplexities,
)

__all__ = ["DivergenceGate", "compare", "evidence", "judge"]

DivergenceGate = KlDivergence | TopOneAgreement | Perplexity

_Z95: Final = 1.959964
_DIGITS: Final = 6  # of a divergence, where its limit has no more
_WORST: Final = 10
# Four bins a decade; what lies outside is counted in the first or the last.
_EDGES: Final = tuple(float(f"{10 ** (step / 4):.4g}") for step in range(-32, 5))


def judge(gate: DivergenceGate, measured: Divergence) -> GateResult:
    """The gate's result; `evidence(measured)` belongs to it."""
    if isinstance(gate, KlDivergence):
        return _judge_divergence(gate, measured)
    if isinstance(gate, TopOneAgreement):
        return _judge_agreement(gate, measured)
    return _judge_perplexity(gate, measured)


def _judge_divergence(gate: KlDivergence, measured: Divergence) -> GateResult:
    mean, error = measured.clustered("kl")
    digits = max(_DIGITS, len(gate.maximum.partition(".")[2]))
    passed = _as_written(mean, digits) <= float(gate.maximum)
    worst = max(measured.prompts, key=lambda p: float(p.kl.mean()) if p.kl.size else 0.0)
    noise = _mean(measured.floor)
    message = (
        f"Mean KL divergence is {decimal_text(mean, digits)} nats a token, 99 % of tokens are "
        f"below {decimal_text(_p99(measured.joined('kl')))}; the source against itself has "
        f"{decimal_text(noise)}. " + _sentence(passed, worst, "diverges most")
    )
    return _result(gate, passed, message, worst.id).model_copy(
        update={
            "score": decimal_text(mean, digits),
            "limit": f"≤ {gate.maximum} nats",
            "unit": "nats",
            "standardError": None if error is None else decimal_text(error),
            "interval": _interval(mean, error),
            "items": len(measured.prompts),
        }
    )


def _judge_agreement(gate: TopOneAgreement, measured: Divergence) -> GateResult:
    share, error = measured.clustered("agrees")
    percent = 100 * share
    passed = _as_written(percent, 4) >= gate.minPercent
    worst = min(measured.prompts, key=lambda p: float(p.agrees.mean()) if p.agrees.size else 1.0)
    tokens = sum(prompt.agrees.size for prompt in measured.prompts)
    message = (
        f"Both models find the same next token most likely at {decimal_text(percent, 2)} % of "
        f"{tokens:,} tokens. " + _sentence(passed, worst, "agrees least")
    )
    scaled = None if error is None else 100 * error
    return _result(gate, passed, message, worst.id).model_copy(
        update={
            "score": decimal_text(percent, 4),
            "limit": f"≥ {gate.minPercent} %",
            "unit": "percent",
            "standardError": None if scaled is None else decimal_text(scaled, 4),
            "interval": _interval(percent, scaled, 4),
            "items": len(measured.prompts),
        }
    )


def _judge_perplexity(gate: Perplexity, measured: Divergence) -> GateResult:
    source, quantized = perplexities(measured)
    # A source without a perplexity proves nothing, and dividing by it would look like a gain.
    increase = 100 * (quantized / source - 1) if np.isfinite(source) else float("inf")
    passed = _as_written(increase, 4) <= gate.maxIncreasePercent
    losses = {p.id: float((p.quantized_loss - p.source_loss).mean()) for p in measured.prompts}
    worst = max(measured.prompts, key=lambda p: losses[p.id])
    differences = [p.quantized_loss - p.source_loss for p in measured.prompts]
    _, error = clustered_mean(differences)
    scaled = None if error is None else 100 * error * quantized / source
    message = (
        f"Perplexity goes from {decimal_text(source, 3)} to {decimal_text(quantized, 3)}, a change "
        f"of {decimal_text(increase, 2)} %. " + _sentence(passed, worst, "loses most")
    )
    return _result(gate, passed, message, worst.id).model_copy(
        update={
            "score": decimal_text(increase, 4),
            "limit": f"≤ {gate.maxIncreasePercent} % more",
            "unit": "percent",
            "sourceScore": decimal_text(source, 4),
            "quantizedScore": decimal_text(quantized, 4),
            "standardError": None if scaled is None else decimal_text(scaled, 4),
            "interval": _interval(increase, scaled, 4),
            "items": len(measured.prompts),
        }
    )


def _result(gate: DivergenceGate, passed: bool, message: str, worst: str) -> GateResult:
    return GateResult(
        name=gate.name,
        metric=gate.metric,
        outcome=Outcome.Passed if passed else Outcome.Failed,
        message=message,
        culprit=None if passed else worst,
    )


def _as_written(value: float, digits: int) -> float:
    """The value that the report shows, so that nobody reads 0.020000 and a failure at 0.02."""
    return round(value, digits)


def _sentence(passed: bool, worst: PromptMeasure, how: str) -> str:
    return f"Prompt `{worst.id}` ({worst.kind}) {how}{'' if passed else ' and decides it'}."


def _interval(mean: float, error: float | None, digits: int = 6) -> Interval | None:
    if error is None:
        return None
    low, high = mean - _Z95 * error, mean + _Z95 * error
    return Interval(
        lower=decimal_text(low, digits), upper=decimal_text(high, digits), confidencePercent=95
    )


def _mean(values: Floats) -> float:
    return float(values.mean()) if values.size else 0.0


def _p99(values: Floats) -> float:
    """Of values some of which may be infinite, so a value of the list and never between two."""
    return float(np.quantile(values, 0.99, method="higher")) if values.size else 0.0


def evidence(measured: Divergence) -> dict[str, Any]:
    """The evidence file of all three gates; what is not finite is null."""
    kl = measured.joined("kl")
    mean, error = measured.clustered("kl")
    share, _ = measured.clustered("agrees")
    source, quantized = perplexities(measured)
    return {
        "prompts": [
            {
                "id": p.id,
                "kind": p.kind,
                "tokens": int(p.kl.size),
                "meanKl": _finite(_mean(p.kl)),
                "p99Kl": _finite(_p99(p.kl)),
                "agreementPercent": 100 * float(p.agrees.mean()) if p.kl.size else None,
            }
            for p in measured.prompts
        ],
        "histogram": _histogram(kl),
        "noiseFloor": {
            "mean": _finite(_mean(measured.floor)),
            "p99": _finite(_p99(measured.floor)),
        },
        "mean": _finite(mean),
        "p99": _finite(_p99(kl)),
        "standardError": error,
        "topOneAgreementPercent": 100 * share,
        "perplexity": {"source": _finite(source), "quantized": _finite(quantized)},
        "worst": _worst(measured),
        "promptSetSha256": measured.prompt_set_sha256,
        "topK": measured.top_k,
        "method": measured.method,
    }


def _histogram(kl: Floats) -> dict[str, list[float] | list[int]]:
    counts, _ = np.histogram(np.clip(kl, _EDGES[0], _EDGES[-1]), _EDGES)
    return {"edges": list(_EDGES), "counts": [int(count) for count in counts]}


def _worst(measured: Divergence) -> list[dict[str, Any]]:
    """The tokens that diverge most, each as the prompt has it."""
    rows = [
        (float(value), prompt.id, position, piece)
        for prompt in measured.prompts
        for value, position, piece in zip(prompt.kl, prompt.positions, prompt.pieces, strict=True)
    ]
    rows.sort(key=lambda row: -row[0])
    return [
        {"prompt": prompt, "position": position, "token": piece, "kl": _finite(value)}
        for value, prompt, position, piece in rows[:_WORST]
    ]


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None
