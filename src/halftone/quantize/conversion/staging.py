"""The place where a converted checkpoint is built: seen by nobody until it is whole.

Called by `converting` and `shards`. What a kill leaves here is removed by the next run, which
begins anew.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NoReturn

from halftone.quantize.staging_place import staging_place
from halftone.quantize.storage import storage_errors
from halftone.spec.documents import sync_directory
from halftone.spec.errors import EnvironmentFault, RefusedInput
from halftone.spec.names import Reason

_STAGED: Final = "checkpoint"
_MADE: Final = (_STAGED,)


@contextmanager
def staged_output(output: Path) -> Iterator[Path]:
    """A directory that becomes `output` when this is left well, and nothing otherwise."""
    real = Path(os.path.realpath(output))
    with storage_errors(output):
        if real.exists() and not (real.is_dir() and not any(real.iterdir())):
            _refuse_output(output, "is not empty; choose another directory")
        if os.path.ismount(real):
            _refuse_output(
                output, f"is a mount point; give a directory in it: '{output / 'model'}'"
            )
    with storage_errors(output), staging_place(output, "converting", _MADE, str(output)) as root:
        staged = root / _STAGED
        staged.mkdir()
        yield staged
        sync_directory(staged)
        staged.rename(real)  # replaces an empty directory, fails on any other
        sync_directory(real.parent)


def _refuse_output(output: Path, why: str) -> NoReturn:
    raise RefusedInput(Reason.OutputNotEmpty, str(output), f"'{output}' {why}.")


def require_space(output: Path, needed: int) -> None:
    """Raise EnvironmentFault(OutOfSpace) unless `needed` bytes fit on the output's disk."""
    with storage_errors(output):
        free = shutil.disk_usage(Path(os.path.realpath(output)).parent).free
    if free < needed:
        raise EnvironmentFault(
            Reason.OutOfSpace,
            str(output),
            f"'{output}' needs {needed:,} bytes, but its disk has {free:,} free; free some space "
            "or choose another directory.",
        )
