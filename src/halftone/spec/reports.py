"""`report.json`: what every gate measured, and the verdict that alone can open publishing.

Measured values are decimals in strings, because documents hold no floats. The **report digest** is
the SHA-256 of the file; whoever ran the gates hands it to the publisher, so an edited report does
not pass.
"""

from enum import StrEnum
from pathlib import Path
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict

from halftone.spec.documents import Document, Method, WrittenFile, sha256_hex
from halftone.spec.gates import Metric
from halftone.spec.names import API_VERSION
from halftone.spec.statistics import MeasuredData


class Outcome(StrEnum):
    """How one gate ended."""

    Passed = "Passed"
    Failed = "Failed"
    Inconclusive = "Inconclusive"  # the data decide neither way
    NotRun = "NotRun"  # an earlier gate failed, or its ground was missing; the message says which


class Verdict(StrEnum):
    """What the whole report says."""

    Passed = "Passed"
    Emulated = "Emulated"  # all passed, but an engine gate ran without the target GPU
    Unmeasured = "Unmeasured"  # the job lists no gates
    Inconclusive = "Inconclusive"
    Failed = "Failed"


# The verdicts that open publishing.
PUBLISHABLE: Final = frozenset({Verdict.Passed, Verdict.Emulated, Verdict.Unmeasured})


class Interval(BaseModel):
    """A confidence interval, in the unit of the value that it belongs to."""

    model_config = ConfigDict(frozen=True)
    lower: str
    upper: str
    confidencePercent: int


class GateResult(BaseModel):
    """One gate: what it measured, against what limit, and what that means.

    `score` is what the limit applies to (`limit` is it as a user reads it, such as `≤ 0.02 nats`);
    `sourceScore` and `quantizedScore` are the raw scores that it came from, where there are two.
    `culprit` names the tensor, group, module or item that decided a failure. `evidence` is a path
    in the work directory.
    """

    model_config = ConfigDict(frozen=True)
    name: str
    metric: Metric
    outcome: Outcome
    message: str
    score: str | None = None
    limit: str | None = None
    unit: str | None = None
    sourceScore: str | None = None
    quantizedScore: str | None = None
    standardError: str | None = None
    interval: Interval | None = None
    items: int | None = None
    culprit: str | None = None
    evidence: str | None = None


class Platform(BaseModel):
    """Where the engine gates ran. `emulated`: activations were quantized by our CPU plugin."""

    model_config = ConfigDict(frozen=True)
    device: str
    emulated: bool
    engine: str  # such as `vllm 0.32.0+cpu`
    driver: str | None = None
    kernels: tuple[str, ...] = ()


class ReportSource(BaseModel):
    """What the checkpoint was compared with."""

    model_config = ConfigDict(frozen=True)
    uri: str
    revision: str | None


class Report(Document):
    """Everything that the gates found. `gatesDigest` covers the job's `validation` block.

    `checkpointDocumentSha256` binds all of `checkpoint.json`: files that the checkpoint digest
    leaves out, and the weight errors that a model card quotes.
    `calibration` is what activations were measured on, a local file by its name alone; empty where
    `method` is DataFree.
    `evidence` are the JSON files that gates left, `startTime` and `completionTime` are RFC 3339 in
    UTC, `recoveryPercent` is the lowest of the tasks, "" where none ran.
    """

    apiVersion: Literal["halftone.dev/v1alpha1"] = API_VERSION
    kind: Literal["Report"] = "Report"
    verdict: Verdict
    message: str
    planDigest: str
    checkpointDigest: str
    checkpointDocumentSha256: str
    gatesDigest: str
    halftoneVersion: str
    source: ReportSource
    method: Method = Method.DataFree
    calibration: tuple[MeasuredData, ...] = ()
    platform: Platform | None
    gates: tuple[GateResult, ...]
    evidence: tuple[WrittenFile, ...]
    recoveryPercent: str
    startTime: str
    completionTime: str

    @property
    def digest(self) -> str:
        """The report digest: SHA-256 of the file that `save` writes."""
        return sha256_hex(self.to_bytes())


def report_digest(path: Path) -> str:
    """SHA-256 of the file at `path` as it lies there; raises OSError."""
    return sha256_hex(path.read_bytes())
