"""How a kernel is compiled, and where its machine code is kept.

numba keeps compiled code beside the source, keyed by that one file: an installed package is often
read-only, and a change in a file that a kernel calls would go unseen. Kernels here are cached in
the user's cache directory under a digest of all kernel sources. `HALFTONE_CACHE_DIR` moves it;
where nothing can be written, kernels compile anew in each process (seconds, not an error). The
files are ours (`kernel_files`), because numba's are mixed up by processes that compile at once.

Called by the modules that define kernels; no other touches numba's settings.
"""

import hashlib
from collections.abc import Callable
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from typing import Any, Final, ParamSpec, TypeVar, cast

import numba

from halftone.checkpoint.kernel_files import KernelFiles
from halftone.spec.cache import cache_folder

P = ParamSpec("P")
R = TypeVar("R")

_PACKAGE: Final = Path(__file__).resolve().parent.parent
_KERNEL_MARKS: Final = (b"halftone.checkpoint.jit", b"numba.extending")  # jit.py holds the first

# Rooms whose kernels may call one another. A change among them compiles them anew, no others.
_TENSORS: Final = ("checkpoint", "quantize")
_PLANT: Final = ("scaling/plant",)


@cache
def cache_directory(rooms: tuple[str, ...] = _TENSORS) -> Path | None:
    """Where compiled kernels are kept, made if need be; None where no place can be written.

    `rooms` are those whose kernels may call one another, below the package.
    """
    digest = hashlib.sha256()
    for room in rooms:
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
    return cast("Callable[P, R]", _kept(numba.njit(**_settings(_TENSORS))(function)))


def inline(function: Callable[P, R]) -> Callable[P, R]:
    """Compile `function` as a part of the kernels that call it; it is never called from Python."""
    return cast("Callable[P, R]", numba.njit(error_model="numpy", forceinline=True)(function))


def uncounted_kernel(function: Callable[P, R]) -> Callable[P, R]:
    """A kernel of the plant, which takes tuples of dozens of arrays and makes none.

    numba would count references to each of them at every use, which took 30 times as long as the
    work itself. So nothing in it may make an array, a slice or a list; its caller holds them all.
    """
    compiled = numba.njit(**_settings(_PLANT), _nrt=False)(function)
    return cast("Callable[P, R]", _kept(compiled))


def uncounted_inline(function: Callable[P, R]) -> Callable[P, R]:
    """Compile `function` as a part of the uncounted kernels that call it."""
    compiled = numba.njit(error_model="numpy", forceinline=True, _nrt=False)(function)
    return cast("Callable[P, R]", compiled)


def _settings(rooms: tuple[str, ...]) -> dict[str, Any]:
    directory = cache_directory(rooms)
    if directory is not None:
        numba.config.CACHE_DIR = str(directory)
    return {"nogil": True, "cache": directory is not None, "error_model": "numpy"}


def _kept(compiled: Any) -> Any:
    """Have numba's dispatcher keep its machine code in our files, where it keeps any."""
    cache = compiled._cache
    numbered = getattr(cache, "_cache_file", None)  # None of a kernel that is not kept
    if numbered is not None:
        base = cache._impl.filename_base
        cache._cache_file = KernelFiles(Path(cache.cache_path), base, numbered._source_stamp)
        # Of a full or broken disk nothing is told: the kernel is compiled, and will be again.
        cache._guard_against_spurious_io_errors = partial(suppress, OSError)
    return compiled
