"""One lock file in a directory that its last user takes away: who may work there.

Called by `workspace`, `staging_place` and `calibration.partial`, each of which says in its own
words that somebody else is at work. The kernel gives a lock back with the process that held it.
"""

import fcntl
import os
from pathlib import Path
from typing import IO


def lock(path: Path, *, shared: bool = False) -> IO[bytes] | None:
    """The open file `path` with its lock, until it is closed; None while somebody else has it.

    With `shared` others may have it too who ask for it in the same way. Raises OSError, for a
    symbolic link too: what it leads to is not ours to write.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    file = os.fdopen(os.open(path, flags, 0o644), "wb")
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        # Whoever finished in between took the directory away, and our lock with it.
        if path.exists() and os.path.samestat(path.stat(), os.fstat(file.fileno())):
            return file
    except BlockingIOError:
        pass
    except BaseException:
        file.close()
        raise
    file.close()
    return None
