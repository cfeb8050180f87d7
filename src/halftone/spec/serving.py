"""What an endpoint is: one artifact, how it is served, and whom it trusts.

`Endpoint` is the argument of the Ray Serve application, so the chart renders it into
`serveConfigV2`, `halftone serve` makes it of its options, and every replica reads it. It holds no
secret: keys of clients and credentials of stores come from the environment.
"""

from enum import StrEnum
from typing import Annotated, Final, Self

from pydantic import Field, StrictInt, model_validator

from halftone.spec.api_model import ApiModel, FilePath, HttpUrl, Percent, ShortText
from halftone.spec.reports import Verdict
from halftone.spec.scaling import Autoscaling

_LONGEST_PLACE: Final = 2048
_SHA256 = r"^[0-9a-f]{64}$"

Count = Annotated[StrictInt, Field(ge=1, le=16_777_216)]
# What vLLM takes as the value of an argument, such as the mapping `speculative_config`.
Argument = (
    bool | int | float | str | list[str | int | float] | dict[str, str | int | float | bool | None]
)


class ServingMode(StrEnum):
    """What a model is served for; modes combine, but `text` and `multimodal`."""

    Text = "text"  # the language model alone
    Multimodal = "multimodal"  # with its towers
    Tools = "tools"  # tool calls and reasoning, read by the family's parsers
    Speculative = "speculative"  # the model's own prediction head, or `draft`
    LongContext = "longContext"  # 256K tokens with an FP8 KV cache


class Accelerator(StrEnum):
    """What replicas compute with."""

    GPU = "GPU"
    CPU = "CPU"  # development and tests


class Signatures(StrEnum):
    """Whether an artifact must be signed by the key of `trust`."""

    Required = "Required"
    NotRequired = "NotRequired"


class Routing(StrEnum):
    """Which replica gets a request."""

    RoundRobin = "RoundRobin"  # the replica with the fewest, in turn where they have as many
    Session = "Session"  # requests with the same `x-session-id` meet the same replica
    Prefix = "Prefix"  # prompts that begin alike meet the same replica


class Strategy(StrEnum):
    """How another artifact takes the place of this one."""

    Surge = "Surge"  # the new replica first; needs room for it
    Recreate = "Recreate"  # the old replica goes first


class WarmUp(StrEnum):
    """Whether a replica answers itself before it answers others."""

    Enabled = "Enabled"
    Disabled = "Disabled"


class WeightOnlyFallback(StrEnum):
    """Whether a GPU may serve formats of few-bit activations with activations of 16 bits.

    GPUs without units for a format unpack its weights instead (NVFP4 on Hopper, FP8 on Ampere): the
    answers are those of another arithmetic than the gates measured, and long prompts gain nothing.
    """

    Refuse = "Refuse"
    Allow = "Allow"


class ArtifactReference(ApiModel):
    """A published artifact. `uri` is a directory, `s3://bucket/prefix` or `hf://org/name`.

    `digest` is the one in `status.artifact` of a job; without it whatever lies there is served, if
    `trust` allows it. `endpointUrl` is another S3 server's. A checkpoint that Halftone did not
    publish is unsigned and `Unmeasured`, and needs the digest of its files here.
    """

    uri: Annotated[str, Field(min_length=1, max_length=_LONGEST_PLACE, pattern=r"^[^\x00]+$")]
    revision: ShortText | None = None
    digest: Annotated[str, Field(pattern=_SHA256)] | None = None
    endpointUrl: HttpUrl | None = None


class Trust(ApiModel):
    """What an artifact must be before a weight of it is loaded.

    `publicKeyFile` is the PEM of the one signer. `verdicts` are those of its report, `platforms`
    the devices that its gates ran on, in vLLM's words; empty accepts any.
    """

    signature: Signatures = Signatures.Required
    publicKeyFile: FilePath | None = None
    verdicts: Annotated[tuple[Verdict, ...], Field(min_length=1, max_length=3)] = (Verdict.Passed,)
    platforms: Annotated[tuple[ShortText, ...], Field(max_length=16)] = ()

    @model_validator(mode="after")
    def _has_key(self) -> Self:
        if self.signature is Signatures.Required and self.publicKeyFile is None:
            raise ValueError(
                "`publicKeyFile` must name the signer's public key, unless `signature` is "
                "'NotRequired'"
            )
        return self


class WeightsCache(ApiModel):
    """Where weights are kept on a node, by digest; `maxGigabytes` (10^9) evicts the oldest."""

    directory: FilePath
    maxGigabytes: Count | None = None


class Limits(ApiModel):
    """What a replica takes on. All that is beyond is answered with 429 at once.

    `maxRequestSeconds` is how long one answer may take; everything that could cut it waits longer.
    """

    maxRequestSeconds: Annotated[StrictInt, Field(ge=1, le=86_400)] = 900
    maxQueuedRequests: Annotated[StrictInt, Field(ge=0, le=100_000)] = 64


class Endpoint(ApiModel):
    """One model behind one URL.

    `servedModelName` is what clients call the model. `engineArguments` are vLLM's own, by the names
    of its `AsyncEngineArgs`; they win over those of the modes. `compileCacheDirectory` keeps what
    torch compiled. Sizes that are None are vLLM's or the modes' choice.

    Exactly one of `artifact` and `artifactFile` is set; the file holds an `ArtifactReference` as
    JSON, and whoever waited for a job wrote it. `draftTrust` is `trust` where it is left out.
    """

    servedModelName: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]*$", max_length=128)]
    artifact: ArtifactReference | None = None
    artifactFile: FilePath | None = None
    draft: ArtifactReference | None = None
    trust: Trust
    draftTrust: Trust | None = None
    cache: WeightsCache
    compileCacheDirectory: FilePath | None = None
    modes: Annotated[tuple[ServingMode, ...], Field(min_length=1, max_length=5)] = (
        ServingMode.Text,
    )
    accelerator: Accelerator = Accelerator.GPU
    tensorParallel: Annotated[StrictInt, Field(ge=1, le=64)] = 1
    pipelineParallel: Annotated[StrictInt, Field(ge=1, le=64)] = 1
    maxModelLen: Count | None = None
    maxNumSeqs: Count | None = None
    gpuMemoryPercent: Percent | None = None
    draftTokens: Annotated[StrictInt, Field(ge=1, le=16)] | None = None
    engineArguments: Annotated[dict[str, Argument], Field(default_factory=dict, max_length=64)]
    replicas: Annotated[StrictInt, Field(ge=1, le=1000)] = 1
    autoscaling: Autoscaling | None = None
    routing: Routing = Routing.RoundRobin
    strategy: Strategy = Strategy.Surge
    warmUp: WarmUp = WarmUp.Enabled
    weightOnlyFallback: WeightOnlyFallback = WeightOnlyFallback.Refuse
    limits: Limits = Limits()

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if (self.artifact is None) == (self.artifactFile is None):
            raise ValueError("exactly one of `artifact` and `artifactFile` must be set")
        return self

    @model_validator(mode="after")
    def _modes_fit(self) -> Self:
        if len(set(self.modes)) != len(self.modes):
            raise ValueError("`modes` must name each mode once")
        if {ServingMode.Text, ServingMode.Multimodal} <= set(self.modes):
            raise ValueError("`modes` may have one of 'text' and 'multimodal', not both")
        drafting = (self.draft, self.draftTrust, self.draftTokens) != (None, None, None)
        if drafting and ServingMode.Speculative not in self.modes:
            raise ValueError(
                "`draft`, `draftTrust` and `draftTokens` may be set with the mode "
                "'speculative' only"
            )
        return self
