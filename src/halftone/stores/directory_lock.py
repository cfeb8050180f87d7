"""One publisher at a time for a directory, and the file system's errors in our words.

Called by `halftone.stores.directory_target`. The lock is the kernel's, so a killed publisher holds
none, although its file may stay until the next one takes it away.
"""

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final

from halftone.spec.errors import EnvironmentFault
from halftone.spec.names import Reason

_NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT})


@contextmanager
def locked(path: Path, subject: str) -> Iterator[None]:
    """Hold the lock file `path`, and take it away afterwards.

    Raises EnvironmentFault: OutputBusy while another process holds it, without waiting, and
    StorageFailed where the file system has no locks.
    """
    with storage_errors(subject):
        # Beside the target others may write too: what a link leads to is not touched.
        flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        lock = os.fdopen(os.open(path, flags, 0o666), "wb")
    with lock:
        with storage_errors(subject):
            busy = not _is_taken(lock, path)
        if busy:
            raise EnvironmentFault(
                Reason.OutputBusy,
                subject,
                f"Another process is publishing to '{subject}'; wait for it, or stop it.",
            )
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def _is_taken(lock: IO[bytes], path: Path) -> bool:
    """Take the lock on the open file `lock`, which lies at `path`; False if another has it."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    # Whoever finished in between took the file away, and our lock with it.
    return path.exists() and os.path.samestat(path.stat(), os.fstat(lock.fileno()))


def is_locked(path: Path) -> bool:
    """Whether a process holds the lock file `path` at this moment. Raises OSError."""
    if not path.exists():
        return False
    with path.open("rb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


@contextmanager
def storage_errors(subject: str) -> Iterator[None]:
    """Turn OSError into EnvironmentFault: OutOfSpace, or StorageFailed."""
    try:
        yield
    except OSError as error:
        full = error.errno in _NO_ROOM
        remedy = "free some space" if full else "mend this"
        raise EnvironmentFault(
            Reason.OutOfSpace if full else Reason.StorageFailed,
            subject,
            f"'{subject}' could not be written ({error.strerror}); {remedy} and run the same "
            "command again.",
        ) from error
