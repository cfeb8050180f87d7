"""The exact bytes of the output, before any weight is read: shards, headers and offsets.

Rules, all deterministic and independent of how the source is sharded:
- the unit of work, and of what may not be torn apart, is a fused group (or a single tensor);
- units go to shards in natural order of their names, up to `MAX_SHARD_BYTES` of data;
- inside a shard, wider dtypes come first and small tensors before large ones. So every tensor
  is aligned to its dtype although safetensors allows no padding, and all global scales (F32) lie
  together right behind the header, where `inspect` reads them with one request.
"""

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Final, NamedTuple

from halftone.checkpoint.headers import serialize_header
from halftone.plan.tensors import LogicalTensor
from halftone.spec.documents import OutputRow, sha256_hex
from halftone.spec.dtypes import Dtype
from halftone.spec.errors import RefusedInput
from halftone.spec.formats import CheckpointFormat, Format, stored_tensors
from halftone.spec.names import SINGLE_SHARD_FILE, Reason

# 4 GB is a compromise: what a kill costs at most, against the number of files on the Hub.
MAX_SHARD_BYTES: Final = 4_000_000_000
SMALL_BYTES: Final = 65_536
_DIGITS = re.compile(r"(\d+)")


class StoredPart(NamedTuple):
    """One tensor that will be stored."""

    name: str
    dtype: Dtype
    shape: tuple[int, ...]
    nbytes: int


class Unit(NamedTuple):
    """A fused group, or one tensor: read, quantized and written as a whole.

    `parts[i]` are what `members[i]` is stored as, in the order of its format's table; a unit
    without members holds scales that calibration will fill in.
    """

    name: str
    format: Format | None
    members: tuple[LogicalTensor, ...]
    parts: tuple[tuple[StoredPart, ...], ...]
    nbytes: int  # of all parts


class OutputShard(NamedTuple):
    """One shard: its header as it will be written, and where each tensor goes."""

    file: str
    header: bytes
    rows: tuple[OutputRow, ...]
    units: tuple[Unit, ...]

    @property
    def size_bytes(self) -> int:
        """Size of the file."""
        return len(self.header) + (self.rows[-1].end if self.rows else 0)

    @property
    def header_sha256(self) -> str:
        """Digest of the length word and the JSON."""
        return sha256_hex(self.header)

    def offsets(self) -> dict[str, int]:
        """Absolute offset of each tensor in the file."""
        return {row.name: len(self.header) + row.begin for row in self.rows}


def lay_out(
    tensors: Sequence[LogicalTensor],
    kv_scales: Sequence[StoredPart] = (),
    max_shard_bytes: int = MAX_SHARD_BYTES,
    layout: CheckpointFormat = CheckpointFormat.CompressedTensors,
) -> tuple[OutputShard, ...]:
    """Shards for `tensors` and `kv_scales`; the same input gives the same bytes anywhere."""
    units = list(_units(tensors, layout))
    units += (Unit(s.name, None, (), ((s,),), s.nbytes) for s in kv_scales)
    # `a.1` and `a.01` have one key: their names decide, not the order of the source's shards.
    units.sort(key=lambda unit: (natural_key(unit.name), unit.name))
    filled: list[list[Unit]] = [[]]
    used = 0
    for unit in units:
        if filled[-1] and used + unit.nbytes > max_shard_bytes:
            filled.append([])
            used = 0
        filled[-1].append(unit)
        used += unit.nbytes
    names = shard_names(len(filled))
    return tuple(_shard(name, units) for name, units in zip(names, filled, strict=True))


def shard_names(count: int) -> list[str]:
    """`model.safetensors`, or `model-00001-of-00007.safetensors` and so on."""
    if count == 1:
        return [SINGLE_SHARD_FILE]
    return [f"model-{n:05d}-of-{count:05d}.safetensors" for n in range(1, count + 1)]


def natural_key(name: str) -> list[str | int]:
    """Sort key under which layer 2 comes before layer 10."""
    parts = _DIGITS.split(name)
    return [int(part) if i % 2 else part for i, part in enumerate(parts)]


def _units(tensors: Sequence[LogicalTensor], layout: CheckpointFormat) -> Iterable[Unit]:
    grouped: dict[str, list[LogicalTensor]] = {}
    for tensor in tensors:
        fused = tensor.format is not None and tensor.group is not None
        name = tensor.group if fused and tensor.group else tensor.name
        others = grouped.setdefault(name, [])
        if others and not (fused and others[0].group == name):
            raise RefusedInput(
                Reason.MalformedCheckpoint,
                name,
                f"The source holds a tensor `{name}`, which is the name of what a server makes of "
                "its neighbours; remove that tensor from the source.",
            )
        others.append(tensor)
    for name, members in grouped.items():
        members.sort(key=lambda m: m.name)
        parts = tuple(_stored_parts(member, layout) for member in members)
        nbytes = sum(part.nbytes for stored in parts for part in stored)
        yield Unit(name, members[0].format, tuple(members), parts, nbytes)


def _stored_parts(tensor: LogicalTensor, layout: CheckpointFormat) -> tuple[StoredPart, ...]:
    """What `tensor` is stored as: itself, or its format's tensors."""
    if tensor.format is None:
        return (StoredPart(tensor.name, tensor.dtype, tensor.shape, tensor.kept_bytes),)
    module = tensor.name.removesuffix("weight")
    return tuple(
        StoredPart(module + suffix, dtype, shape, nbytes)
        for suffix, dtype, shape, nbytes in _stored(tensor.format, layout, tensor.shape)
    )


@lru_cache(maxsize=1024)  # 30,000 experts have two shapes between them
def _stored(
    fmt: Format, layout: CheckpointFormat, shape: tuple[int, ...]
) -> tuple[StoredPart, ...]:
    rows, columns = shape
    shapes = [(stored, stored.shape(rows, columns)) for stored in stored_tensors(fmt, layout)]
    return tuple(
        StoredPart(s.suffix, s.dtype, s_shape, s.dtype.nbytes(s_shape)) for s, s_shape in shapes
    )


def _shard(file: str, units: list[Unit]) -> OutputShard:
    parts = [part for unit in units for stored in unit.parts for part in stored]
    # `sort` is stable: inside a class the order of the units, that is of the model, stays.
    parts.sort(key=lambda part: (-part.dtype.bits, part.nbytes > SMALL_BYTES))
    rows = []
    begin = 0
    for part in parts:
        end = begin + part.nbytes
        rows.append(OutputRow(file, part.name, part.dtype, part.shape, begin, end))
        begin = end
    header = serialize_header(
        ((r.name, r.dtype, r.shape, r.begin, r.end) for r in rows), {"format": "pt"}
    )
    return OutputShard(file, header, tuple(rows), tuple(units))
