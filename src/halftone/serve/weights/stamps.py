"""What a file system says of a file without reading it: whether it is the one that was proven.

Used by the cache, which does not read weights a second time, and by leases. A stamp has the time
of the inode's change, which no program can set: bytes that were written through the file system
leave a trace even where size and time of modification were put back. Folders have stamps too, so a
file that was added, and a folder that was exchanged and put back, leave a trace as well. It does
not see a disk that returns other bytes than were written, nor somebody who may write the record.
"""

import os
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from halftone.spec.documents import WrittenFile, canonical_json


class Stamp(NamedTuple):
    """Of one file or folder; times in nanoseconds. A folder has no size and no inode of its own."""

    sizeBytes: int
    modified: int
    changed: int
    inode: int


Stamps = Mapping[str, Stamp]


class KeptFile(BaseModel):
    """One file of an entry, with its stamp right after it was proven."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    file: WrittenFile
    stamp: Stamp


class Record(BaseModel):
    """What is known of an entry of the cache: where it came from, what it takes and its files.

    Without files nothing of it is proven yet, and `sizeBytes` are set aside for it. `folders` are
    those that the files lie in, by path.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    uri: str
    sizeBytes: int
    files: tuple[KeptFile, ...] = ()
    folders: dict[str, Stamp] = Field(default_factory=dict)

    @property
    def stamps(self) -> dict[str, Stamp]:
        """Of files and folders, by path."""
        return {kept.file.path: kept.stamp for kept in self.files} | self.folders

    def to_bytes(self) -> bytes:
        """Canonical JSON."""
        return canonical_json(self.model_dump(mode="json"))


def read_record(path: Path) -> Record | None:
    """The record at `path`; None where there is none, or something else."""
    try:
        return Record.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None


def take_stamps(folder: Path, paths: Iterable[str]) -> dict[str, Stamp]:
    """Stamps of what is below `folder`; links are followed. Raises OSError."""
    return {path: _stamp((folder / path).stat()) for path in paths}


def folders_of(paths: Iterable[str]) -> list[str]:
    """Every folder that a file of `paths` lies in, `.` the topmost."""
    return sorted({str(parent) for path in paths for parent in PurePosixPath(path).parents})


def first_changed(folder: Path, stamps: Stamps) -> str | None:
    """The first path below `folder` that has another stamp or is not there; None for none."""
    for path, stamp in stamps.items():
        try:
            if _stamp((folder / path).stat()) != stamp:
                return path
        except OSError:
            return path
    return None


def _stamp(status: os.stat_result) -> Stamp:
    times = status.st_mtime_ns, status.st_ctime_ns
    if stat.S_ISDIR(status.st_mode):
        # Some file systems count folders anew whenever they have forgotten them.
        return Stamp(0, *times, 0)
    return Stamp(status.st_size, *times, status.st_ino)
