"""What the operator's installation decides, the same for every job: images, placement, limits.

Read from one YAML file that the chart writes; a mistake in it ends the operator with a sentence.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from halftone.spec.api_model import ApiModel, ObjectName, ShortText
from halftone.spec.running import Resources, StageName


class Placement(ApiModel):
    """Where a stage's pods go, and who waits for whom; as in a pod."""

    nodeSelector: Mapping[str, str] = {}
    tolerations: tuple[Mapping[str, Any], ...] = ()
    priorityClassName: ObjectName | None = None
    queueName: ObjectName | None = None
    runtimeClassName: ObjectName | None = None


class StageDefaults(ApiModel):
    """One stage: its image, its service account, and what a job may override.

    `engineImage` is for validation with gates that need a server.
    """

    image: ShortText
    engineImage: ShortText | None = None
    imagePullPolicy: str = "IfNotPresent"
    serviceAccountName: ObjectName = "default"
    resources: Resources = Resources()
    placement: Placement = Placement()


class Settings(ApiModel):
    """`watchNamespaces` empty: all of them. `cacheSizeLimit` bounds the cache alone."""

    watchNamespaces: tuple[ObjectName, ...] = ()
    stages: Mapping[StageName, StageDefaults]
    imagePullSecrets: tuple[ObjectName, ...] = ()
    backoffLimit: Annotated[int, Field(ge=0, le=20)] = 3
    cacheSizeLimit: ShortText | None = None
    progressSeconds: Annotated[int, Field(ge=1, le=3600)] = 10

    @model_validator(mode="after")
    def _every_stage(self) -> Self:
        absent = ", ".join(stage for stage in StageName if stage not in self.stages)
        if absent:
            raise ValueError(f"`stages` must name an image for each stage; {absent} is not there")
        return self
