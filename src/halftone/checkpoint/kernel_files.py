"""The machine code of kernels on disk: one file for each kernel and the types that it takes.

numba numbers its files in an index that it reads, adds to and writes again without a lock. Two
processes that compile one kernel for different types then give both the same number: the index
names one, the file holds the other, and from then on whoever asks gets machine code for other
types, a TypeError at each call. So here nothing is numbered or shared. What a kernel depends on
names its file and is repeated inside, with a digest of all that follows; a file is whole, or it is
compiled again.

Called by `jit`, in the place of numba's own `IndexDataCacheFile`.
"""

import hashlib
import pickle
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import numba
from numba.core.serialize import dumps

_DIGEST_BYTES: Final = 32


class KernelFiles:
    """The files of one kernel in `folder`, each named `base`, a digest and `.kernel`.

    `stamp` tells versions of the kernel's source file apart.
    """

    def __init__(self, folder: Path, base: str, stamp: object) -> None:
        self._folder = folder
        self._base = base
        self._stamp = stamp

    def load(self, key: object) -> Any:
        """What was saved under `key` (types, processor, digest of bytecode); None without it."""
        try:
            content = self._path(key).read_bytes()
        except OSError:
            return None
        digest, payload = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
        if hashlib.sha256(payload).digest() != digest:
            return None
        found, data = pickle.loads(payload)  # noqa: S301 - the folder is the user's, as numba's
        return data if found == key else None

    def save(self, key: object, data: object) -> None:
        """Keep `data` under `key`, in one step for whoever reads. Raises OSError."""
        payload = dumps((key, data))
        path = self._path(key)
        writing = path.with_name(f"{path.name}.{uuid.uuid4().hex[:16]}.writing")
        try:
            writing.write_bytes(hashlib.sha256(payload).digest() + payload)
            writing.replace(path)
        finally:
            with suppress(OSError):
                writing.unlink(missing_ok=True)

    def _path(self, key: object) -> Path:
        whole = repr((key, self._stamp, numba.__version__))
        return self._folder / f"{self._base}.{hashlib.sha256(whole.encode()).hexdigest()}.kernel"
