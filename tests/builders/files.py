"""A minimal safetensors writer and reader, apart from the one under test.

Called by every builder, and by tests that read a result without the code that wrote it. The
format: 8 bytes of header length (little endian), a JSON header padded with spaces to 8 bytes,
then the tensors' bytes without gaps. It must not import the package under test.
"""

import json
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .numbers import Floats, bf16_to_float32, e4m3_to_float32, float32_to_bf16
from .shapes import Shape

WIDTHS: dict[str, int] = {
    "BF16": 2, "F16": 2, "F32": 4, "F8_E4M3": 1, "U8": 1, "I32": 4, "I64": 8
}  # fmt: skip
INDEX = "model.safetensors.index.json"


class Tensor(NamedTuple):
    """A tensor as it lies on disk."""

    dtype: str
    shape: Shape
    data: bytes


def encode(values: Floats, dtype: str) -> Tensor:
    """`values` in 'BF16', 'F16' or 'F32'."""
    shape = tuple(int(length) for length in values.shape)
    if dtype == "BF16":
        return Tensor(dtype, shape, float32_to_bf16(values).tobytes())
    kind = {"F16": np.float16, "F32": np.float32}[dtype]
    return Tensor(dtype, shape, values.astype(kind).tobytes())


def as_float32(tensor: Tensor) -> Floats:
    """The values of a BF16, F16, F32 or F8_E4M3 tensor."""
    if tensor.dtype == "BF16":
        values = bf16_to_float32(np.frombuffer(tensor.data, dtype=np.uint16))
    elif tensor.dtype == "F8_E4M3":
        values = e4m3_to_float32(np.frombuffer(tensor.data, dtype=np.uint8))
    else:
        kind = {"F16": np.float16, "F32": np.float32}[tensor.dtype]
        values = np.frombuffer(tensor.data, dtype=kind).astype(np.float32)
    return values.reshape(tensor.shape)


def header(layout: Mapping[str, tuple[str, Shape]]) -> bytes:
    """Length and JSON header of a file that holds `{name: (dtype, shape)}` in this order."""
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, (dtype, shape) in layout.items():
        end = offset + prod(shape) * WIDTHS[dtype]
        entries[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def write_safetensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write one file; the tensors lie in the mapping's order."""
    with path.open("wb") as file:
        file.write(header({name: (one.dtype, one.shape) for name, one in tensors.items()}))
        for one in tensors.values():
            file.write(one.data)


def shard_names(number: int) -> list[str]:
    """File names of a checkpoint of `number` shards."""
    if number == 1:
        return ["model.safetensors"]
    return [f"model-{index:05d}-of-{number:05d}.safetensors" for index in range(1, number + 1)]


def write_index(directory: Path, shards: Sequence[Sequence[str]], total_size: int) -> None:
    """The index of a checkpoint of several shards; one file needs none."""
    if len(shards) == 1:
        return
    files = zip(shard_names(len(shards)), shards, strict=True)
    weight_map = {name: file for file, names in files for name in names}
    text = json.dumps({"metadata": {"total_size": total_size}, "weight_map": weight_map}, indent=1)
    (directory / INDEX).write_text(text)


def read_header(path: Path) -> tuple[dict[str, Any], int]:
    """A file's entries by tensor name, and the offset at which its data begins."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        entries = json.loads(file.read(length))
    entries.pop("__metadata__", None)
    return entries, 8 + length


def read_file(path: Path) -> dict[str, Tensor]:
    """All tensors of one file."""
    entries, start = read_header(path)
    data = path.read_bytes()[start:]
    return {
        name: Tensor(entry["dtype"], tuple(entry["shape"]), data[slice(*entry["data_offsets"])])
        for name, entry in entries.items()
    }


def read_checkpoint(directory: Path) -> dict[str, Tensor]:
    """All tensors of all `*.safetensors` files of `directory`."""
    out: dict[str, Tensor] = {}
    for path in sorted(directory.glob("*.safetensors")):
        out |= read_file(path)
    return out


def shard_of(directory: Path, tensor: str) -> Path:
    """The file that holds `tensor`; KeyError when none does."""
    for path in sorted(directory.glob("*.safetensors")):
        if tensor in read_header(path)[0]:
            return path
    raise KeyError(tensor)
