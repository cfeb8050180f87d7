"""The folder that calibration data may fill while they are used, inside the caller's own.

Called by whatever here writes a file: copies of images, the tokenizer's files, unpacked rows. The
caller says where it lies and removes it; a run that was killed leaves nothing anywhere else.
"""

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from halftone.spec.errors import EnvironmentFault
from halftone.spec.names import Reason


def emptied(folder: Path) -> Path:
    """`folder`, made if it is not there, and without what an earlier run left in it.

    Raises EnvironmentFault as `storing` does.
    """
    with storing(folder):
        if folder.exists():
            shutil.rmtree(folder)
        folder.mkdir(parents=True)
    return folder


@contextmanager
def storing(folder: Path) -> Iterator[None]:
    """Say what the operating system says of our own files in a sentence, cause chained.

    Raises EnvironmentFault(OutOfSpace) for a full disk, EnvironmentFault(StorageFailed) for else.
    """
    try:
        yield
    except OSError as error:
        full = error.errno in {errno.ENOSPC, errno.EDQUOT}
        said = (
            f"The disk under '{folder}' is full; free some space"
            if full
            else f"'{folder}' cannot hold copies of the data ({error.strerror or error}); mend this"
        )
        raise EnvironmentFault(
            Reason.OutOfSpace if full else Reason.StorageFailed,
            str(folder),
            f"{said} and run the same command again, or choose another directory.",
        ) from error
