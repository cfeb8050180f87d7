"""Cuts what stands behind the loaded segments of shared libraries: symbols and section headers.

Called by the Dockerfile of the worker, whose base has no `strip`. `dlopen` reads segments alone,
as the ELF specification has it ("Program Header"); the offsets are those of its 64-bit structures.
"""

import struct
import sys
from pathlib import Path

_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SEGMENT = struct.Struct("<IIQQQQQQ")


def cut(data: bytes) -> bytes:
    """The library without its sections. Raises ValueError for anything but 64-bit ELF."""
    ident, *fields = _HEADER.unpack_from(data)
    if ident[:6] != b"\x7fELF\x02\x01":
        raise ValueError("this is no 64-bit little-endian ELF file")
    first, size, count = fields[4], fields[8], fields[9]
    segments = [_SEGMENT.unpack_from(data, first + number * size) for number in range(count)]
    end = max(offset + length for _, _, offset, _, _, length, _, _ in segments)
    fields[5] = fields[11] = fields[12] = 0  # no section headers
    return _HEADER.pack(ident, *fields) + data[_HEADER.size : end]


if __name__ == "__main__":
    for library in map(Path, sys.argv[1:]):
        library.write_bytes(cut(library.read_bytes()))
