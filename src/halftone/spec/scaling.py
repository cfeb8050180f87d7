"""What a user says of autoscaling: bounds, the one knob, objectives, and where numbers come from.

`spec.serving.Endpoint` has it as `autoscaling`; the chart renders it, and `serve.application` makes
of it the arguments of Ray's policy. The law's own words are in `halftone.scaling.policy`.
"""

from typing import Annotated, Any, Self

from pydantic import Field, StrictBool, StrictInt, model_validator

from halftone.spec.api_model import ApiModel, FilePath, HttpUrl

_Replicas = Annotated[StrictInt, Field(ge=1, le=1000)]


class Objectives(ApiModel):
    """What an answer should be like.

    Its first token comes within `ttftMilliseconds` and the time that the prompt takes at
    `promptTokensPerSecond`; the others `interTokenMilliseconds` apart.
    """

    ttftMilliseconds: Annotated[StrictInt, Field(ge=1, le=3_600_000)] = 2500
    promptTokensPerSecond: Annotated[StrictInt, Field(ge=1, le=10_000_000)] = 4000
    interTokenMilliseconds: Annotated[StrictInt, Field(ge=1, le=60_000)] = 100


class Autoscaling(ApiModel):
    """Replicas that follow the load, between two bounds.

    `thetaPercent` is the share of a replica's time that arriving work may take: 80 is safe, 90 the
    middle, 95 lean. `leadSeconds` is how long a replica takes from the ask until it is ready, until
    that was measured; what the card says of its warm-up if left out. `scaleInWindowSeconds` is how
    long a need counts after it has gone; as long as the lead and the load make right if left out,
    five minutes at least. At most one of `card` (a capacity card as JSON) and `cardFile` is set;
    with neither, replicas say what they can do, of the card that their artifact has. `selector` are
    labels that all series have, where several endpoints serve one name. Files are those of whoever
    decides. With `observeOnly` it decides and tells, and changes nothing.

    The least is 1: with no replica there is nobody whose metrics say that requests wait.
    """

    prometheusUrl: HttpUrl
    prometheusTokenFile: FilePath | None = None
    prometheusCaFile: FilePath | None = None
    selector: Annotated[dict[str, str], Field(default_factory=dict, max_length=16)]
    minReplicas: _Replicas = 1
    maxReplicas: _Replicas = 8
    thetaPercent: Annotated[StrictInt, Field(ge=30, le=95)] = 90
    leadSeconds: Annotated[StrictInt, Field(ge=1, le=86_400)] | None = None
    scaleInWindowSeconds: Annotated[StrictInt, Field(ge=1, le=3600)] | None = None
    intervalSeconds: Annotated[StrictInt, Field(ge=1, le=60)] = 5
    objectives: Objectives = Objectives()
    observeOnly: StrictBool = False
    card: dict[str, Any] | None = None
    cardFile: FilePath | None = None

    @model_validator(mode="after")
    def _bounds_and_card(self) -> Self:
        if self.minReplicas > self.maxReplicas:
            raise ValueError(
                f"`minReplicas`, {self.minReplicas}, must not be more than `maxReplicas`, "
                f"{self.maxReplicas}"
            )
        if self.card is not None and self.cardFile is not None:
            raise ValueError("`card` and `cardFile` must not both be set")
        return self

    def law(self) -> dict[str, float | None]:
        """As fields of `halftone.scaling.policy.Settings`, but the lead."""
        return {
            "theta": self.thetaPercent / 100,
            "min_replicas": self.minReplicas,
            "max_replicas": self.maxReplicas,
            "ttft_s": self.objectives.ttftMilliseconds / 1000,
            "prompt_rate": float(self.objectives.promptTokensPerSecond),
            "itl_s": self.objectives.interTokenMilliseconds / 1000,
            "scale_in_window_s": self.scaleInWindowSeconds,
        }
