"""The folder that calibration data may fill while they are used, inside the caller's own.

Called by whatever here writes a file: copies of images, the tokenizer's files, unpacked rows. The
caller says where it lies and removes it; a run that was killed leaves nothing anywhere else.
"""

import shutil
from contextlib import AbstractContextManager
from pathlib import Path

from halftone.quantize.storage import storage_errors


def emptied(folder: Path) -> Path:
    """`folder`, made if it is not there, and without what an earlier run left in it.

    Raises EnvironmentFault as `storing` does.
    """
    with storing(folder):
        if folder.exists():
            shutil.rmtree(folder)
        folder.mkdir(parents=True)
    return folder


def storing(folder: Path) -> AbstractContextManager[None]:
    """Translate what the operating system says of our own files in `folder`, as `storage` does."""
    return storage_errors(folder, cannot="cannot hold copies of the data")
