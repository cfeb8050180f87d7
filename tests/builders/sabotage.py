"""Ways to ruin a quantized checkpoint that still loads: what gates exist to catch.

Each function changes a compressed-tensors checkpoint in place, keeps every name, dtype and shape,
and says in its name what is wrong afterwards. `damage.py` makes files that cannot be read;
these can.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .files import Tensor, as_float32, encode, read_header, shard_of


def double_global_scale(directory: Path, modules: Sequence[str]) -> None:
    """Halve every weight of `modules`: the stored scale is a divisor."""
    for module in modules:
        rewrite(directory, f"{module}.weight_global_scale", _doubled)


def _doubled(data: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return (data.view("<f4") * np.float32(2)).view(np.uint8)


def swap_nibbles(directory: Path, module: str) -> None:
    """Exchange each weight with its neighbour, as a packer with the other order would."""
    rewrite(directory, f"{module}.weight_packed", lambda d: ((d >> 4) | (d << 4)).astype(np.uint8))


def zero_row(directory: Path, tensor: str, row: int) -> None:
    """Make one row of a two-dimensional tensor zero."""
    shape = shape_of(directory, tensor)

    def zeroed(data: NDArray[np.uint8]) -> NDArray[np.uint8]:
        data.reshape(shape[0], -1)[row] = 0
        return data

    rewrite(directory, tensor, zeroed)


def exchange(directory: Path, one: str, other: str) -> None:
    """Give two tensors of one dtype and shape each other's bytes."""
    first, second = _read(directory, one), _read(directory, other)
    rewrite(directory, one, lambda _: second)
    rewrite(directory, other, lambda _: first)


def reverse_rows(directory: Path, tensor: str) -> None:
    """Turn a matrix upside down, as a router with its experts in another order would be."""
    shape = shape_of(directory, tensor)
    rewrite(directory, tensor, lambda d: d.reshape(shape[0], -1)[::-1].reshape(-1).copy())


def round_to_two_bits(directory: Path, tensor: str) -> None:
    """Round every row of a plain matrix to four levels, -1, -1/3, 1/3 and 1 times its maximum."""
    path = shard_of(directory, tensor)
    entries, _ = read_header(path)
    dtype, shape = entries[tensor]["dtype"], tuple(entries[tensor]["shape"])

    def rounded(data: NDArray[np.uint8]) -> NDArray[np.uint8]:
        values = as_float32(Tensor(dtype, shape, data.tobytes())).reshape(shape)
        top = np.abs(values).max(axis=-1, keepdims=True)
        top[top == 0] = 1
        levels = np.clip(np.round((values / top * 3 - 1) / 2), -2, 1) * 2 + 1
        coarse = (levels / 3 * top).astype(np.float32)
        return np.frombuffer(encode(coarse, dtype).data, np.uint8)

    rewrite(directory, tensor, rounded)


def shape_of(directory: Path, tensor: str) -> tuple[int, ...]:
    """The stored shape of a tensor."""
    entries, _ = read_header(shard_of(directory, tensor))
    return tuple(entries[tensor]["shape"])


def rewrite(
    directory: Path, tensor: str, change: Callable[[NDArray[np.uint8]], NDArray[np.uint8]]
) -> None:
    """Replace a tensor's bytes by `change` of them, which must be as many."""
    path = shard_of(directory, tensor)
    entries, start = read_header(path)
    begin, end = entries[tensor]["data_offsets"]
    before = np.frombuffer(path.read_bytes()[start + begin : start + end], np.uint8).copy()
    after = change(before).tobytes()
    assert len(after) == end - begin
    with path.open("r+b") as file:
        file.seek(start + begin)
        file.write(after)


def _read(directory: Path, tensor: str) -> NDArray[np.uint8]:
    path = shard_of(directory, tensor)
    entries, start = read_header(path)
    begin, end = entries[tensor]["data_offsets"]
    return np.frombuffer(path.read_bytes()[start + begin : start + end], np.uint8).copy()


def multiply(directory: Path, names: Sequence[str], factor: float) -> None:
    """Multiply scales that are stored as F32 or BF16, exactly where `factor` is a power of two."""
    for name in names:
        entries, _ = read_header(shard_of(directory, name))
        dtype, shape = entries[name]["dtype"], tuple(entries[name]["shape"])

        def scaled(
            data: NDArray[np.uint8], dtype: str = dtype, shape: tuple[int, ...] = shape
        ) -> NDArray[np.uint8]:
            values = as_float32(Tensor(dtype, shape, data.tobytes())) * np.float32(factor)
            return np.frombuffer(encode(np.asarray(values, np.float32), dtype).data, np.uint8)

        rewrite(directory, name, scaled)
