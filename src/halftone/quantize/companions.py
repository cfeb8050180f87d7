"""The files beside the weights: carried over byte for byte, or written as readable JSON."""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from halftone.spec.files import FileSource

_CHUNK: Final = 8 * 2**20


def write_json(path: Path, value: dict[str, Any]) -> None:
    """`value` as people and other tools expect it: indented, in the order given; flushed.

    Raises ValueError for NaN and infinities, which strict readers of JSON refuse.
    """
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    with path.open("wb") as file:
        file.write(text.encode())
        file.flush()
        os.fsync(file.fileno())


def carry_over(source: FileSource, names: Iterable[str], target: Path) -> None:
    """Copy the named top-level files of `source` into `target`, in chunks; flushed."""
    sizes = {entry.path: entry.size_bytes for entry in source.files()}
    for name in names:
        with (target / name).open("wb") as file:
            for offset in range(0, sizes[name], _CHUNK):
                length = min(_CHUNK, sizes[name] - offset)
                file.write(source.read_range(name, offset, length))
            file.flush()
            os.fsync(file.fileno())
