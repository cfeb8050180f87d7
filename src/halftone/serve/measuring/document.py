"""What `halftone bench` writes to `bench.json` and prints with `--json`.

Times are milliseconds. A ratio is the endpoint's over the baseline's, with two-sided 95 % bounds.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict

from halftone.spec.capacity import CapacityCard
from halftone.spec.names import API_VERSION


class Percentiles(BaseModel):
    model_config = ConfigDict(frozen=True)
    p50: float
    p95: float


class Figures(BaseModel):
    """One endpoint under one load, over all rounds.

    `itlMs` is between chunks, of which speculative decoding puts several tokens into one;
    `tokensPerSecondPerUser` counts tokens, from the first to the last of an answer. Each is None
    where every answer came in one piece, as a busy server sends short ones.
    `tokensPerSecond` is of all users, over the wall clock of each round. `acceptLength` is tokens a
    step under speculative decoding, as the engine counts them in `/metrics` or, of one of our
    replicas, in `/halftone/engine`; None where it does not speculate, or does not tell.
    `tokensPerChunk` is what a client sees of it, and at least as much: a busy server puts the
    tokens of several steps into one chunk.
    """

    model_config = ConfigDict(frozen=True)
    requests: int
    failed: int
    firstFailure: str | None
    ttftMs: Percentiles
    itlMs: Percentiles | None
    tokensPerSecondPerUser: Percentiles | None
    tokensPerSecond: float
    acceptLength: float | None
    tokensPerChunk: float | None


class Ratio(BaseModel):
    """`lower` and `upper` None: one round gives no bounds."""

    model_config = ConfigDict(frozen=True)
    value: float
    lower: float | None
    upper: float | None


class Ratios(BaseModel):
    """Of the medians of each round, and of the rounds' tokens per second.

    `itl` is of the rounds in which both sides have gaps between chunks; None where no round has.
    """

    model_config = ConfigDict(frozen=True)
    ttft: Ratio
    itl: Ratio | None
    tokensPerSecond: Ratio


class LoadFigures(BaseModel):
    model_config = ConfigDict(frozen=True)
    concurrency: int
    endpoint: Figures
    baseline: Figures | None
    ratios: Ratios | None


class Target(BaseModel):
    model_config = ConfigDict(frozen=True)
    url: str
    model: str


class Card(BaseModel):
    """The capacity card, or why there is none. `requestSeconds` is what a request costs beside the
    engine's steps, from its sending to its first token; a card has no place for it.
    """

    model_config = ConfigDict(frozen=True)
    card: CapacityCard | None
    requestSeconds: float | None
    noCardBecause: str | None


class Bench(BaseModel):
    """The whole measurement."""

    model_config = ConfigDict(frozen=True)
    apiVersion: Literal["halftone.dev/v1alpha1"] = API_VERSION
    kind: Literal["EndpointBench"] = "EndpointBench"
    endpoint: Target
    baseline: Target | None
    inputTokens: int
    outputTokens: int
    rounds: int
    loads: tuple[LoadFigures, ...]
    capacity: Card
