"""The inspection as a document: `inspection.json`, and what `halftone inspect --json` prints.

Numbers are measurements of somebody else's file, so they are numbers here; the documents that
decide what is written hold none. Called by `halftone.validate.inspection`.
"""

from enum import StrEnum
from typing import Literal

from pydantic import BaseModel, ConfigDict

from halftone.spec.documents import Document
from halftone.spec.names import API_VERSION, DefectKind, RemarkReason
from halftone.spec.roles import Role


class Extent(StrEnum):
    """How much of something was looked at."""

    Complete = "Complete"
    Sampled = "Sampled"
    NotRead = "NotRead"
    Absent = "Absent"  # there is nothing to look at


class Remark(BaseModel):
    """Something that a reader should know."""

    model_config = ConfigDict(frozen=True)
    reason: RemarkReason
    subject: str
    message: str


class Defect(BaseModel):
    """One thing that is wrong, the tensor (or file) that it is wrong with, and what it does."""

    model_config = ConfigDict(frozen=True)
    kind: DefectKind
    tensor: str
    message: str


class Coverage(BaseModel):
    """How much of one kind of data was read."""

    model_config = ConfigDict(frozen=True)
    extent: Extent
    read: int
    total: int


class Reading(BaseModel):
    """What the inspection rests on. `requests` and `bytes` are those of the checkpoint's store.

    `index`: whether the index was compared with the shards. `globalScales` counts scales,
    `values` bytes that were searched for NaN, `weights` matrices compared with the source.
    """

    model_config = ConfigDict(frozen=True)
    requests: int
    bytes: int
    index: Extent
    globalScales: Coverage
    values: Coverage
    weights: Coverage


class RoleFinding(BaseModel):
    """One role in one format. `tensors` counts weights, their scales apart; `bytes` counts all."""

    model_config = ConfigDict(frozen=True)
    role: Role
    format: str
    tensors: int
    parameters: int
    bytes: int
    relativeError: float | None = None
    relativeErrorServing: float | None = None


class GroupFinding(BaseModel):
    """Matrices that a server merges, or a single quantized one.

    `globalScales` are as stored, in the order of `members`; null where one was not read, empty
    where the format has none. Errors are ||W - W'|| / ||W||: as each member alone would be
    decoded, and as a server decodes it with the one scale that it keeps.
    """

    model_config = ConfigDict(frozen=True)
    name: str
    members: tuple[str, ...]
    format: str
    globalScales: tuple[float | None, ...]
    relativeError: float | None = None
    relativeErrorServing: float | None = None


class Inspection(Document):
    """Everything that `inspect` found in one checkpoint."""

    apiVersion: Literal["halftone.dev/v1alpha1"] = API_VERSION
    kind: Literal["Inspection"] = "Inspection"
    checkpoint: str
    revision: str | None
    source: str | None
    architecture: str
    quantMethod: str
    bytes: int
    tensors: int
    read: Reading
    roles: tuple[RoleFinding, ...]
    groups: tuple[GroupFinding, ...]
    defects: tuple[Defect, ...]
    warnings: tuple[Remark, ...]
