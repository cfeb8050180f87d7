"""The `validation` block of a job: which gates a checkpoint has to pass before it is published.

A gate is `{name, metric, …}`; each metric has fields of its own. `structure` and `WeightError` run
unasked (`halftone.validate.validating`), so neither has to be listed, and `structure` cannot be.
"""

from enum import StrEnum
from typing import Annotated, Final, Literal, Self

from pydantic import Field, StrictInt, model_validator

from halftone.spec.api_model import ApiModel, DecimalText, FilePath, ObjectName, Percent


class Metric(StrEnum):
    """What a gate measures."""

    Structure = "Structure"
    WeightError = "WeightError"
    EngineLoads = "EngineLoads"
    KlDivergence = "KlDivergence"
    TopOneAgreement = "TopOneAgreement"
    Perplexity = "Perplexity"
    Task = "Task"
    Speed = "Speed"
    AcceptanceLength = "AcceptanceLength"


# In the order in which gates run, the cheap ones first.
METRIC_ORDER: Final = tuple(Metric)
# Gates that need a server; the others read files alone.
ENGINE_METRICS: Final = frozenset(METRIC_ORDER) - {Metric.Structure, Metric.WeightError}

# The names of the gates that run unasked.
STRUCTURE_GATE: Final = "structure"
WEIGHT_ERROR_GATE: Final = "weight-error"

# A gate's `task` that ends so names a file; other words are names that the harness knows.
TASK_FILES: Final = (".yaml", ".yml")

GateName = Annotated[
    str, Field(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", min_length=1, max_length=63)
]


class WeightError(ApiModel):
    """Relative weight error, ||W - W'|| / ||W||, of every role as a server decodes it.

    Replaces the gate that runs unasked, whose limits are those of each format.
    """

    name: GateName
    metric: Literal[Metric.WeightError]
    maximum: DecimalText


class EngineLoads(ApiModel):
    """vLLM loads the checkpoint and generates."""

    name: GateName
    metric: Literal[Metric.EngineLoads]


class KlDivergence(ApiModel):
    """Mean KL divergence per token from the source's distribution, in nats."""

    name: GateName
    metric: Literal[Metric.KlDivergence]
    maximum: DecimalText


class TopOneAgreement(ApiModel):
    """Share of tokens at which both models find the same next token most likely."""

    name: GateName
    metric: Literal[Metric.TopOneAgreement]
    minPercent: Percent


class Perplexity(ApiModel):
    """Perplexity on the prompt set, as an increase over the source's."""

    name: GateName
    metric: Literal[Metric.Perplexity]
    maxIncreasePercent: Annotated[StrictInt, Field(ge=0, le=1000)]


class Task(ApiModel):
    """A task of lm-evaluation-harness, by name or as a YAML file with its data beside it.

    Recovery is the quantized score over the source's, on the same items.
    """

    name: GateName
    metric: Literal[Metric.Task]
    task: FilePath
    sampleLimit: Annotated[StrictInt, Field(ge=1, le=1_000_000)] | None = None
    minRecoveryPercent: Percent


class Speed(ApiModel):
    """Tokens per second of the quantized model over the source's, at `concurrency` requests."""

    name: GateName
    metric: Literal[Metric.Speed]
    concurrency: Annotated[StrictInt, Field(ge=1, le=1024)]
    minRatioPercent: Annotated[StrictInt, Field(ge=0, le=10_000)]


class AcceptanceLength(ApiModel):
    """Mean tokens per step of speculative decoding with the model's own head."""

    name: GateName
    metric: Literal[Metric.AcceptanceLength]
    minimum: DecimalText


Gate = Annotated[
    WeightError
    | EngineLoads
    | KlDivergence
    | TopOneAgreement
    | Perplexity
    | Task
    | Speed
    | AcceptanceLength,
    Field(discriminator="metric"),
]


class Validation(ApiModel):
    """Gates, and prompts beside the shipped ones.

    An empty list of gates means "publish unmeasured", and is reported as such. `promptFile` holds
    one JSON object a line: `{"text": …}` or `{"text": …, "image": "path beside the file"}`. In the
    cluster it, and a task that is a file, lie in the claim `claimName`.
    """

    gates: Annotated[tuple[Gate, ...], Field(max_length=32)] = ()
    promptFile: FilePath | None = None
    claimName: ObjectName | None = None

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        names = [gate.name for gate in self.gates]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"`gates` names '{twice[0]}' more than once")
        if STRUCTURE_GATE in names:
            raise ValueError(f"'{STRUCTURE_GATE}' always runs; give your gate another name")
        weight_errors = [gate for gate in self.gates if gate.metric is Metric.WeightError]
        if len(weight_errors) > 1:
            raise ValueError("`gates` may hold one gate with `metric: WeightError`")
        if any(g.name == WEIGHT_ERROR_GATE and g not in weight_errors for g in self.gates):
            raise ValueError(f"'{WEIGHT_ERROR_GATE}' always runs; give your gate another name")
        return self

    @property
    def needs_engine(self) -> bool:
        """Whether any gate needs vLLM."""
        return any(gate.metric in ENGINE_METRICS for gate in self.gates)
