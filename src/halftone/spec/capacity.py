"""Capacity cards: what one replica can do on one device, fitted from measurements.

A card is keyed by a digest of everything that changes it (engine arguments, device, driver), is
shipped in `capacity/` of an artifact and is read by the autoscaler. Terms are those of the work
formula: a step takes `stepBase + a * KV tokens + b * sequences` seconds, a prompt its length over
`prefillTokensPerSecond`.
"""

import re
from collections.abc import Mapping
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict

from halftone.spec.artifacts import SHORT_DIGEST
from halftone.spec.documents import Document, canonical_json, sha256_hex
from halftone.spec.names import API_VERSION, CAPACITY_DIRECTORY

_LONGEST_WORD: Final = 60  # characters of device and engine in the file name


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

    def compute_digest(self) -> str:
        """Of all that changes what a card says beside the checkpoint; equal to `digest`."""
        return engine_digest(self.device, self.driver, self.engine, self.engineArguments)

    @property
    def path(self) -> str:
        """Where it lies in an artifact: `capacity/<device>-<engine>-tp<N>-<digest12>.json`."""
        device, engine = _word(self.device), _word(self.engine)
        name = f"{device}-{engine}-tp{self.tensorParallel}-{self.digest[:SHORT_DIGEST]}.json"
        return f"{CAPACITY_DIRECTORY}/{name}"


def engine_digest(
    device: str, driver: str | None, engine: str, engine_arguments: Mapping[str, str]
) -> str:
    """The digest of the card that such an engine would be measured for."""
    keyed = {
        "device": device,
        "driver": driver,
        "engine": engine,
        "engineArguments": dict(engine_arguments),
    }
    return sha256_hex(canonical_json(keyed))


def _word(text: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", text.lower())[:_LONGEST_WORD].strip("-.")
