"""Locks of the kernel on files: it gives them back with the process that held them.

Used by the cache alone, for three ends: who uses an entry, who fills it, who makes room.
"""

import fcntl
import os
from contextlib import suppress
from pathlib import Path
from typing import IO


def lock(path: Path, *, shared: bool = False, wait: bool = True) -> IO[bytes] | None:
    """The open file `path` with its lock, until it is closed.

    With `shared` others may have it too who ask in the same way. Without `wait`, None while
    somebody is in the way. Raises OSError, for a symbolic link too.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    operation = (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB)
    while True:
        file = os.fdopen(os.open(path, flags, 0o644), "r+b", buffering=0)
        try:
            fcntl.flock(file, operation)
            # Whoever evicted the entry in between took the file away, and our lock with it.
            with suppress(FileNotFoundError):
                if os.path.samestat(path.stat(), os.fstat(file.fileno())):
                    return file
        except BlockingIOError:
            file.close()
            return None
        except BaseException:
            file.close()
            raise
        file.close()
