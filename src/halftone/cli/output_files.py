"""Files of `--output`: looked at before anything is measured, and written whole afterwards.

Called by `compare`, `bench` and `replay`, whose results take minutes. It must leave nothing
half-written.
"""

import errno
import os
import stat
import tempfile
from pathlib import Path

from halftone.spec.documents import write_atomically
from halftone.spec.errors import EnvironmentFault
from halftone.spec.names import Reason


def require_writable(path: Path) -> None:
    """Raise EnvironmentFault(StorageFailed) where `write_whole` would; nothing stays behind.

    A disk may still fill up, or be taken away, before the file is written.
    """
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        mode = stat.S_IFREG  # what it is to be
    except OSError as error:  # a folder that is closed to us, or too long a name
        raise _fault(path, error.strerror) from error
    if stat.S_ISDIR(mode):
        raise _fault(path, os.strerror(errno.EISDIR))
    if not stat.S_ISREG(mode):  # a file would take the device's place
        raise _fault(path, "it is no ordinary file")
    there = next(folder for folder in path.absolute().parents if os.path.lexists(folder))
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise _fault(path, error.strerror) from error


def write_whole(path: Path, content: str | bytes) -> None:
    """Write `content`, whole or not at all. Raises EnvironmentFault(StorageFailed)."""
    try:
        write_atomically(path, content.encode() if isinstance(content, str) else content)
    except OSError as error:
        raise _fault(path, error.strerror) from error


def _fault(path: Path, why: str | None) -> EnvironmentFault:
    told = f"`--output` '{path}' cannot be written: {why}; name another place."
    return EnvironmentFault(Reason.StorageFailed, "--output", told)
