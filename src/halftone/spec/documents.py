"""The documents that stages hand on: frozen, canonical JSON, written whole or not at all.

`plan.json` comes from headers alone, `checkpoint.json` from the bytes that were written. Each
carries the digest of what it was made from, so a stage knows whether its work is already done.
"""

import hashlib
import json
import os
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from halftone.spec.dtypes import Dtype
from halftone.spec.errors import RefusedInput
from halftone.spec.formats import Format
from halftone.spec.job import Recipe
from halftone.spec.names import (
    API_VERSION,
    ARTIFACT_FILE,
    CHECKPOINT_FILE,
    PLAN_FILE,
    REPORT_FILE,
    STATISTICS_FILE,
    SWEEP_FILE,
    Reason,
    WarningReason,
)
from halftone.spec.roles import Role

# By the `kind` of a document: how its file is called, and the command that writes it.
_MADE_BY: Final = {
    "Plan": (PLAN_FILE, "stage plan"),
    "Statistics": (STATISTICS_FILE, "stage calibrate"),
    "Checkpoint": (CHECKPOINT_FILE, "stage quantize"),
    "Report": (REPORT_FILE, "stage validate"),
    "Artifact": (ARTIFACT_FILE, "stage publish"),
    "CapacityCard": ("capacity card", "stage validate"),
    "Sweep": (SWEEP_FILE, "sweep"),
    "Inspection": ("inspection", "inspect"),
}


def canonical_json(value: Any) -> bytes:
    """Sorted keys, no spaces, UTF-8, one newline: equal values give equal bytes.

    Raises ValueError for NaN and infinities, which JSON cannot say.
    """
    text = json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )
    return text.encode() + b"\n"


def sha256_hex(data: bytes) -> str:
    """The digest as documents write it."""
    return hashlib.sha256(data).hexdigest()


def write_atomically(path: Path, data: bytes) -> None:
    """Write `data` beside `path`, flush it to disk and rename: never half a file.

    Raises OSError, and then leaves nothing beside `path`; callers translate it at their border.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.partial")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        with suppress(OSError):  # it may not have come that far
            temporary.unlink()
        raise
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Make renames in `path` survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class Document(BaseModel):
    """Frozen, strict; `save` writes canonical JSON atomically, `load` refuses what is not ours."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def to_bytes(self) -> bytes:
        """Canonical JSON."""
        return canonical_json(self.model_dump(mode="json"))

    def save(self, path: Path) -> None:
        """Write to `path`, whole or not at all."""
        write_atomically(path, self.to_bytes())

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read from `path`; raises RefusedInput(WorkdirInconsistent) for anything else."""
        file, command = _MADE_BY[cls.model_fields["kind"].default]
        try:
            return cls.model_validate_json(path.read_bytes())
        except (FileNotFoundError, NotADirectoryError) as error:
            told = f"'{path}' is not there; `halftone {command}` writes it."
            raise RefusedInput(Reason.WorkdirInconsistent, str(path), told) from error
        except OSError as error:
            told = f"'{path}' cannot be read ({error.strerror}); mend this and try again."
            raise RefusedInput(Reason.WorkdirInconsistent, str(path), told) from error
        except ValidationError as error:
            told = (
                f"'{path}' is not {_a(file)} of this version; name one that `halftone {command}` "
                "wrote or, in a work directory, remove it and run that again."
            )
            raise RefusedInput(Reason.WorkdirInconsistent, str(path), told) from error


def _a(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


class Method(StrEnum):
    """Whether activations must be measured before weights can be written."""

    DataFree = "DataFree"
    Calibrated = "Calibrated"


class Notice(BaseModel):
    """A warning of the plan: goes on, but somebody should know."""

    model_config = ConfigDict(frozen=True)
    reason: WarningReason
    subject: str
    message: str


class Refusal(BaseModel):
    """Why a plan cannot be carried out, and the way out."""

    model_config = ConfigDict(frozen=True)
    reason: Reason
    subject: str
    message: str


class SourceFile(BaseModel):
    """One shard as the plan saw it; `headerSha256` covers the length word and the JSON."""

    model_config = ConfigDict(frozen=True)
    path: str
    sizeBytes: int
    headerSha256: str


class PlanSource(BaseModel):
    """What is read. `bytes` counts tensor data; `configSha256` pins `config.json`."""

    model_config = ConfigDict(frozen=True)
    uri: str
    revision: str | None
    bytes: int
    tensors: int
    parameters: int
    configSha256: str
    licence: str | None
    files: tuple[SourceFile, ...]


class OutputFile(BaseModel):
    """One shard to be written; its header is fixed by `headerSha256` before a byte is read."""

    model_config = ConfigDict(frozen=True)
    path: str
    sizeBytes: int
    headerBytes: int
    headerSha256: str
    tensors: int


class PlanOutput(BaseModel):
    """What is written. `bytes` counts tensor data without KV scales, `fileBytes` whole shards."""

    model_config = ConfigDict(frozen=True)
    bytes: int
    kvScaleBytes: int
    fileBytes: int
    parameters: int
    files: tuple[OutputFile, ...]
    carried: tuple[str, ...]


class RoleSummary(BaseModel):
    """One role in one format (None: as in the source)."""

    model_config = ConfigDict(frozen=True)
    role: Role
    format: Format | None
    tensors: int
    parameters: int
    bytesBefore: int
    bytesAfter: int


class Ratio(BaseModel):
    """How much smaller: decimals as strings, because documents hold no floats."""

    model_config = ConfigDict(frozen=True)
    bytesBefore: int
    bytesAfter: int
    ratio: str


class PlanSizes(BaseModel):
    """Both ratios, because a card that states only the first misleads (reference model S0)."""

    model_config = ConfigDict(frozen=True)
    quantized: Ratio
    whole: Ratio


class Resources(BaseModel):
    """What carrying out the plan takes on plain CPUs; not part of the digest."""

    model_config = ConfigDict(frozen=True)
    peakMemoryBytes: int
    diskBytes: int
    expectedSeconds: int


class Group(NamedTuple):
    """Tensors that a server merges at load; they share one format and one global scale."""

    name: str
    format: Format | None
    members: tuple[str, ...]


class TensorRow(NamedTuple):
    """One tensor of the source as planned (stacked experts already taken apart)."""

    name: str
    role: Role
    format: Format | None
    group: str | None


class OutputRow(NamedTuple):
    """One tensor of an output shard; offsets count from the end of the header."""

    file: str
    name: str
    dtype: Dtype
    shape: tuple[int, ...]
    begin: int
    end: int


class Plan(Document):
    """Every tensor's fate, on paper. See design §1.

    `digest` is over everything that decides the written bytes: source, recipe and each output
    shard's header. It leaves out resources and warnings, which decide no byte, and `tensors` and
    `layout`, which follow from it.
    """

    apiVersion: Literal["halftone.dev/v1alpha1"] = API_VERSION
    kind: Literal["Plan"] = "Plan"
    digest: str
    architecture: str | None
    method: Method
    source: PlanSource | None
    recipe: Recipe | None
    output: PlanOutput | None
    roles: tuple[RoleSummary, ...]
    groups: tuple[Group, ...]
    sizes: PlanSizes | None
    resources: Resources | None
    warnings: tuple[Notice, ...]
    refusal: Refusal | None
    tensors: tuple[TensorRow, ...] = ()
    layout: tuple[OutputRow, ...] = ()

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read from `path`; raises RefusedInput(WorkdirInconsistent) also for an edited plan."""
        plan = super().load(path)
        if plan.compute_digest() != plan.digest:
            raise RefusedInput(
                Reason.WorkdirInconsistent,
                str(path),
                f"'{path}' was changed after it was planned: its content no longer has the digest "
                "that it states; name the plan as it was written or, in a work directory, remove "
                "it and run `halftone stage plan`.",
            )
        return plan

    def sealed(self) -> Self:
        """This plan with the digest of its content."""
        return self.model_copy(update={"digest": self.compute_digest()})

    def compute_digest(self) -> str:
        """The digest of this plan's content; equal to `digest` for a plan that was not edited."""
        outside = {"digest", "resources", "warnings", "tensors", "layout"}
        content = self.model_dump(mode="json", exclude=outside)
        if content["recipe"] is not None:
            del content["recipe"]["name"]  # what it is called decides no byte
        return sha256_hex(canonical_json(content))


class WrittenFile(BaseModel):
    """One file of the checkpoint."""

    model_config = ConfigDict(frozen=True)
    path: str
    sizeBytes: int
    sha256: str


class GroupResult(BaseModel):
    """What was written for one group: errors are relative, ||W - W'|| / ||W||, as decimals.

    W' is what a server dequantizes. `globalScale` is as it is stored: NVFP4's divisor in
    compressed-tensors' layout and its factor in ModelOpt's, or the one scale of FP8. `minMaxError`
    is what MinMax would have given, where another search was asked for.
    """

    model_config = ConfigDict(frozen=True)
    name: str
    format: Format
    members: tuple[str, ...]
    globalScale: str | None
    relativeError: str
    minMaxError: str | None = None


class RoleError(BaseModel):
    """The same over all groups of a role."""

    model_config = ConfigDict(frozen=True)
    role: Role
    format: Format
    relativeError: str
    minMaxError: str | None = None


class CheckpointDocument(Document):
    """`checkpoint.json`: what lies in the checkpoint directory, and how good it is.

    `digest` is over the sorted (path, size, SHA-256) of weights, configuration, tokenizer and
    licence, so equal work has an equal digest whoever ran it. `statisticsDigest` is that of the
    statistics which gave the scales of activations and cache, None where nothing was measured.
    """

    apiVersion: Literal["halftone.dev/v1alpha1"] = API_VERSION
    kind: Literal["Checkpoint"] = "Checkpoint"
    digest: str
    planDigest: str
    statisticsDigest: str | None = None
    halftoneVersion: str
    files: tuple[WrittenFile, ...]
    roles: tuple[RoleError, ...]
    groups: tuple[GroupResult, ...]
