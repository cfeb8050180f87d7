"""SHA-256 as S3 writes it: base64, and for an object of several parts a digest over digests.

Used by the modules that publish to S3. Part sizes are part of the arithmetic: a resumed upload
must cut a file where the first one did.
"""

import base64
import hashlib
from collections.abc import Sequence
from typing import Final

# Smaller ones cost requests, larger ones memory: `workers` of them are held at once.
PART_BYTES: Final = 16 * 2**20
# S3's own limit.
MAX_PARTS: Final = 10_000


def part_bytes(size_bytes: int) -> int:
    """The size of the parts of a file; the last one may be smaller.

    A file that is not larger than its part size goes up in one piece.
    """
    size = PART_BYTES
    while size * MAX_PARTS < size_bytes:
        size *= 2
    return size


def of_object(sha256: str) -> str:
    """The checksum that S3 keeps of an object that went up in one piece."""
    return base64.b64encode(bytes.fromhex(sha256)).decode()


def of_part(data: bytes | bytearray) -> str:
    """The checksum of one part."""
    return base64.b64encode(hashlib.sha256(data).digest()).decode()


def of_parts(checksums: Sequence[str]) -> str:
    """The checksum that S3 keeps of an object that was put together from parts, in their order."""
    digest = hashlib.sha256(b"".join(base64.b64decode(checksum) for checksum in checksums))
    return f"{base64.b64encode(digest.digest()).decode()}-{len(checksums)}"
