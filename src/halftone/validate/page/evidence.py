"""What gates measured, read back from their JSON evidence for the plots of the page.

Each metric's evidence has one model here, which names the fields that the page uses; a gate may
write more. Evidence of another form is told on the page instead of being drawn half.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from halftone.spec.gates import Metric
from halftone.spec.reports import Report

# Gates that read the same two forwards and so leave the same evidence.
DIVERGENCE_METRICS: Final = (Metric.KlDivergence, Metric.TopOneAgreement, Metric.Perplexity)
# What a gate leaves that could not measure: why, in place of figures.
_FAILURE: Final = "error"


class _Evidence(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class RoleError(_Evidence):
    """A role's relative error; None is an error without bound."""

    role: str
    format: str
    relativeError: float | None
    relativeErrorServing: float | None
    limit: float | None = None


class GroupError(_Evidence):
    """The same of one fused group."""

    name: str
    role: str
    layer: int | None
    format: str
    relativeError: float | None
    relativeErrorServing: float | None


class WeightErrors(_Evidence):
    """Evidence of `WeightError`."""

    roles: tuple[RoleError, ...]
    groups: tuple[GroupError, ...] = ()


class PromptDivergence(_Evidence):
    """One prompt; `tokens` is how many were scored, None a divergence without bound."""

    id: str
    kind: str = ""
    tokens: int
    meanKl: float | None


class Histogram(_Evidence):
    """`counts[i]` tokens lie between `edges[i]` and `edges[i + 1]`, in nats."""

    edges: Annotated[tuple[float, ...], Field(min_length=2)]
    counts: tuple[int, ...]


class NoiseFloor(_Evidence):
    """The source against itself."""

    mean: float | None
    p99: float | None


class PerplexityPair(_Evidence):
    """On the prompt set."""

    source: float | None
    quantized: float | None


class Divergence(_Evidence):
    """Evidence of `KlDivergence`, `TopOneAgreement` and `Perplexity`."""

    prompts: tuple[PromptDivergence, ...] = ()
    histogram: Histogram | None = None
    noiseFloor: NoiseFloor | None = None
    mean: float | None = None
    p99: float | None = None
    standardError: float | None = None
    topOneAgreementPercent: float | None = None
    perplexity: PerplexityPair | None = None
    worst: tuple[Any, ...] = ()


class Bounds(_Evidence):
    """Of a confidence interval."""

    lower: float
    upper: float


def _bounds(value: Any) -> Any:
    """An interval may also be written as a pair."""
    if isinstance(value, list | tuple) and len(value) == 2:
        return {"lower": value[0], "upper": value[1]}
    return value


class ScoredItem(_Evidence):
    """One item of a task, answered by both models."""

    id: str | int
    source: float
    quantized: float


class TaskScores(_Evidence):
    """Evidence of `Task`; difference and interval are in the unit of the scores, and positive
    where the quantized model is better.
    """

    task: str
    metric: str
    items: tuple[ScoredItem, ...]
    recoveryPercent: float | None
    difference: float
    interval: Annotated[Bounds, BeforeValidator(_bounds)]
    marginPercent: float
    neededItems: int | None = None


class Percentiles(_Evidence):
    """Of one measure under one load."""

    p50: float
    p95: float | None = None


class Served(_Evidence):
    """One model under one load."""

    ttftMs: Percentiles
    itlMs: Percentiles
    tokensPerSecond: Percentiles


class RatioBounds(_Evidence):
    """Of a ratio in percent; None is no bound."""

    lower: float | None
    upper: float | None


class Load(_Evidence):
    """Both models under the same load; the ratio is that of tokens a second."""

    concurrency: int
    source: Served
    quantized: Served
    ratioPercent: float
    interval: RatioBounds | None = None

    @property
    def is_slower(self) -> bool:
        """Whether the quantized model loses: its whole interval does, where there is one."""
        if self.interval is None:
            return self.ratioPercent < 100
        return self.interval.upper is not None and self.interval.upper < 100


class Speeds(_Evidence):
    """Evidence of `Speed`."""

    loads: tuple[Load, ...]
    card: dict[str, Any] | None = None


class EngineRun(_Evidence):
    """Evidence of `EngineLoads`."""

    loadSeconds: float | None = None
    kvBlocks: int | None = None
    platform: Any = None
    kernels: Any = ()
    warnings: tuple[str, ...] = ()
    generated: Any = ()


_MODELS: Final[dict[Metric, type[_Evidence]]] = {
    Metric.WeightError: WeightErrors,
    **dict.fromkeys(DIVERGENCE_METRICS, Divergence),
    Metric.Task: TaskScores,
    Metric.Speed: Speeds,
    Metric.EngineLoads: EngineRun,
}


@dataclass(frozen=True)
class Gathered:
    """Evidence by metric; `unreadable` names gates whose evidence has another form."""

    weights: WeightErrors | None
    divergence: Divergence | None
    tasks: dict[str, TaskScores]
    speeds: Speeds | None
    engine: EngineRun | None
    unreadable: tuple[str, ...]


def gather(report: Report, evidence: Mapping[str, Mapping[str, Any]]) -> Gathered:
    """The evidence of the gates that measured, by gate name in `evidence`; others stay absent."""
    found: dict[Metric, dict[str, Any]] = {}
    unreadable = []
    for gate in report.gates:
        model, given = _MODELS.get(gate.metric), evidence.get(gate.name)
        if model is None or given is None or _FAILURE in given:
            continue
        try:
            found.setdefault(gate.metric, {})[gate.name] = model.model_validate(given)
        except ValidationError:
            unreadable.append(gate.name)
    first = {metric: next(iter(named.values())) for metric, named in found.items()}
    return Gathered(
        weights=first.get(Metric.WeightError),
        divergence=next((first[m] for m in DIVERGENCE_METRICS if m in first), None),
        tasks=found.get(Metric.Task, {}),
        speeds=_joined(list(found.get(Metric.Speed, {}).values())),
        engine=first.get(Metric.EngineLoads),
        unreadable=tuple(unreadable),
    )


def _joined(speeds: list[Speeds]) -> Speeds | None:
    """Several `Speed` gates measure the same models: one row for each load."""
    loads = {load.concurrency: load for measured in speeds for load in measured.loads}
    if not speeds:
        return None
    return Speeds(loads=tuple(loads[n] for n in sorted(loads)), card=speeds[0].card)
