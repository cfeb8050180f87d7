"""What the page says beside tables and drawings: gates, facts, and how it was measured.

The template sets them; nothing here knows HTML, and nothing there knows a document.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from halftone.spec.documents import CheckpointDocument, Plan, Ratio
from halftone.spec.gates import ENGINE_METRICS
from halftone.spec.presentation import OUTCOME_WORDS, data_text, short_unit, size_text
from halftone.spec.reports import GateResult, Interval, Outcome, Report
from halftone.validate.page.drawing import number
from halftone.validate.page.evidence import (
    DIVERGENCE_METRICS,
    Divergence,
    EngineRun,
    Load,
)
from halftone.validate.page.tables import plain_text

_SHOWN_TEXT: Final = 600  # characters of one generated answer


@dataclass(frozen=True)
class GateRow:
    """One gate of the table on top; an absent value is an empty string.

    `diverges` is set for the first gate that compared distributions: the caveat stands there.
    """

    name: str
    metric: str
    outcome: str
    word: str
    message: str
    culprit: str
    score: str
    limit: str
    source: str
    quantized: str
    interval: str
    items: str
    diverges: bool
    emulated: bool


@dataclass(frozen=True)
class Fact:
    """One line of "how this was measured"; a `code` value is a digest or an identifier."""

    name: str
    value: str
    code: bool = False


def gate_rows(report: Report) -> list[GateRow]:
    """Every gate in the order in which it ran."""
    emulated = report.platform is not None and report.platform.emulated
    ran = [gate for gate in report.gates if gate.outcome is not Outcome.NotRun]
    diverging = next((gate.name for gate in ran if gate.metric in DIVERGENCE_METRICS), None)
    return [
        GateRow(
            name=gate.name,
            metric=gate.metric,
            outcome=gate.outcome.lower(),
            word=OUTCOME_WORDS[gate.outcome],
            message=gate.message,
            culprit=gate.culprit or "",
            score=_with_unit(gate),
            limit=gate.limit or "",
            source=gate.sourceScore or "",
            quantized=gate.quantizedScore or "",
            interval=_interval(gate.interval, gate.standardError),
            items="" if gate.items is None else f"{gate.items:,}",
            diverges=gate.name == diverging,
            emulated=emulated and gate.metric in ENGINE_METRICS and gate in ran,
        )
        for gate in report.gates
    ]


def passed_count(report: Report) -> str:
    """`6 of 7`: how many gates passed."""
    passed = sum(1 for gate in report.gates if gate.outcome is Outcome.Passed)
    return f"{passed} of {len(report.gates)}"


def ratio_text(ratio: Ratio) -> str:
    """`11.20 MB (10.68 MiB) → 8.18 MB (7.80 MiB)`."""
    return f"{size_text(ratio.bytesBefore)} → {size_text(ratio.bytesAfter)}"


def divergence_facts(measured: Divergence) -> list[Fact]:
    """The figures beside the histogram."""
    floor, pair = measured.noiseFloor, measured.perplexity
    error = f" ± {number(measured.standardError)}" if measured.standardError is not None else ""
    return list(
        _present(
            ("Mean KL", measured.mean, lambda v: f"{number(v)}{error} nats"),
            ("p99 KL", measured.p99, lambda v: f"{number(v)} nats"),
            ("Noise floor", floor, lambda v: f"{_known(v.mean)} mean, {_known(v.p99)} p99"),
            ("Top-1 agreement", measured.topOneAgreementPercent, lambda v: f"{number(v)} %"),
            ("Perplexity", pair, lambda v: f"{_known(v.source, 4)} → {_known(v.quantized, 4)}"),
        )
    )


def slower_loads(loads: Sequence[Load]) -> str:
    """Where the quantized model loses, in a sentence; loads at which it wins need none."""
    slower = [load for load in loads if load.is_slower]
    if not slower:
        return "Under no measured load is the quantized model shown to be slower than the source."
    where = ", ".join(f"{load.concurrency} ({number(load.ratioPercent)} %)" for load in slower)
    return f"The quantized model is slower than the source at these numbers of requests: {where}."


def engine_facts(engine: EngineRun) -> list[Fact]:
    """What the server said of itself."""
    return list(
        _present(
            ("Load time", engine.loadSeconds, lambda v: f"{number(v)} s"),
            ("KV-cache blocks", engine.kvBlocks, lambda v: f"{v:,}"),
            ("Platform", engine.platform or None, plain_text),
            ("Kernels", engine.kernels or None, plain_text),
        )
    )


def generated_texts(engine: EngineRun) -> list[str]:
    """What the model generated, cut to what fits on a page."""
    given = engine.generated if isinstance(engine.generated, list | tuple) else [engine.generated]
    texts = [plain_text(a.get("text", a) if isinstance(a, dict) else a) for a in given if a]
    return [t if len(t) <= _SHOWN_TEXT else f"{t[:_SHOWN_TEXT]} …" for t in texts]


def measured_by(report: Report, plan: Plan, checkpoint: CheckpointDocument) -> list[Fact]:
    """Platform, versions and digests, in the order in which a reader asks for them."""
    platform, recipe = report.platform, plan.recipe
    served = None if platform is None else platform.device
    how = "emulated on a CPU" if platform is not None and platform.emulated else "as deployed"
    facts: list[tuple[str, Any, Any]] = [
        ("Source", report.source.uri, str),
        ("Source revision", report.source.revision, str),
        ("Recipe", recipe and recipe.name, str),
        ("Method", report.method, str),
        *(("Calibrated on", data_text(data), str) for data in report.calibration),
        ("Device", served, str),
        ("Activations and cache", platform and how, str),
        ("Engine", platform and platform.engine, str),
        ("Driver", platform and platform.driver, str),
        ("Kernels", platform and ", ".join(platform.kernels), str),
        ("Halftone", f"{report.halftoneVersion}, checkpoint by {checkpoint.halftoneVersion}", str),
        ("Began", report.startTime, str),
        ("Ended", report.completionTime, str),
    ]
    digests = (
        ("Checkpoint digest", report.checkpointDigest),
        ("Plan digest", report.planDigest),
        ("Gates digest", report.gatesDigest),
        *((f"Calibration data, {data.modality}", data.sha256) for data in report.calibration),
        ("Report digest", report.digest),
    )
    return [*_present(*facts), *(Fact(name, value, code=True) for name, value in digests)]


def _known(value: float | None, digits: int = 3) -> str:
    return "unbounded" if value is None else number(value, digits)


def _present(*facts: tuple[str, Any, Any]) -> Iterator[Fact]:
    """Those that have a value."""
    for name, value, told in facts:
        if value is not None and value != "":
            yield Fact(name, told(value))


def _with_unit(gate: GateResult) -> str:
    if gate.score is None:
        return ""
    unit = short_unit(gate.unit)
    return f"{gate.score}\N{NO-BREAK SPACE}{unit}" if unit else gate.score


def _interval(interval: Interval | None, error: str | None) -> str:
    if interval is not None:
        share = f"({interval.confidencePercent}\N{NO-BREAK SPACE}%)"
        return f"{interval.lower} to {interval.upper} {share}"
    return f"±\N{NO-BREAK SPACE}{error}" if error is not None else ""
