"""Lets one process at a time do work that a second one would spoil.

Called around a validation, which clears and rewrites a work directory, and around the fetching of a
source into the cache. The lock is the kernel's: a process that was killed holds none.
"""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from halftone.spec.errors import EnvironmentFault
from halftone.spec.names import Reason


@contextmanager
def alone(lock: Path, told: str) -> Iterator[None]:
    """Hold the file `lock`, which is made and stays.

    Raises EnvironmentFault(OutputBusy) with `told` while another process holds it.
    """
    with lock.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise EnvironmentFault(Reason.OutputBusy, str(lock.parent), told) from error
        yield
