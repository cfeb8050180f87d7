"""Exchange two directories in one step, which Python's standard library cannot do.

Called by `halftone.stores.directory_target`. Without it, replacing a directory that is not empty
takes two renames, and a reader in between finds nothing.
"""

import ctypes
import errno
import os
import tempfile
from pathlib import Path
from typing import Final

# From <fcntl.h> and <linux/fs.h>.
_AT_FDCWD: Final = -100
_RENAME_EXCHANGE: Final = 2
# What a kernel, a file system or a sandbox answers that does not have the exchange.
_NOT_THERE: Final = frozenset({errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EPERM})


def exchange(one: Path, other: Path) -> None:
    """Let `one` and `other`, which both exist on one file system, change names. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    renameat2 = getattr(libc, "renameat2", None)
    if renameat2 is None:  # musl, and glibc before 2.28
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS), str(one))
    done = renameat2(
        _AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), ctypes.c_uint(_RENAME_EXCHANGE)
    )
    if done != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), str(one), None, str(other))


def can_exchange(directory: Path) -> bool:
    """Whether directories below `directory` can be exchanged; found by doing it with two of them.

    Raises OSError when not even that can be tried.
    """
    with tempfile.TemporaryDirectory(prefix=".", suffix=".probe", dir=directory) as probe:
        one, other = Path(probe, "one"), Path(probe, "other")
        one.mkdir()
        other.mkdir()
        try:
            exchange(one, other)
        except OSError as error:
            if error.errno in _NOT_THERE:
                return False
            raise
    return True
