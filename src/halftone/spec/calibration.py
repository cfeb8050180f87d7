"""The `quantization.calibration` block of a job: which data activations are measured on.

A recipe that quantizes activations, or the KV cache with measured scales, needs one; others have
no use for it. The mirror of the API (design §4), read by `halftone.quantize.calibration`.
"""

from enum import StrEnum
from typing import Annotated, Self

from pydantic import Field, StrictInt, model_validator

from halftone.spec.api_model import (
    ApiModel,
    FilePath,
    ObjectName,
    S3Place,
    SecretKeyRef,
    ShortText,
)


class Modality(StrEnum):
    """What a row of data holds."""

    Text = "Text"  # text alone
    Image = "Image"  # text and at least one image


class UnroutedExperts(StrEnum):
    """How experts are measured that the router sends few tokens or none."""

    SeeAllTokens = "SeeAllTokens"  # every expert is measured on every token; outputs stay routed
    Report = "Report"  # each on its own tokens; those that saw none are named


class FewerSamples(StrEnum):
    """What happens when the data hold fewer usable rows than asked for."""

    Refuse = "Refuse"
    Allow = "Allow"


class HuggingFaceDataset(ApiModel):
    """A dataset repository on the Hub; `path` is a file or folder in it, by default all of it."""

    repository: ShortText
    revision: ShortText = "main"
    path: FilePath | None = None
    tokenSecretRef: SecretKeyRef | None = None


class S3Dataset(S3Place):
    """A file or a prefix in a bucket."""


class Dataset(ApiModel):
    """JSON Lines or Parquet; exactly one of `path`, `huggingFace` and `s3`.

    A relative `path` starts at the job file; in the cluster it lies in the claim `claimName`.

    A row has `text`, used as it is, or `messages`, which go through the chat template; and with
    images `images`, in the order of their places in the text.
    """

    path: FilePath | None = None
    claimName: ObjectName | None = None
    huggingFace: HuggingFaceDataset | None = None
    s3: S3Dataset | None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if [self.path, self.huggingFace, self.s3].count(None) != 2:
            raise ValueError("exactly one of `path`, `huggingFace` and `s3` must be set")
        return self


class Calibration(ApiModel):
    """What is measured on: `samples` rows of each modality, each of `maxSequenceLength` at most.

    The length is in tokens. Rows are drawn with `seed` from all that are usable, each into a batch
    of its own, so that no padding is ever measured.
    """

    dataset: Dataset
    samples: Annotated[StrictInt, Field(ge=1, le=1_000_000)] = 512
    maxSequenceLength: Annotated[StrictInt, Field(ge=1, le=1_048_576)] = 2048
    modalities: Annotated[tuple[Modality, ...], Field(min_length=1, max_length=2)] = (
        Modality.Text,
    )
    unroutedExperts: UnroutedExperts = UnroutedExperts.SeeAllTokens
    fewerSamples: FewerSamples = FewerSamples.Refuse
    seed: Annotated[StrictInt, Field(ge=0, le=2**32 - 1)] = 0

    @model_validator(mode="after")
    def _each_modality_once(self) -> Self:
        if len(set(self.modalities)) < len(self.modalities):
            raise ValueError("`modalities` names one of them twice")
        return self
