"""How a kernel is compiled, and where its machine code is kept.

numba keeps compiled code beside the source, keyed by that one file: an installed package is often
read-only, and a change in a file that a kernel calls would go unseen. Kernels here are cached in
the user's cache directory under a digest of all kernel sources. `HALFTONE_CACHE_DIR` moves it;
where nothing can be written, kernels compile anew in each process (seconds, not an error).

Called by the modules that define kernels; no other touches numba's settings.
"""

import hashlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Final, ParamSpec, TypeVar, cast

import numba

from halftone.spec.cache import cache_folder

P = ParamSpec("P")
R = TypeVar("R")

_PACKAGE: Final = Path(__file__).resolve().parent.parent
_KERNEL_MARKS: Final = (b"halftone.checkpoint.jit", b"numba.extending")  # jit.py holds the first


@cache
def cache_directory() -> Path | None:
    """Where compiled kernels are kept, made if need be; None where no place can be written."""
    digest = hashlib.sha256()
    for room in ("checkpoint", "quantize"):
        for source in sorted((_PACKAGE / room).glob("*.py")):
            text = source.read_bytes()
            if any(mark in text for mark in _KERNEL_MARKS):
                digest.update(text)
    return cache_folder(f"kernels-{digest.hexdigest()[:16]}")


def kernel(function: Callable[P, R]) -> Callable[P, R]:
    """Compile `function` at its first call for the array types it is given.

    The GIL is released while it runs; arithmetic is IEEE with no re-association, so that results
    do not depend on the machine; a division by zero gives what the hardware gives.
    """
    directory = cache_directory()
    if directory is not None:
        numba.config.CACHE_DIR = str(directory)
    compiled = numba.njit(nogil=True, cache=directory is not None, error_model="numpy")(function)
    return cast("Callable[P, R]", compiled)


def inline(function: Callable[P, R]) -> Callable[P, R]:
    """Compile `function` as a part of the kernels that call it; it is never called from Python."""
    return cast("Callable[P, R]", numba.njit(error_model="numpy", forceinline=True)(function))
