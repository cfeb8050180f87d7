"""What `halftone compare --json` prints and `--output` writes.

Numbers are measured ones: milliseconds, nats, percent. None where there is nothing to say.
"""

from enum import StrEnum
from typing import Literal

from pydantic import BaseModel, ConfigDict

from halftone.spec.names import API_VERSION
from halftone.spec.reports import Outcome


class Verdict(StrEnum):
    """What the comparison says of the new endpoint; only `Same` is a proof."""

    # Each measure is within its limit, and enough was measured to know it.
    Same = "Same"
    # At least one measure is beyond its limit, and that is not chance.
    Worse = "Worse"
    # Neither.
    Undecided = "Undecided"


class Bounds(BaseModel):
    """Two one-sided 95 % bounds; `upper` None: without one."""

    model_config = ConfigDict(frozen=True)
    lower: float | None
    upper: float | None


class Measure(BaseModel):
    """One thing that is judged. `outcome` is a gate's: Passed, Failed or Inconclusive."""

    model_config = ConfigDict(frozen=True)
    name: str
    unit: str
    value: float | None
    bounds: Bounds | None
    limit: float
    outcome: Outcome
    message: str


class Timing(BaseModel):
    """A percentile of both endpoints' times, and new over old."""

    model_config = ConfigDict(frozen=True)
    oldMs: float
    newMs: float
    ratio: float
    bounds: Bounds


class Answers(BaseModel):
    """Greedy answers beside each other. Reported and not judged: after one token that was a near
    tie all later ones may differ. `firstDifference` is a token's position, from 1; the median over
    answers that differ.
    """

    model_config = ConfigDict(frozen=True)
    compared: int
    equal: int
    equalPercent: float | None
    firstDifference: float | None
    topOneAgreementPercent: float | None


class Failure(BaseModel):
    """A request that came to no good end. `line` of the prompts' file."""

    model_config = ConfigDict(frozen=True)
    endpoint: Literal["old", "new"]
    line: int
    message: str


class Side(BaseModel):
    model_config = ConfigDict(frozen=True)
    url: str
    model: str
    requests: int
    failed: int


class Comparison(BaseModel):
    """The whole comparison. `method` is how distributions were compared: `TeacherForced` (old
    answers scored by both) or `CommonPrefix` (up to the first token that differs), which
    `methodBecause` gives the cause of; `topK` is how many tokens of each were looked at.
    """

    model_config = ConfigDict(frozen=True)
    apiVersion: Literal["halftone.dev/v1alpha1"] = API_VERSION
    kind: Literal["EndpointComparison"] = "EndpointComparison"
    verdict: Verdict
    reasons: tuple[str, ...]
    old: Side
    new: Side
    prompts: int
    repeats: int
    concurrency: int
    method: Literal["TeacherForced", "CommonPrefix"]
    methodBecause: str | None
    topK: int
    measures: tuple[Measure, ...]
    answers: Answers
    ttft: dict[Literal["p50", "p95"], Timing]
    itl: dict[Literal["p50", "p95"], Timing]
    failures: tuple[Failure, ...]
