"""The checksums that the store compares what arrives with, and keeps, as S3 writes them.

Used by the modules that publish to S3. A file that goes up in one piece has its SHA-256, which is
the one that `artifact.files` states. Parts have a CRC-32, and the object that is made of them a
CRC-32 over theirs: the file's SHA-256 is taken from the same bytes in the same pass, so the CRC
only has to show that they arrived, and a second SHA-256 on both sides cost a third more CPU time.
Part sizes are part of the arithmetic: a resumed upload must cut a file where the first one did.
"""

import base64
import zlib
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
    return _encoded(zlib.crc32(data))


def of_parts(checksums: Sequence[str]) -> str:
    """The checksum that S3 keeps of an object that was put together from parts, in their order."""
    together = zlib.crc32(b"".join(base64.b64decode(checksum) for checksum in checksums))
    return f"{_encoded(together)}-{len(checksums)}"


def _encoded(crc: int) -> str:
    return base64.b64encode(crc.to_bytes(4, "big")).decode()
