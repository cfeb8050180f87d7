"""The object: `QuantizationJob` (halftone.dev/v1alpha1), and the recipe that it contains.

This is the Python mirror of the API (design §4). Field names are the API's own (camelCase), so a
validation message names the field as the user wrote it. No floats, no phases, bounded strings.
"""

from enum import StrEnum
from typing import Annotated, Final, Literal, Self

from pydantic import BeforeValidator, Field, StrictBool, StrictInt, model_validator

from halftone.spec.api_model import (
    ApiModel,
    FilePath,
    ObjectName,
    S3Place,
    SecretKeyRef,
    ShortText,
)
from halftone.spec.calibration import Calibration
from halftone.spec.formats import CheckpointFormat, Format
from halftone.spec.gates import Validation
from halftone.spec.names import API_VERSION, JOB_KIND
from halftone.spec.roles import QUANTIZABLE_ROLES, Role
from halftone.spec.running import Runner, StageSettings, WorkVolume
from halftone.spec.targets import Publish

# Pods of a Job get up to 11 characters more, of an Indexed Job some more; a label has 63.
_NAME_LENGTH: Final = 40


class ScaleSearch(StrEnum):
    """How a block's scale is chosen: from its maximum, on a grid, or from all that can win."""

    MinMax = "MinMax"
    MeanSquaredError = "MeanSquaredError"
    Exhaustive = "Exhaustive"


class BlockScale(StrEnum):
    """Whether scales of 128x128 blocks are rounded to powers of two (DeepGEMM does so at load)."""

    PowerOfTwo = "PowerOfTwo"
    Free = "Free"


class MultiTokenPrediction(StrEnum):
    """What becomes of the multi-token-prediction head."""

    Keep = "Keep"
    Drop = "Drop"


class GenericArchitecture(StrEnum):
    """What happens to an architecture without a table."""

    Refuse = "Refuse"
    Allow = "Allow"


class KvCacheFormat(StrEnum):
    """What a server keeps keys and values in."""

    FP8 = "FP8"


class KvCacheScales(StrEnum):
    """Where KV scales come from: all 1.0 (nothing is written), or measured."""

    Unit = "Unit"
    Calibrated = "Calibrated"


class RolePrecision(ApiModel):
    """One line of the precision map."""

    role: Role
    format: Format

    @model_validator(mode="after")
    def _role_is_quantizable(self) -> Self:
        if self.role not in QUANTIZABLE_ROLES:
            legal = ", ".join(sorted(QUANTIZABLE_ROLES))
            raise ValueError(f"role '{self.role}' is always kept; a recipe may name {legal}")
        return self


class KvCache(ApiModel):
    """The KV cache that the checkpoint asks its server for."""

    format: KvCacheFormat
    scales: KvCacheScales = KvCacheScales.Unit


class Quantization(ApiModel):
    """The `quantization` block of a job; a recipe file is exactly this.

    Exactly one of `preset` and `precision`. A field beside `preset` overrides the preset's own.
    """

    preset: ShortText | None = None
    precision: Annotated[tuple[RolePrecision, ...], Field(min_length=1, max_length=16)] | None = (
        None
    )
    scaleSearch: ScaleSearch | None = None
    blockScale: BlockScale | None = None
    kvCache: KvCache | None = None
    calibration: Calibration | None = None
    multiTokenPrediction: MultiTokenPrediction | None = None
    checkpointFormat: CheckpointFormat | None = None
    genericArchitecture: GenericArchitecture | None = None
    # How the files are cut, which is no part of a recipe: more files than workers share well.
    maxShardBytes: Annotated[StrictInt, Field(ge=1_000_000, le=50_000_000_000)] | None = None

    @model_validator(mode="after")
    def _exactly_one_of_preset_and_precision(self) -> Self:
        if (self.preset is None) == (self.precision is None):
            raise ValueError("exactly one of `preset` and `precision` must be set")
        roles = [line.role for line in self.precision or ()]
        twice = sorted({role for role in roles if roles.count(role) > 1})
        if twice:
            raise ValueError(f"`precision` names role '{twice[0]}' more than once")
        return self


class Recipe(ApiModel):
    """A `Quantization` with nothing left open: what planning works from and the plan records."""

    name: ShortText
    precision: tuple[RolePrecision, ...]
    scaleSearch: ScaleSearch = ScaleSearch.MinMax
    blockScale: BlockScale = BlockScale.PowerOfTwo
    kvCache: KvCache | None = None
    calibration: Calibration | None = None
    multiTokenPrediction: MultiTokenPrediction = MultiTokenPrediction.Keep
    checkpointFormat: CheckpointFormat = CheckpointFormat.CompressedTensors
    genericArchitecture: GenericArchitecture = GenericArchitecture.Refuse

    @property
    def measures_cache(self) -> bool:
        """Whether the scales of keys and values are measured on data."""
        return self.kvCache is not None and self.kvCache.scales is KvCacheScales.Calibrated

    def format_of(self, role: Role) -> Format | None:
        """The format that `role` gets, or None when it keeps the source's precision."""
        return next((line.format for line in self.precision if line.role is role), None)


class HuggingFaceSource(ApiModel):
    """A repository on the Hub, at a revision."""

    repository: ShortText
    revision: ShortText = "main"
    tokenSecretRef: SecretKeyRef | None = None


class S3Source(S3Place):
    """A prefix in a bucket: `s3://bucket/prefix`."""


class DirectorySource(ApiModel):
    """A directory that this process can read; relative paths start at the job file.

    In the cluster `path` lies in the claim, which is mounted read-only.
    """

    path: FilePath
    claimName: ObjectName | None = None


class Source(ApiModel):
    """Where the full-precision checkpoint is; exactly one of the three."""

    huggingFace: HuggingFaceSource | None = None
    s3: S3Source | None = None
    directory: DirectorySource | None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if [self.huggingFace, self.s3, self.directory].count(None) != 2:
            raise ValueError("exactly one of `huggingFace`, `s3` and `directory` must be set")
        return self


class JobSpec(ApiModel):
    """What is wanted. The blocks after `publish` say how it runs in a cluster; a laptop has no use
    for them, and takes them as they are.
    """

    source: Source
    quantization: Quantization
    validation: Validation = Validation()
    publish: Publish | None = None
    workVolume: WorkVolume | None = None
    serviceAccountName: ObjectName | None = None
    stages: Annotated[tuple[StageSettings, ...], Field(max_length=5)] = ()
    parallelism: Annotated[StrictInt, Field(ge=1, le=256)] = 1
    suspend: StrictBool = False
    activeDeadlineSeconds: Annotated[StrictInt, Field(ge=1, le=31_536_000)] | None = None
    ttlSecondsAfterFinished: Annotated[StrictInt, Field(ge=0, le=31_536_000)] | None = None
    runner: Runner = Runner.Jobs

    @model_validator(mode="after")
    def _each_stage_once(self) -> Self:
        names = [stage.name for stage in self.stages]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"`stages` names '{twice[0]}' more than once")
        return self


def _with_room_for_names_below(name: object) -> object:
    """The sentence of the CRD, in place of pydantic's, which gives no reason."""
    if isinstance(name, str) and len(name) > _NAME_LENGTH:
        raise ValueError(
            f"must have at most {_NAME_LENGTH} characters, because names of Jobs and pods are "
            "derived from it"
        )
    return name


class Metadata(ApiModel):
    """The part of Kubernetes object metadata that a laptop needs too."""

    name: Annotated[
        str,
        Field(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", max_length=_NAME_LENGTH),
        BeforeValidator(_with_room_for_names_below),
    ]
    namespace: ShortText | None = None
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None


class QuantizationJob(ApiModel):
    """One quantization, from source to artifact."""

    apiVersion: Literal["halftone.dev/v1alpha1"] = API_VERSION
    kind: Literal["QuantizationJob"] = JOB_KIND
    metadata: Metadata
    spec: JobSpec
