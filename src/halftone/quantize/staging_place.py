"""A place beside an output where one process works, and of which nothing stays.

Called by `conversion.staging` and `sweep.files`, whose work begins anew each time. A
calibration and a checkpoint under way are gone on with, and have places of their own kind.
"""

import os
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from halftone.quantize.locks import lock
from halftone.spec.errors import EnvironmentFault, RefusedInput
from halftone.spec.names import Reason

_LOCK: Final = "lock"


@contextmanager
def staging_place(
    output: Path, suffix: str, names: Collection[str], subject: str
) -> Iterator[Path]:
    """The directory `.NAME.suffix` beside `output`, empty of `names`, and nobody else's.

    `names` are what the caller makes in it: they are removed at the start, for a kill leaves them,
    and at the end. So are directories that were made for it and hold nothing. Raises OSError,
    EnvironmentFault(OutputBusy) while another process is in it, and RefusedInput(OutputNotEmpty),
    both about `subject`, where something lies there that is not ours.
    """
    real = Path(os.path.realpath(output))
    _refuse_own_place(real, output, subject)
    root = real.parent / f".{real.name}.{suffix}"
    if root.is_symlink() or (root.exists() and not root.is_dir()):
        raise RefusedInput(
            Reason.OutputNotEmpty,
            subject,
            f"'{root}' is in the way: work on '{output}' needs a directory of that name; remove "
            "it, or choose another output.",
        )
    absent = [place for place in (root, *root.parents) if not place.exists()]
    try:
        root.mkdir(parents=True, exist_ok=True)
        # Whoever is in it has made all that it holds, and clears it.
        with _taken(root, output, subject):
            try:
                _clear(root, names)
                yield root
            finally:
                _clear(root, names)
                with suppress(OSError):  # it holds what somebody else put there
                    (root / _LOCK).unlink()
                    root.rmdir()
    finally:
        # The first that is in use keeps all above it: the output itself, if it was finished.
        with suppress(OSError):
            for place in absent:
                if place != root:
                    place.rmdir()


def _refuse_own_place(real: Path, output: Path, subject: str) -> None:
    """A shell that stands in a directory which is replaced stands nowhere."""
    here = Path.cwd()
    if here == real or real in here.parents:
        raise RefusedInput(
            Reason.OutputNotEmpty,
            subject,
            f"'{output}' is where you are, and will be replaced by what is made; give a directory "
            f"inside it, such as '{output / 'out'}'.",
        )


def _clear(root: Path, names: Collection[str]) -> None:
    for name in names:
        path = root / name
        if path.is_symlink():
            path.unlink()
        else:
            shutil.rmtree(path, ignore_errors=True)


@contextmanager
def _taken(root: Path, output: Path, subject: str) -> Iterator[None]:
    ours = lock(root / _LOCK)
    if ours is None:
        raise EnvironmentFault(
            Reason.OutputBusy,
            subject,
            f"Another process is making '{output}'; wait for it, or choose another output.",
        )
    with ours:
        yield
