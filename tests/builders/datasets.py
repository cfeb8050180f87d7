"""Small calibration data: rows with and without images, and the pictures themselves.

Called by tests of calibration. Everything follows from a number, so the same call writes the same
bytes; pictures are PNG files made with nothing but zlib. Parquet needs pyarrow, which only peers
have: they get `rows` and write it.
"""

import json
import random
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_WORDS = ("amber", "basin", "cedar", "delta", "ember", "fjord", "grove", "haven", "inlet")


def text_rows(count: int, *, words: int = 12, seed: int = 0) -> list[dict[str, Any]]:
    """Rows with `text` of `words` words each, all different."""
    numbers = random.Random(seed)
    return [
        {"text": f"{index}: " + " ".join(numbers.choice(_WORDS) for _ in range(words))}
        for index in range(count)
    ]


def chat_rows(count: int, *, images: Sequence[Any] = (), seed: int = 0) -> list[dict[str, Any]]:
    """Rows with `messages`; each row has the next of `images`, if there are any, in a part."""
    rows: list[dict[str, Any]] = []
    for index, row in enumerate(text_rows(count, seed=seed + 1)):
        question: list[dict[str, Any]] = [{"type": "text", "text": row["text"]}]
        if images:
            question.insert(0, {"type": "image"})
        asked = {"role": "user", "content": question}
        answered = {"role": "assistant", "content": _WORDS[index % len(_WORDS)]}
        held = {"images": [images[index % len(images)]]} if images else {}
        rows.append({"messages": [asked, answered], **held})
    return rows


def png(width: int = 48, height: int = 32, *, seed: int = 0) -> bytes:
    """A colour gradient with a few random bands, as a PNG file."""
    numbers = random.Random(seed)
    tint, bands = numbers.randrange(256), [numbers.randrange(256) for _ in range(8)]
    lines = bytearray()
    for y in range(height):
        lines.append(0)
        for x in range(width):
            lines += bytes((255 * x // width, bands[8 * y // height], (tint + y) % 256))
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(bytes(lines), 9)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, body) for kind, body in chunks)


def write_rows(path: Path, rows: Sequence[Any]) -> Path:
    """Write `rows` as JSON Lines, making the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(json_lines(rows))
    return path


def json_lines(rows: Sequence[Any]) -> bytes:
    """`rows` as JSON Lines; a row that is bytes is taken as it is."""
    lines = [row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows]
    return b"".join(line + b"\n" for line in lines)


def write_images(folder: Path, count: int, *, width: int = 48, height: int = 32) -> list[str]:
    """Write `count` pictures into `folder`; their names, relative to its parent."""
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        (folder / f"{index}.png").write_bytes(png(width, height, seed=index))
    return [f"{folder.name}/{index}.png" for index in range(count)]


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
