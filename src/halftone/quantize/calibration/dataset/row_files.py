"""A file of a store as Python's readers want it: seekable, and unpacked where it is packed.

Called by `row_index`. It knows no rows.
"""

import gzip
import io
import tempfile
import zlib
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Final

from halftone.quantize.calibration.dataset.rows import refuse
from halftone.quantize.calibration.dataset.scratch import storing
from halftone.spec.files import FileEntry, FileSource

# Exactly this many bytes from this offset on.
Read = Callable[[int, int], bytes]
_PIECE: Final = 8 << 20
# Packed text grows up to a thousandfold; nobody calibrates on more than this.
MAX_UNPACKED_BYTES: Final = 256 << 30


class RangedFile(io.RawIOBase):
    """One file of `source`, read where somebody seeks to."""

    def __init__(self, source: FileSource, entry: FileEntry) -> None:
        self._source = source
        self._entry = entry
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        starts = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._entry.size_bytes}
        self._at = max(0, starts[whence] + offset)
        return self._at

    def readinto(self, buffer: "memoryview") -> int:  # type: ignore[override]
        length = max(0, min(len(buffer), self._entry.size_bytes - self._at))
        self._source.read_into(self._entry.path, self._at, memoryview(buffer)[:length])
        self._at += length
        return length


def reader(source: FileSource, entry: FileEntry) -> Read:
    """Reads ranges of one file."""
    return lambda offset, length: source.read_range(entry.path, offset, length)


def unpacked(source: FileSource, entry: FileEntry, folder: Path) -> tuple[Read, int, IO[bytes]]:
    """A gzip file unpacked into a nameless one on the disk of `folder`: how to read it, its size,
    and what to close.

    Raises RefusedInput(DatasetUnusable) for what is no gzip, EnvironmentFault for a full disk.
    """
    name, size = entry.path, 0
    if not entry.size_bytes:  # Python takes it for a packed nothing; it is a fetch that broke off
        refuse(name, f"`{name}` is no whole gzip file (it is empty); fetch it again.")
    packed = gzip.GzipFile(fileobj=io.BufferedReader(RangedFile(source, entry), _PIECE))
    with packed, ExitStack() as stack:
        file = stack.enter_context(_nameless(folder))
        while piece := _piece(packed, name):
            size += len(piece)
            if size > MAX_UNPACKED_BYTES:
                limit = f"{MAX_UNPACKED_BYTES >> 30} GiB"
                refuse(name, f"`{name}` unpacks to more than {limit}; give a part of it.")
            with storing(folder):
                file.write(piece)
        with storing(folder):
            file.flush()
        stack.pop_all()  # whoever called closes the file

    def read(offset: int, length: int) -> bytes:
        file.seek(offset)
        return file.read(length)

    return read, size, file


def _nameless(folder: Path) -> IO[bytes]:
    with storing(folder):
        return tempfile.TemporaryFile(dir=folder)


def _piece(packed: gzip.GzipFile, name: str) -> bytes:
    try:
        return packed.read(_PIECE)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        refuse(name, f"`{name}` is no whole gzip file ({error}); fetch it again.", error)
