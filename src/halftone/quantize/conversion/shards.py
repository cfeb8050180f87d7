"""The shards of a converted checkpoint: one for each of the source's, with the tensors in it.

Called by `converting`. Memory is one span, whatever the size of a shard or of a matrix.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, Protocol

from halftone.checkpoint.headers import serialize_header
from halftone.plan.layout import SMALL_BYTES, natural_key, shard_names
from halftone.quantize.conversion.source import QuantizedSource
from halftone.quantize.conversion.spans import SPAN_BYTES, spans_of
from halftone.quantize.conversion.steps import Action, Step, apply
from halftone.quantize.storage import storage_errors
from halftone.spec.errors import RefusedInput
from halftone.spec.files import FileSource
from halftone.spec.names import Reason


class Progress(Protocol):
    """Who wants to know how far the work is."""

    def advance(self, nbytes: int) -> None:
        """So many bytes of the source's tensors are done."""


@dataclass(frozen=True)
class Shards:
    """What was written: `index` is the index's content, `nearest` the scales that are not exact."""

    names: list[str]
    index: dict[str, Any]
    nearest: list[str]


def write_shards(
    source: QuantizedSource,
    steps: dict[str, Step],
    staged: Path,
    output: Path,
    progress: Progress,
) -> Shards:
    """One shard for each of the source's, with the tensors that lie in it."""
    headers = source.checkpoint.shards
    names = shard_names(len(headers))
    written = {
        steps[tensor].name: name
        for name, header in zip(names, headers, strict=True)
        for tensor in header.tensors
    }
    total = sum(step.nbytes for step in steps.values())
    index = {
        "metadata": {"total_size": total},
        "weight_map": dict(sorted(written.items())),
    }
    nearest = []
    for name, header in zip(names, headers, strict=True):
        ordered = sorted(header.tensors.values(), key=lambda entry: entry.offset)
        own = [steps[entry.name] for entry in ordered]
        with storage_errors(output), (staged / name).open("wb") as file:
            nearest += _write_shard(source.checkpoint.source, own, file.fileno(), progress)
            os.fsync(file.fileno())
    return Shards(names, index, nearest)


def _write_shard(
    source: FileSource, steps: list[Step], descriptor: int, progress: Progress
) -> list[str]:
    """Write header and tensors; returns the names of scales that are the nearest and not exact."""
    rows, begin = [], 0
    for step in sorted(steps, key=_place):
        rows.append((step.name, step.dtype, step.shape, begin, begin + step.nbytes))
        begin += step.nbytes
    header = serialize_header(rows, {"format": "pt"})
    os.ftruncate(descriptor, len(header) + begin)
    _write_at(descriptor, 0, memoryview(header))
    places = {row[0]: len(header) + row[3] for row in rows}
    nearest = []
    by_name = {step.source.name: step for step in steps}
    for piece in spans_of(source, [step.source for step in steps]):
        step = by_name[piece.entry.name]
        if piece.is_part and step.action is not Action.Copy:
            _refuse_long(step)
        data, exact = apply(step, piece.data)
        _write_at(descriptor, places[step.name] + piece.begin, data.data)
        progress.advance(piece.data.nbytes)
        if not exact:
            nearest.append(step.name)
    return nearest


def _place(step: Step) -> tuple[Any, ...]:
    """Where `step` stands in its shard: as in those that `halftone.plan.layout` lays out."""
    order = natural_key(step.unit), step.member, step.place
    return (-step.dtype.bits, step.nbytes > SMALL_BYTES, *order)


def _refuse_long(step: Step) -> NoReturn:
    raise RefusedInput(
        Reason.NotSupported,
        step.source.name,
        f"`{step.source.name}` has {step.source.nbytes:,} bytes of scales, more than any matrix "
        f"needs ({SPAN_BYTES:,}); look at the checkpoint with `halftone inspect`.",
    )


def _write_at(descriptor: int, position: int, view: memoryview) -> None:
    while view:
        written = os.pwrite(descriptor, view, position)
        view, position = view[written:], position + written
