"""The rows of the card's tables, from the plan, the checkpoint document and the report.

Called by `halftone.publish.card.card`; the template sets them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from halftone.publish.card.explanations import FORMATS_IN_WORDS, why_kept
from halftone.spec.documents import CheckpointDocument, Plan, RoleSummary
from halftone.spec.formats import FORMATS
from halftone.spec.gates import Metric
from halftone.spec.presentation import OUTCOME_WORDS, dataset_name, short_size, short_unit
from halftone.spec.reports import GateResult, Report
from halftone.spec.roles import Role


@dataclass(frozen=True)
class QuantizedRow:
    """A role in its format; `error` is the relative weight error, empty where unknown."""

    role: str
    format: str
    tensors: int
    parameters: int
    before: str
    after: str
    error: str


@dataclass(frozen=True)
class KeptRow:
    """A role in the source's precision, and why."""

    role: str
    tensors: int
    parameters: int
    size: str
    why: str


@dataclass(frozen=True)
class DataRow:
    """What was measured on, by modality; a local file by its name alone."""

    name: str
    modality: str
    samples: str
    tokens: str
    images: str
    truncated: str
    sha256: str


@dataclass(frozen=True)
class GateRow:
    """A gate; `values` go under source, quantized, score, limit, interval and items."""

    name: str
    metric: str
    outcome: str
    message: str
    values: tuple[str, ...]


def quantized_row(line: RoleSummary, checkpoint: CheckpointDocument) -> QuantizedRow:
    """A quantized line of the plan, with the error that was measured as it was written."""
    error = next(
        (
            e.relativeError
            for e in checkpoint.roles
            if (e.role, e.format) == (line.role, line.format)
        ),
        "",
    )
    return QuantizedRow(
        line.role,
        str(line.format),
        line.tensors,
        line.parameters,
        short_size(line.bytesBefore),
        short_size(line.bytesAfter),
        error,
    )


def data_rows(report: Report) -> list[DataRow]:
    """The data of a calibrated checkpoint."""
    return [
        DataRow(
            dataset_name(data.uri) + (f" at {data.revision}" if data.revision else ""),
            data.modality,
            f"{data.samples:,} of {data.usable:,}",
            f"{data.tokens:,}",
            f"{data.images:,}",
            f"{data.truncated:,}",
            data.sha256,
        )
        for data in report.calibration
    ]


def measured_scales(plan: Plan) -> str:
    """Whose scales were measured, in words; of everything where the plan does not say."""
    activations = ["activations"] if any(_is_measured(line) for line in plan.roles) else []
    cache = ["the KV cache"] if _measures_cache(plan) else []
    return " and of ".join(activations + cache) or "activations and of the KV cache"


def measures_experts(plan: Plan) -> bool:
    """Whether what enters routed experts was measured; then some may have seen no token."""
    return any(line.role is Role.Experts and _is_measured(line) for line in plan.roles)


def cache_in_words(plan: Plan) -> str:
    """What cache the configuration asks for; empty where it asks for none."""
    cache = plan.recipe.kvCache if plan.recipe is not None else None
    if cache is None:
        return ""
    scales = "scales that were measured" if _measures_cache(plan) else "scales of 1.0"
    return f"The configuration asks for an {cache.format} KV cache, with {scales}."


def _is_measured(line: RoleSummary) -> bool:
    return line.format is not None and FORMATS[line.format].needs_calibration


def _measures_cache(plan: Plan) -> bool:
    return plan.recipe is not None and plan.recipe.measures_cache


def formats_in_words(plan: Plan) -> list[tuple[str, str]]:
    """Every format that occurs, in words."""
    used = dict.fromkeys(line.format for line in plan.roles if line.format is not None)
    return [(fmt.value, FORMATS_IN_WORDS[fmt]) for fmt in used]


def kept_rows(plan: Plan) -> list[KeptRow]:
    """Every line of the plan that keeps the source's precision."""
    named = {line.role for line in plan.roles if line.format is not None}
    return [
        KeptRow(
            line.role,
            line.tensors,
            line.parameters,
            short_size(line.bytesAfter),
            why_kept(line.role, line.role in named),
        )
        for line in plan.roles
        if line.format is None
    ]


def gate_row(gate: GateResult) -> GateRow:
    """A gate's row; what was not measured stays empty."""
    interval = ""
    if gate.interval is not None:
        share = gate.interval.confidencePercent
        interval = f"{gate.interval.lower} to {gate.interval.upper} ({share} %)"
    elif gate.standardError is not None:
        interval = f"± {gate.standardError}"
    return GateRow(
        gate.name,
        gate.metric,
        OUTCOME_WORDS[gate.outcome],
        gate.message,
        (
            gate.sourceScore or "",
            gate.quantizedScore or "",
            f"{gate.score} {short_unit(gate.unit)}".strip() if gate.score else "",
            gate.limit or "",
            interval,
            "" if gate.items is None else f"{gate.items:,}",
        ),
    )


def slower_loads(evidence: Mapping[str, Mapping[str, Any]], report: Report) -> list[str]:
    """The loads at which the quantized model is shown to be slower: `32 (83.1 %)`."""
    found: dict[int, float] = {}
    for gate in report.gates:
        if gate.metric is Metric.Speed:
            loads = evidence.get(gate.name, {}).get("loads", ())
            found |= {int(one["concurrency"]): one["ratioPercent"] for one in loads if _loses(one)}
    return [f"{load} ({ratio:.3g} %)" for load, ratio in sorted(found.items())]


def _loses(load: Mapping[str, Any]) -> bool:
    """Whether the whole interval of a load's ratio lies below 100 %."""
    upper = load.get("interval", {"upper": load["ratioPercent"]})["upper"]
    return upper is not None and upper < 100
