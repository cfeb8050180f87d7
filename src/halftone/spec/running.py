"""The blocks of a `QuantizationJob` that say how it runs in a cluster: volume, stages, runner.

The mirror of the API (design §4); read by `halftone.control` and by nothing on a laptop.
"""

from enum import StrEnum
from typing import Annotated, Self

from pydantic import AfterValidator, Field, StrictInt, model_validator

from halftone.spec.api_model import ApiModel, ObjectName, SecretKeyRef

# As the API server writes quantities: `500m`, `16`, `1.5Gi`, `1e3`.
QuantityText = Annotated[
    str,
    Field(
        pattern=r"^[0-9]{1,15}(\.[0-9]{1,9})?([numkMGTPE]|[KMGTPE]i|[eE][+-]?[0-9]{1,2})?$",
        max_length=32,
    ),
]


def _more_than_nothing(size: str) -> str:
    if not size.lstrip("0.")[:1].isdigit():
        raise ValueError("must be more than 0, such as '500Gi'")
    return size


VolumeSize = Annotated[QuantityText, AfterValidator(_more_than_nothing)]
# `cpu`, `memory`, `ephemeral-storage`, or an extended resource such as `nvidia.com/gpu`.
ResourceName = Annotated[
    str, Field(pattern=r"^([a-z0-9.-]+/)?[a-zA-Z0-9]([-._a-zA-Z0-9]*[a-zA-Z0-9])?$", max_length=253)
]
Quantities = Annotated[
    dict[ResourceName, QuantityText | Annotated[StrictInt, Field(ge=0)]], Field(max_length=8)
]


class Runner(StrEnum):
    """What runs the stages in a cluster."""

    Jobs = "Jobs"
    KubeflowPipelines = "KubeflowPipelines"


class StageName(StrEnum):
    """The stages that a user can see and set resources for."""

    Plan = "Plan"
    Calibrate = "Calibrate"
    Quantize = "Quantize"
    Validate = "Validate"
    Publish = "Publish"


class AccessMode(StrEnum):
    """How many nodes may mount a volume that the operator makes."""

    ReadWriteOnce = "ReadWriteOnce"
    ReadWriteMany = "ReadWriteMany"


class S3WorkArea(ApiModel):
    """Documents and shards go under `<publish.s3.uri>.work/<namespace>.<name>/<plan digest>/`.

    Pods keep no volume.
    `credentialsSecretRef` opens that prefix, and need not open the artifact's own.
    """

    credentialsSecretRef: SecretKeyRef | None = None


class WorkVolume(ApiModel):
    """Where the stages of one job hand documents and the checkpoint to one another.

    Exactly one of `claimName`, `storageClassName` with `size`, and `s3`. Left out with a target in
    S3: `s3`, with the service accounts' own rights.
    """

    claimName: ObjectName | None = None
    storageClassName: ObjectName | None = None
    size: VolumeSize | None = None
    accessMode: AccessMode | None = None
    s3: S3WorkArea | None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if [self.claimName, self.storageClassName, self.s3].count(None) != 2:
            raise ValueError("exactly one of `claimName`, `storageClassName` and `s3` must be set")
        if (self.storageClassName is None) != (self.size is None):
            raise ValueError("`storageClassName` and `size` must be set together")
        if self.accessMode is not None and self.storageClassName is None:
            raise ValueError("`accessMode` may be set beside `storageClassName` only")
        return self


class Resources(ApiModel):
    """Requests and limits of a stage's container, as in a pod."""

    requests: Quantities | None = None
    limits: Quantities | None = None


class StageSettings(ApiModel):
    """What one stage gets beside the operator's defaults."""

    name: StageName
    serviceAccountName: ObjectName | None = None
    resources: Resources | None = None
