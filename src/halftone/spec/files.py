"""What a place that holds files must offer, whether it is a directory, a bucket or the Hub.

`halftone.stores` implements it, `halftone.checkpoint` and everything above read through it; neither
knows the other.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One file: its path relative to the root (forward slashes) and its size."""

    path: str
    size_bytes: int


@dataclass(slots=True)
class Traffic:
    """What has been asked of a store so far; `inspect` keeps it within a budget."""

    requests: int = 0
    bytes: int = 0


class FileSource(Protocol):
    """A pinned, read-only view of a set of files. Safe to use from several threads."""

    @property
    def uri(self) -> str:
        """How the user names it: a path, `s3://bucket/prefix` or `hf://org/name@revision`."""

    @property
    def revision(self) -> str | None:
        """What `uri` was pinned to when opened: a commit, or a digest of a bucket's ETags."""

    @property
    def traffic(self) -> Traffic:
        """Requests made and bytes received; a directory counts reads."""

    def files(self) -> Sequence[FileEntry]:
        """Every file below the root, sorted by path; listed once."""

    def read_range(self, path: str, offset: int, length: int) -> bytes:
        """Exactly `length` bytes; raises RefusedInput when the file is shorter or absent."""

    def read_into(self, path: str, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` from `offset` on; raises RefusedInput when the file is shorter."""

    def local_path(self, path: str) -> Path | None:
        """Where the file lies on this machine, or None when it is remote."""

    def close(self) -> None:
        """Give back descriptors and connections."""
