"""Brings the files of an artifact into a folder of a bucket, and proves that they are there.

Called by `halftone.stores.s3_target`. One thread reads and hashes, `_WORKERS` send; a file is read
once, so what was hashed is what went up. A run that was killed is gone on with from what the store
says that it has: whole objects, and parts of those that were under way. It must not be the one who
makes anything visible.
"""

import hashlib
import os
import queue
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Final

from halftone.spec.documents import WrittenFile
from halftone.spec.errors import CheckFailed, EnvironmentFault, RefusedInput
from halftone.spec.names import Reason
from halftone.spec.publishing import Progress
from halftone.stores.recorded import MISSING, OTHER_DIGEST, differs
from halftone.stores.s3_checksums import of_object, of_part, of_parts, part_bytes
from halftone.stores.s3_folder import Folder, Part
from halftone.stores.s3_writing import FIELD, UploadGoneError

_WORKERS: Final = 8
# Pieces in memory: those on their way, and the one that is read.
_HELD: Final = _WORKERS + 1
# Completing makes the store copy, so a few files may do it while others are read.
_FINISHERS: Final = 4
# One that sends, one that looks; more where other publishers of the same artifact interfere.
_PASSES: Final = 5


@dataclass(frozen=True, slots=True)
class _Sent:
    """One file on its way; `checksum` is what the store must have of it in the end."""

    file: WrittenFile
    checksum: Future[str]


class _StoppedError(Exception):
    """Somebody else failed, so there is no use in going on."""


class ArtifactUpload:
    """The files of `tree`, in `folder`; `run` once."""

    def __init__(self, folder: Folder, tree: Path, progress: Progress) -> None:
        self._folder = folder
        self._tree = tree
        self._progress = progress
        self._told: dict[str, dict[int, int]] = defaultdict(dict)
        self._lock = threading.Lock()
        # What the store must have of a file, and whether this run has sent it whole.
        self._checksums: dict[str, str] = {}
        self._sent: set[str] = set()
        self._stopped = threading.Event()
        # Of senders. A file whose first parts failed while its last ones were read is in no list.
        self._failures: list[BaseException] = []
        # Buffers that are free; None is one that was not needed so far. Used again, because fresh
        # memory costs as much as the copy into it.
        self._room: queue.SimpleQueue[bytearray | None] = queue.SimpleQueue()
        for _ in range(_HELD):
            self._room.put(None)

    def run(self, files: Sequence[WrittenFile]) -> None:
        """Return once the store has every one of `files` with its checksum.

        Raises CheckFailed(DigestDiffers) for a file of the tree that is another, RefusedInput and
        EnvironmentFault as the store answers.
        """
        for file in files:
            self._refuse_other_size(file, self._tree / file.path)
        for _ in range(_PASSES):
            with (
                ThreadPoolExecutor(_WORKERS) as senders,
                ThreadPoolExecutor(_FINISHERS) as finishers,
            ):
                if not self._pass(files, senders, finishers):
                    return
        raise EnvironmentFault(
            Reason.StoreUnavailable,
            FIELD,
            f"Files of `{self._folder.uri}` vanish while they are written; make sure that nothing "
            "removes them, then run the same command again.",
        )

    def _pass(
        self,
        files: Sequence[WrittenFile],
        senders: ThreadPoolExecutor,
        finishers: ThreadPoolExecutor,
    ) -> bool:
        """Send what is not there; whether anything was sent."""
        listed = {stored.path: stored.size_bytes for stored in self._folder.objects()}
        there = [file.path for file in files if listed.get(file.path) == file.sizeBytes]
        stored = dict(zip(there, senders.map(self._folder.checksum, there), strict=True))
        sent: list[_Sent] = []
        try:
            for file in files:
                if file.path in stored and self._is_there(file, stored[file.path]):
                    continue
                if file.sizeBytes <= part_bytes(file.sizeBytes):
                    sent.append(self._send_whole(file, senders))
                else:
                    sent.append(self._send_parts(file, senders, finishers))
        except _StoppedError:
            pass  # a sender failed; its error is raised below
        except BaseException:
            self._stopped.set()
            raise
        self._settle(sent)
        return bool(sent)

    def _settle(self, sent: list[_Sent]) -> None:
        """Wait for all, then raise the first error, or keep the checksums."""
        errors = list(self._failures)
        for one in sent:
            try:
                self._checksums[one.file.path] = one.checksum.result()
                self._sent.add(one.file.path)
            except UploadGoneError:
                pass  # the next pass looks whether somebody else completed it
            except _StoppedError:
                pass  # whoever stopped it is among the errors
            except BaseException as error:
                errors.append(error)
        if errors:
            raise errors[0]

    def _is_there(self, file: WrittenFile, stored: str | None) -> bool:
        """Whether the object of this name and size has the bytes that the tree has.

        Raises RefusedInput(TargetUnsafe) when it has others although they have just been sent.
        """
        if file.path not in self._checksums:
            if stored is None:
                return False
            self._checksums[file.path] = self._checksum(file)
        if self._checksums[file.path] != stored:
            if file.path in self._sent:
                raise _unsafe(self._folder.uri, file.path)
            return False
        self._tell(file.path, 0, file.sizeBytes - sum(self._told[file.path].values()))
        return True

    def _checksum(self, file: WrittenFile) -> str:
        """What the store must have of a file that it is said to have."""
        size = part_bytes(file.sizeBytes)
        checksums = []
        for piece in self._pieces(file, size):
            checksums.append(of_part(piece))
            self._room.put(piece)
        return of_object(file.sha256) if file.sizeBytes <= size else of_parts(checksums)

    def _send_whole(self, file: WrittenFile, senders: ThreadPoolExecutor) -> _Sent:
        checksum = of_object(file.sha256)
        [piece] = self._pieces(file, max(1, file.sizeBytes))

        def send() -> str:
            self._folder.put(file.path, piece, checksum)
            self._tell(file.path, 1, len(piece))
            return checksum

        return _Sent(file, self._submitted(senders, piece, send))

    def _send_parts(
        self, file: WrittenFile, senders: ThreadPoolExecutor, finishers: ThreadPoolExecutor
    ) -> _Sent:
        upload, arrived = self._begun(file.path)
        parts: list[Future[str]] = []
        try:
            for number, piece in enumerate(self._pieces(file, part_bytes(file.sizeBytes)), 1):
                send = partial(self._send_part, file.path, upload, number, piece, arrived)
                parts.append(self._submitted(senders, piece, send))
        except CheckFailed:
            if not arrived:  # begun by this run, so nobody else will go on with it
                wait(parts)
                self._folder.abort(file.path, upload)
            raise
        return _Sent(file, finishers.submit(self._complete, file.path, upload, parts))

    def _begun(self, path: str) -> tuple[str, dict[int, Part]]:
        """The upload to go on with, or a new one; and the parts that it has."""
        for upload in reversed(self._folder.uploads(path)):
            try:
                return upload.id, self._folder.parts(path, upload.id)
            except UploadGoneError:
                continue  # completed or aborted since it was listed
        return self._folder.begin(path), {}

    def _send_part(
        self, path: str, upload: str, number: int, piece: bytearray, arrived: dict[int, Part]
    ) -> str:
        """Send one part unless it has arrived before; its checksum."""
        checksum = of_part(piece)
        known = arrived.get(number)
        if known is None or (known.checksum, known.size_bytes) != (checksum, len(piece)):
            self._folder.put_part(path, upload, number, piece, checksum)
        self._tell(path, number, len(piece))
        return checksum

    def _complete(self, path: str, upload: str, sent: list[Future[str]]) -> str:
        """Make one object of all parts, by what the store says that it has."""
        checksums = [part.result() for part in sent]
        arrived = self._folder.parts(path, upload)
        parts = [arrived.get(number) for number in range(1, len(checksums) + 1)]
        whole = [part for part in parts if part is not None]
        if any(part.checksum is None for part in whole):
            raise _unsafe(self._folder.uri, path)  # sending it again would change nothing
        if [part.checksum for part in whole] != checksums:
            raise UploadGoneError  # another publisher's hand, or a store that forgot: once more
        checksum = of_parts(checksums)
        self._folder.complete(path, upload, whole, checksum)
        return checksum

    def _submitted(
        self, senders: ThreadPoolExecutor, piece: bytearray, send: Callable[[], str]
    ) -> Future[str]:
        """Let a sender run `send`; `piece` is free afterwards, and a failure stops the rest."""

        def ended(future: Future[str]) -> None:
            self._room.put(piece)
            error = future.exception()
            if not isinstance(error, UploadGoneError | _StoppedError | None):
                self._failures.append(error)
                self._stopped.set()

        def guarded() -> str:
            if self._stopped.is_set():
                raise _StoppedError
            return send()

        future = senders.submit(guarded)
        future.add_done_callback(ended)
        return future

    def _pieces(self, file: WrittenFile, size: int) -> Iterator[bytearray]:
        """The file in pieces, each of which is held until somebody puts it back into `_room`.

        Raises CheckFailed before the last piece is given away if the file is another.
        """
        digest = hashlib.sha256()
        path = self._tree / file.path
        self._refuse_other_size(file, path)
        with _readable(file, path) as opened:
            left = file.sizeBytes
            while True:
                free = self._room.get()
                if self._stopped.is_set():
                    self._room.put(free)
                    raise _StoppedError
                wanted = min(size, left)
                piece = free if free is not None and len(free) == wanted else bytearray(wanted)
                del free  # a buffer of another size is given up here
                _fill(opened.fileno(), piece, file.sizeBytes - left)
                left -= len(piece)
                digest.update(piece)
                if not left and digest.hexdigest() != file.sha256:
                    self._room.put(piece)
                    raise differs(file, OTHER_DIGEST)
                yield piece
                if not left:
                    return

    def _refuse_other_size(self, file: WrittenFile, path: Path) -> None:
        with _readable(file, path) as opened:
            size = os.fstat(opened.fileno()).st_size
        if size != file.sizeBytes:
            raise differs(file, f"has {size} bytes instead of {file.sizeBytes}")

    def _tell(self, path: str, number: int, nbytes: int) -> None:
        """Report bytes, each once, however often they were sent."""
        with self._lock:
            if nbytes and number not in self._told[path]:
                self._told[path][number] = nbytes
                self._progress(nbytes)


@contextmanager
def _readable(file: WrittenFile, path: Path) -> Iterator[IO[bytes]]:
    """`path`, opened; a file of the tree that is not there or is none is another file."""
    try:
        with path.open("rb", buffering=0) as opened:
            yield opened
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        raise differs(file, MISSING) from error
    except OSError as error:
        raise EnvironmentFault(
            Reason.StorageFailed,
            file.path,
            f"'{file.path}' could not be read ({error.strerror}); mend this and run the same "
            "command again.",
        ) from error


def _fill(descriptor: int, piece: bytearray, offset: int) -> None:
    """Fill `piece` from `offset` on."""
    view = memoryview(piece)
    done = 0
    while done < len(piece):
        got = os.preadv(descriptor, [view[done:]], offset + done)
        if not got:
            break  # it became shorter; the zeros that are left give it another digest
        done += got


def _unsafe(uri: str, path: str) -> RefusedInput:
    return RefusedInput(
        Reason.TargetUnsafe,
        FIELD,
        f"The server does not keep the checksum of `{path}` in `{uri}`, so nobody can tell "
        "what arrived; publish to another server, or to a directory or the Hub.",
    )
