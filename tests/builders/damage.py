"""Ways to spoil a checkpoint that was written well.

Called by tests of refusals and of `inspect`. Each function changes files in place and says in its
name what is wrong afterwards. Malformed headers are not made here: tests of the header reader
write those bytes themselves.
"""

import json
import os
import pickle
from pathlib import Path

import numpy as np

from .files import (
    INDEX,
    Tensor,
    as_float32,
    encode,
    read_file,
    read_header,
    shard_of,
    write_safetensors,
)


def truncate_shard(directory: Path, tensor: str, missing_bytes: int = 1) -> Path:
    """Cut the end off the shard that holds `tensor`; return the shard."""
    path = shard_of(directory, tensor)
    os.truncate(path, path.stat().st_size - missing_bytes)
    return path


def set_value(directory: Path, tensor: str, value: float, position: int = -1) -> None:
    """Set one element (flat `position`) of a BF16, F16 or F32 tensor, NaN and infinity included."""
    path, offset, stored = _locate(directory, tensor)
    values = as_float32(stored).reshape(-1).copy()
    values[position] = value
    _overwrite(path, offset, encode(values, stored.dtype).data)


def fill(directory: Path, tensor: str, value: float = 0.0) -> None:
    """Set every element of a tensor."""
    path, offset, stored = _locate(directory, tensor)
    values = np.full(stored.shape, value, dtype=np.float32)
    _overwrite(path, offset, encode(values, stored.dtype).data)


def drop_tensors(directory: Path, fragment: str) -> list[str]:
    """Remove every tensor with `fragment` in its name from shards and index; return their names.

    `drop_tensors(directory, "mtp.")` leaves a promise in `config.json` that nothing keeps.
    """
    dropped: list[str] = []
    for path in sorted(directory.glob("*.safetensors")):
        tensors = read_file(path)
        gone = [name for name in tensors if fragment in name]
        if not gone:
            continue
        dropped += gone
        rest = {name: one for name, one in tensors.items() if name not in gone}
        write_safetensors(path, rest) if rest else path.unlink()
    index = directory / INDEX
    if index.exists():
        document = json.loads(index.read_text())
        for name in dropped:
            del document["weight_map"][name]
        index.write_text(json.dumps(document, indent=1))
    return dropped


def keep_only_a_pickle(directory: Path) -> Path:
    """Replace the safetensors files by a `pytorch_model.bin`; return it."""
    for path in [*directory.glob("*.safetensors"), directory / INDEX]:
        path.unlink(missing_ok=True)
    path = directory / "pytorch_model.bin"
    path.write_bytes(pickle.dumps({"model.embed_tokens.weight": [0.0, 1.0]}))
    return path


def _locate(directory: Path, tensor: str) -> tuple[Path, int, Tensor]:
    path = shard_of(directory, tensor)
    entries, start = read_header(path)
    begin, end = entries[tensor]["data_offsets"]
    data = path.read_bytes()[start + begin : start + end]
    stored = Tensor(entries[tensor]["dtype"], tuple(entries[tensor]["shape"]), data)
    return path, start + begin, stored


def _overwrite(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)
