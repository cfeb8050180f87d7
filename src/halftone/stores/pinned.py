"""What every store has in common: a listing that is fixed when it is opened, bounds and counts.

A store lists its files once, so that all readers see the same set; whatever is read later is held
against that listing. Names in a listing come from strangers and may end up as names of files that
we write, so a name that could leave its directory never gets past this module.
"""

import threading
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, NoReturn, Self

from halftone.spec.errors import RefusedInput
from halftone.spec.files import FileEntry, Traffic
from halftone.spec.names import Reason

# A checkpoint has some hundreds of files; more means that the wrong directory was named.
MAX_FILES: Final = 10_000
# Version control and download caches lie inside checkpoints and are no part of them.
SKIPPED_DIRECTORIES: Final = frozenset({".git", ".cache"})


@dataclass(frozen=True)
class Listing:
    """Which files of a place are listed: `only` one, or all that end with one of `suffixes`.

    More than `most` are refused; `whole` is what one place should hold, for the message.
    """

    whole: str = "checkpoint"
    most: int = MAX_FILES
    suffixes: tuple[str, ...] = ("",)
    only: str | None = None

    def has(self, path: str) -> bool:
        """Whether a file is listed."""
        return path == self.only if self.only is not None else path.endswith(self.suffixes)


CHECKPOINT: Final = Listing()


class PinnedSource(ABC):
    """A `FileSource` over a fixed listing; a subclass says how to fill a buffer.

    with open_source("s3://models/base") as source:
        head = source.read_range("model.safetensors", 0, 8)
    """

    def __init__(
        self,
        uri: str,
        revision: str | None,
        entries: Iterable[FileEntry],
        listing: Listing = CHECKPOINT,
    ) -> None:
        self._uri = uri
        self._revision = revision
        self._traffic = Traffic()
        self._traffic_lock = threading.Lock()
        self._entries = _listed(uri, entries, listing)

    @property
    def uri(self) -> str:
        """How the user names this source."""
        return self._uri

    @property
    def revision(self) -> str | None:
        """The commit that the source was pinned to, where the store has commits."""
        return self._revision

    @property
    def traffic(self) -> Traffic:
        """What has been asked so far; listing counts as requests, not as bytes."""
        return self._traffic

    def files(self) -> tuple[FileEntry, ...]:
        """Every file, sorted by path, as it was when the source was opened."""
        return tuple(self._entries.values())

    def read_range(self, path: str, offset: int, length: int) -> bytes:
        """Exactly `length` bytes of `path`; RefusedInput when it is absent or shorter."""
        entry = self._bounded(path, offset, length)
        buffer = bytearray(length)
        if length:
            self._fill(entry, offset, memoryview(buffer))
        return bytes(buffer)

    def read_into(self, path: str, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` from `offset` on; RefusedInput when `path` is absent or shorter."""
        view = buffer.cast("B")
        entry = self._bounded(path, offset, len(view))
        if len(view):
            self._fill(entry, offset, view)

    def admit(self, path: str) -> FileEntry:
        """Pin one more file, which the listing left out; from now on it can be read.

        Raises RefusedInput(SourceNotFound) when there is none; `path` must be plain.
        """
        entry = self._entries.get(path) or self._found(path)
        if entry is not None:
            self._entries[path] = entry
        return self._bounded(path, 0, 0)

    def local_path(self, path: str) -> Path | None:
        """Where `path` lies on this machine; None, because most stores are remote."""
        self._bounded(path, 0, 0)
        return None

    @abstractmethod
    def close(self) -> None:
        """Give back descriptors and connections."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @abstractmethod
    def _fill(self, entry: FileEntry, offset: int, buffer: memoryview) -> None:
        """Fill all of `buffer`, which is not empty and lies inside the file."""

    def _found(self, path: str) -> FileEntry | None:
        """The file at `path`, pinned; None when there is none, or all files were listed."""
        return None

    def _count(self, requests: int, nbytes: int) -> None:
        with self._traffic_lock:
            self._traffic.requests += requests
            self._traffic.bytes += nbytes

    def _bounded(self, path: str, offset: int, length: int) -> FileEntry:
        """The entry of `path`, if the range lies inside the file as it was listed."""
        if offset < 0 or length < 0:
            raise ValueError(f"bytes {offset} to {offset + length} are no range. This is a bug.")
        entry = self._entries.get(path)
        if entry is None:
            raise RefusedInput(
                Reason.SourceNotFound,
                path,
                f"`{self._uri}` has no file {path!r}; fetch the source again, or correct the name.",
            )
        if offset + length > entry.size_bytes:
            raise RefusedInput(
                Reason.MalformedCheckpoint,
                path,
                f"`{path}` of `{self._uri}` has {entry.size_bytes} bytes, but bytes up to "
                f"{offset + length} are needed; fetch the file again.",
            )
        return entry

    def _changed(self, path: str, how: str) -> NoReturn:
        """Refuse `path`, because it is not the file that was listed."""
        raise RefusedInput(
            Reason.SourceChanged,
            path,
            f"`{path}` of `{self._uri}` changed while it was being read ({how}); start again "
            "once nothing writes to the source.",
        )


def named(uri: str, subject: str) -> str:
    """How a message speaks of a file of a source, or of the source itself."""
    return f"`{uri}`" if subject == uri else f"`{subject}` of `{uri}`"


def is_skipped(path: str) -> bool:
    """Whether a file is no part of a checkpoint, because of a directory that it lies in."""
    return not SKIPPED_DIRECTORIES.isdisjoint(path.split("/")[:-1])


def _listed(uri: str, entries: Iterable[FileEntry], listing: Listing) -> dict[str, FileEntry]:
    """Entries by path, sorted; refuses names that could leave a directory, and endless lists."""
    listed: dict[str, FileEntry] = {}
    for entry in entries:
        if is_skipped(entry.path) or not listing.has(entry.path):
            continue
        if not is_plain(entry.path):
            raise RefusedInput(
                Reason.MalformedCheckpoint,
                ascii(entry.path),  # a plan that states it is UTF-8, which names need not be
                f"`{uri}` holds a file named {entry.path!r}, and no file may be named so; rename "
                "it or take it away.",
            )
        listed[entry.path] = entry
        if len(listed) > listing.most:
            raise RefusedInput(
                Reason.NotSupported,
                uri,
                f"`{uri}` holds more than {listing.most} files; name the directory or prefix of "
                f"one {listing.whole}.",
            )
    return dict(sorted(listed.items()))


def is_plain(path: str) -> bool:
    """Whether `path` is relative, stays below its root and can be shown on a terminal."""
    parts = path.split("/")
    return path.isprintable() and "\\" not in path and not {"", ".", ".."}.intersection(parts)
