"""The place where a converted checkpoint is built: seen by nobody until it is whole.

Called by `converting`. What a kill leaves here is removed by the next run, which begins anew.
"""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import IO, NoReturn

from halftone.quantize import workspace
from halftone.spec.documents import sync_directory
from halftone.spec.errors import EnvironmentFault, RefusedInput
from halftone.spec.names import Reason


def storage_errors(output: Path) -> AbstractContextManager[None]:
    """Translate what the operating system says of `output`; a conversion always begins anew."""
    return workspace.storage_errors(output, resumes=False)


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
    root = real.parent / f".{real.name}.converting"
    with storage_errors(output), _without_parents(root):
        root.mkdir(parents=True, exist_ok=True)
        with (root / "lock").open("wb") as lock:
            _take(lock, root / "lock", output)
            try:
                staged = root / "checkpoint"
                shutil.rmtree(staged, ignore_errors=True)
                staged.mkdir()
                yield staged
                sync_directory(staged)
                staged.rename(real)  # replaces an empty directory, fails on any other
                sync_directory(real.parent)
            finally:
                shutil.rmtree(root, ignore_errors=True)


@contextmanager
def _without_parents(root: Path) -> Iterator[None]:
    """Of the directories above `root` those that were made here go again if they are empty."""
    absent = [parent for parent in root.parents if not parent.exists()]
    try:
        yield
    finally:
        with suppress(OSError):  # one that is in use keeps all above it
            for parent in absent:
                parent.rmdir()


def _take(lock: IO[bytes], path: Path, output: Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Whoever finished in between took the directory away, and our lock with it.
        taken = not path.exists() or not os.path.samestat(path.stat(), os.fstat(lock.fileno()))
    except BlockingIOError:
        taken = True
    if taken:
        raise EnvironmentFault(
            Reason.OutputBusy,
            str(output),
            f"Another process is converting into '{output}'; wait for it, or stop it.",
        )


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
