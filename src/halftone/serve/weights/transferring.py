"""Bytes from a source, hashed as they pass, and written down where a folder is given.

Called by `obtaining`. The source is read ahead by threads of its own while others hash and write,
so that proving costs little beside the network. What a killed process left in the folder is hashed
from disk and gone on with; a file that then does not have its digest is fetched anew from its
first byte, so nothing rests on what was found.
"""

import hashlib
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from io import RawIOBase
from pathlib import Path
from typing import Any, Final, NamedTuple

from halftone.serve.weights.storage import storage_errors
from halftone.spec.documents import WrittenFile, sync_directory
from halftone.spec.errors import CheckFailed, EnvironmentFault
from halftone.spec.files import FileSource
from halftone.spec.names import Reason

# Bytes that are proven by now, and of how many.
Progress = Callable[[int, int], None]

_CHUNK: Final = 8 * 2**20
# Files at once, and how many reads one file may be ahead of its digest: 100 to 200 MB of buffers.
_FEWEST_FILES, _MOST_FILES = 4, 8
_AHEAD: Final = 3


class Wanted(NamedTuple):
    """A file to fetch or to prove; without `sha256` any bytes will do."""

    path: str
    size_bytes: int
    sha256: str | None


class Transfer:
    """One pass over files of `source`, into `folder` if there is one."""

    def __init__(
        self,
        source: FileSource,
        folder: Path | None,
        progress: Progress,
        new_digest: Callable[[], Any] = hashlib.sha256,
    ) -> None:
        self._source = source
        self._folder = folder
        self._progress = progress
        self._new_digest = new_digest
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._done = 0
        self._total = 0
        self.resumed = 0

    def run(self, files: Iterable[Wanted]) -> tuple[WrittenFile, ...]:
        """All `files` as they were found, sorted by path; those in `folder` are on disk.

        `resumed` are then the bytes that lay in `folder` before. Raises CheckFailed(DigestDiffers)
        for a file that does not have its SHA-256 (it is removed), EnvironmentFault(OutOfSpace,
        StorageFailed), and what the source raises; other files stay for the next attempt.
        """
        largest_first = sorted(files, key=lambda file: -file.size_bytes)
        self._total = sum(file.size_bytes for file in largest_first)
        cores = len(os.sched_getaffinity(0))
        count = min(max(cores, _FEWEST_FILES), _MOST_FILES)
        with (
            ThreadPoolExecutor(2 * count, thread_name_prefix="read") as self._reads,
            ThreadPoolExecutor(count, thread_name_prefix="hash") as pool,
        ):
            found = [pool.submit(self._file, file) for file in largest_first]
            try:
                # The first failure ends it all, however long the file before it still takes.
                wait(found, return_when=FIRST_EXCEPTION)
                written = [future.result() for future in sorted(found, key=_succeeded)]
            finally:
                self._stopped.set()
                for future in found:
                    future.cancel()
        return tuple(sorted(written, key=lambda file: file.path))

    def _file(self, file: Wanted) -> WrittenFile:
        sha256 = self._proven(file) if self._folder is None else self._fetched(file, self._folder)
        return WrittenFile(path=file.path, sizeBytes=file.size_bytes, sha256=sha256)

    def _proven(self, file: Wanted) -> str:
        digest = self._new_digest()
        for piece in self._pieces(file, 0):
            digest.update(piece)
            self._count(len(piece))
        return self._required(file, digest.hexdigest())

    def _fetched(self, file: Wanted, folder: Path) -> str:
        """The SHA-256 of the file that now lies below `folder`."""
        path = folder / file.path
        with storage_errors(folder):
            path.parent.mkdir(parents=True, exist_ok=True)
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            descriptor = os.open(path, flags, 0o644)
        # Without a buffer, which would be written when it is closed, and could fail again there.
        with os.fdopen(descriptor, "r+b", buffering=0) as sink:
            sha256, found = self._appended(file, sink, folder)
            if file.sha256 not in (None, sha256) and found:
                self._count(-file.size_bytes)
                with storage_errors(folder):
                    sink.truncate(0)
                sha256, _ = self._appended(file, sink, folder)
            with storage_errors(folder):
                os.fsync(sink.fileno())
        try:
            return self._required(file, sha256)
        except CheckFailed:
            path.unlink()
            raise

    def _appended(self, file: Wanted, sink: RawIOBase, folder: Path) -> tuple[str, int]:
        """Write what is missing behind what is there; SHA-256 of all, and how much was there."""
        digest = self._new_digest()
        with storage_errors(folder):
            if os.fstat(sink.fileno()).st_size > file.size_bytes:
                sink.truncate(0)
            sink.seek(0)
            found = 0
            while chunk := sink.read(_CHUNK):
                self._require_going()
                digest.update(chunk)
                found += len(chunk)
                self._count(len(chunk))
        with self._lock:
            self.resumed += found
        for piece in self._pieces(file, found):
            with storage_errors(folder):
                _write(sink, piece)
            digest.update(piece)
            self._count(len(piece))
        return digest.hexdigest(), found

    def _pieces(self, file: Wanted, begin: int) -> Iterator[memoryview]:
        """The bytes from `begin` on, in order, each valid until the next is asked for."""
        offsets = iter(range(begin, file.size_bytes, _CHUNK))
        asked: deque[tuple[Future[None], memoryview, memoryview]] = deque()

        def ask(buffer: memoryview) -> None:
            offset = next(offsets, None)
            if offset is not None:
                piece = buffer[: min(_CHUNK, file.size_bytes - offset)]
                read = self._reads.submit(self._source.read_into, file.path, offset, piece)
                asked.append((read, piece, buffer))

        left = file.size_bytes - begin
        for _ in range(min(_AHEAD, -(-left // _CHUNK))):
            ask(memoryview(bytearray(min(_CHUNK, left))))
        try:
            while asked:
                self._require_going()
                read, piece, buffer = asked.popleft()
                read.result()
                yield piece
                ask(buffer)
        finally:
            for read, _, _ in asked:
                read.cancel()

    def _required(self, file: Wanted, sha256: str) -> str:
        if file.sha256 not in (None, sha256):
            raise differs(self._source, file.path, "was changed (its SHA-256 differs)")
        return sha256

    def _count(self, nbytes: int) -> None:
        with self._lock:
            self._done += nbytes
            self._progress(self._done, self._total)

    def _require_going(self) -> None:
        """Raise in a thread whose work nobody waits for any more."""
        if self._stopped.is_set():
            raise EnvironmentFault(
                Reason.Interrupted, self._source.uri, "Another file failed; see its error."
            )


def _succeeded(future: Future[WrittenFile]) -> bool:
    return not future.done() or future.exception() is None


def _write(sink: RawIOBase, piece: memoryview) -> None:
    """All of `piece`, of which the system may take a part at a time. Raises OSError."""
    while piece:
        piece = piece[sink.write(piece) or 0 :]


def differs(source: FileSource, path: str, how: str) -> CheckFailed:
    """The error for a file of an artifact that is not the published one."""
    return CheckFailed(
        Reason.DigestDiffers,
        path,
        f"'{path}' of `{source.uri}` {how}; do not serve it, and publish the artifact again or "
        "name another one.",
    )


def sync_folders(folder: Path, files: Sequence[WrittenFile]) -> None:
    """Make the names of `files` below `folder` survive a power cut. Raises OSError."""
    for parent in sorted({(folder / file.path).parent for file in files} | {folder}):
        sync_directory(parent)
