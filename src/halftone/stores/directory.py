"""A checkpoint in a directory of this machine, read with `pread`.

Opened by `halftone.stores.opening`. A checkpoint may have been unpacked from anywhere, so a
symbolic link that leads out of the directory is listed but never read: its target could be a
private file, and other files of a checkpoint are copied into the output.
"""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Final

from halftone.spec.errors import EnvironmentFault, RefusedInput
from halftone.spec.files import FileEntry
from halftone.spec.names import Reason
from halftone.stores.pinned import CHECKPOINT, SKIPPED_DIRECTORIES, Listing, PinnedSource

# Far below the usual limit of 1024 descriptors a process; files beyond are opened for each read.
MAX_DESCRIPTORS: Final = 256


class DirectorySource(PinnedSource):
    """Every regular file below `directory` that `listing` has, and symbolic links to such files."""

    def __init__(self, directory: Path, listing: Listing = CHECKPOINT) -> None:
        uri = _written(directory)
        with _translated(uri):
            self._root = _resolved(directory)
            # One more than allowed is enough to refuse, even when somebody named `/`.
            found = dict(islice(_walk(self._root, uri, listing), listing.most + 1))
        entries = (FileEntry(path, status.st_size) for path, status in found.items())
        super().__init__(uri, None, entries, listing)
        self._stamps = {path: _stamp(status) for path, status in found.items()}
        self._roots = (self._root, *_blob_directories(self._root))
        self._descriptors: dict[str, int] = {}
        self._descriptors_lock = threading.Lock()

    def local_path(self, path: str) -> Path:
        """The file itself, links resolved; RefusedInput when a link leaves the directory."""
        self._bounded(path, 0, 0)
        with _translated(path):
            resolved = _resolved(self._root / path)
        if any(resolved.is_relative_to(root) for root in self._roots):
            return resolved
        raise RefusedInput(
            Reason.MalformedCheckpoint,
            path,
            f"`{path}` of `{self._uri}` is a symbolic link that leaves the directory; put the file "
            "itself in its place.",
        )

    def close(self) -> None:
        """Close every descriptor. A later read would open its file again."""
        with self._descriptors_lock:
            while self._descriptors:
                os.close(self._descriptors.popitem()[1])

    def _found(self, path: str) -> FileEntry | None:
        with _translated(path):
            if not (self._root / path).is_file():
                return None
            status = (self._root / path).stat()
        self._stamps[path] = _stamp(status)
        return FileEntry(path, status.st_size)

    def _fill(self, entry: FileEntry, offset: int, buffer: memoryview) -> None:
        with _translated(entry.path), self._opened(entry.path) as descriptor:
            if _stamp(os.fstat(descriptor)) != self._stamps[entry.path]:
                self._changed(entry.path, "its size or time of change differs")
            done = 0
            while done < len(buffer):
                got = os.preadv(descriptor, [buffer[done:]], offset + done)
                self._count(1, got)
                if not got:
                    self._changed(entry.path, "it became shorter")
                done += got

    @contextmanager
    def _opened(self, path: str) -> Iterator[int]:
        """A descriptor of `path`: a kept one, or one for this read when many are kept already."""
        with self._descriptors_lock:
            kept = self._descriptors.get(path)
            if kept is None and len(self._descriptors) < MAX_DESCRIPTORS:
                kept = self._descriptors[path] = self._open(path)
        if kept is not None:
            yield kept
            return
        descriptor = self._open(path)
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def _open(self, path: str) -> int:
        # Not blocking: should a pipe have taken the file's place, opening it must not wait.
        return os.open(self.local_path(path), os.O_RDONLY | os.O_NONBLOCK)


def _walk(root: Path, uri: str, listing: Listing) -> Iterator[tuple[str, os.stat_result]]:
    """Path relative to `root` and status of every regular file; links to directories stay shut."""
    if listing.only is not None:  # whatever else lies beside it is not looked at
        if (root / listing.only).is_file():
            yield listing.only, (root / listing.only).stat()
        return
    if not root.is_dir():
        raise RefusedInput(
            Reason.SourceNotFound,
            uri,
            f"`{uri}` is a file; give the directory that holds config.json and the weights.",
        )
    for folder, subfolders, names in os.walk(root, onerror=_raise):
        subfolders[:] = sorted(set(subfolders) - SKIPPED_DIRECTORIES)
        for name in names:
            path = Path(folder, name)
            relative = path.relative_to(root).as_posix()
            # No pipe, no link to nothing: whoever needs it finds it missing.
            if listing.has(relative) and path.is_file():
                yield relative, path.stat()


def _written(directory: Path) -> str:
    """The path as text, for messages and for the plan, which is UTF-8."""
    text = str(directory)
    try:
        encoded = text.encode()
    except UnicodeEncodeError:
        encoded = b"\0"
    if b"\0" in encoded:
        raise RefusedInput(
            Reason.InvalidJob,
            ascii(text),
            f"The path of the source, {text!a}, is not UTF-8 without NUL; rename the directory.",
        )
    return text


def _resolved(path: Path) -> Path:
    # Unlike Path.resolve, this reports a circle of links as an OSError.
    return Path(os.path.realpath(path, strict=True))


def _raise(error: OSError) -> None:
    raise error


def _stamp(status: os.stat_result) -> tuple[int, int]:
    return status.st_size, status.st_mtime_ns


def _blob_directories(root: Path) -> tuple[Path, ...]:
    """Where links of the Hub's own cache lead, if `root` is a snapshot in one.

    The layout is huggingface_hub's: `<cache>/models--org--name/snapshots/<commit>/file` links to
    `<cache>/models--org--name/blobs/<etag>`, which may link on to `<cache>/blobs/<hash>`.
    """
    repository = root.parent.parent
    if root.parent.name != "snapshots" or not repository.name.startswith("models--"):
        return ()
    return repository / "blobs", repository.parent / "blobs"


@contextmanager
def _translated(subject: str) -> Iterator[None]:
    """Turn errors of the operating system into ours."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError) as error:
        raise RefusedInput(
            Reason.SourceNotFound,
            subject,
            f"There is no `{subject}`; correct the path.",
        ) from error
    except PermissionError as error:
        raise RefusedInput(
            Reason.AccessDenied,
            subject,
            f"`{error.filename or subject}` may not be read by this user; change its permissions.",
        ) from error
    except OSError as error:
        raise EnvironmentFault(
            Reason.StorageFailed,
            subject,
            f"`{subject}` could not be read ({error.strerror}); check "
            "the disk, then run the command again.",
        ) from error
