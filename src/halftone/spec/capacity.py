"""Capacity cards: what one replica can do on one device, fitted from measurements.

A card is keyed by a digest of everything that changes it (engine arguments, device, driver), is
shipped in `capacity/` of an artifact and is read by the autoscaler. Terms are those of the work
formula: a step takes `stepBase + a * KV tokens + b * sequences` seconds, a prompt its length over
`prefillTokensPerSecond`.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict

from halftone.spec.documents import Document
from halftone.spec.names import API_VERSION


class Fitted(BaseModel):
    """A fitted value and its standard error, in the same unit; decimals in strings."""

    model_config = ConfigDict(frozen=True)
    value: str
    standardError: str


class CacheGroup(BaseModel):
    """One KV-cache group of vLLM: hybrid models have several, with blocks of their own kind.

    `blocksPerRequest` is what a request pins whatever its length (state, sliding window).
    """

    model_config = ConfigDict(frozen=True)
    kind: str  # vLLM's name of the cache's specification, such as `FullAttentionSpec`
    layers: int
    blockTokens: int
    blocksPerRequest: int


class CapacityCard(Document):
    """`capacity/<device>-<engine>-tp<N>-<digest12>.json`.

    `engineArguments` are those that vLLM was started with, `digest` is over them with device,
    driver and engine. `kvBlocks` is what vLLM reported, shared by all groups.
    """

    apiVersion: Literal["halftone.dev/v1alpha1"] = API_VERSION
    kind: Literal["CapacityCard"] = "CapacityCard"
    digest: str
    checkpointDigest: str
    device: str
    driver: str | None
    engine: str
    emulated: bool
    tensorParallel: int
    engineArguments: dict[str, str]
    prefillTokensPerSecond: Fitted
    stepBaseSeconds: Fitted
    secondsPerKvToken: Fitted
    secondsPerSequence: Fitted
    kvBlocks: int
    cacheGroups: tuple[CacheGroup, ...]
    kvCacheTokens: int | None  # plain models only, where one number is true
    tokenBudget: int
    maxSequences: int
    warmUpSeconds: str
    samples: int
