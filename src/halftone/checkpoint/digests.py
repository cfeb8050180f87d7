"""The SHA-256 of files, for whoever writes, checks or publishes a checkpoint."""

import hashlib
from pathlib import Path
from typing import Final

_CHUNK: Final = 8 * 2**20


def file_sha256(path: Path) -> str:
    """SHA-256 of a file in hexadecimal, read in large pieces; raises OSError."""
    digest = hashlib.sha256()
    buffer = bytearray(_CHUNK)
    view = memoryview(buffer)
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            digest.update(view[:count])
    return digest.hexdigest()
