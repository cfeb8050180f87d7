"""The file system's errors, in words of the endpoint's settings.

Used by the modules of this package that write.
"""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from halftone.spec.errors import EnvironmentFault
from halftone.spec.names import Reason

CACHE_DIRECTORY: Final = "cache.directory"
_NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT})


@contextmanager
def storage_errors(folder: Path) -> Iterator[None]:
    """Turn OSError into EnvironmentFault: OutOfSpace, or StorageFailed."""
    try:
        yield
    except OSError as error:
        full = error.errno in _NO_ROOM
        remedy = (
            "free some space there, or let it lie on a larger disk"
            if full
            else "name a directory on a local disk that this user may write"
        )
        raise EnvironmentFault(
            Reason.OutOfSpace if full else Reason.StorageFailed,
            CACHE_DIRECTORY,
            f"Nothing more could be written below '{folder}' ({error.strerror}), where "
            f"`{CACHE_DIRECTORY}` leads; {remedy}.",
        ) from error
