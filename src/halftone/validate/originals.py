"""The weights that a checkpoint was made of, found by the checkpoint's names.

A source may stack its experts in 3-D where the checkpoint has them one by one, lie under another
prefix, or be FP8 itself; then the checkpoint is held against the dequantized source, rounded to
BF16 as the engine reads it. Called by `halftone.validate.weight_error`.
"""

from collections.abc import Collection
from threading import Lock
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from halftone.checkpoint.architectures.table import Architecture
from halftone.checkpoint.headers import TensorEntry
from halftone.checkpoint.index import Checkpoint
from halftone.checkpoint.scratch import Bytes, Scratch
from halftone.checkpoint.stored_weights import (
    as_weights,
    dequantize_blocks,
    dequantize_rows,
    read_scales,
)
from halftone.plan.sources import refuse_packed, source_scales, stale_tensors
from halftone.plan.tensors import ScaleKind, SourceScale, refuse_unbounded
from halftone.spec.dtypes import FULL_PRECISION, Dtype
from halftone.spec.files import FileSource
from halftone.spec.roles import Role

Weights = NDArray[np.uint16] | NDArray[np.float32]


class Original(NamedTuple):
    """One tensor of the source, or one expert's part of a stacked one. `offset` is in the file."""

    name: str
    file: str
    offset: int
    dtype: Dtype
    shape: tuple[int, ...]
    scale: SourceScale | None

    @property
    def row_bytes(self) -> int:
        """Bytes of one row in the source."""
        return self.dtype.nbytes(self.shape[1:])


class Originals:
    """All tensors of a source by their canonical names, with readers. Safe for several threads."""

    def __init__(self, checkpoint: Checkpoint, architecture: Architecture) -> None:
        refuse_packed(checkpoint)
        self.source: FileSource = checkpoint.source
        self._scratch = Scratch()
        self._guard = Lock()
        self._scale_values: dict[str, NDArray[np.float32]] = {}
        scales = source_scales(checkpoint)
        self._found: dict[str, Original] = {}
        # Each tensor of the source, or the names of its parts where it may be taken apart.
        self._parts: dict[str, tuple[str, ...]] = {}
        encoding = {scale.entry.name for scale in scales.values()}
        encoding |= stale_tensors(checkpoint) if scales else set()
        for entry in checkpoint.tensors.values():
            place = architecture.place(entry.name)
            if entry.name not in encoding and place.role is not Role.MultiTokenPrediction:
                self._parts[canonical(entry.name)] = ()
            if place.row is not None and place.row.stacked and len(entry.shape) == 3:
                refuse_unbounded(entry, place.row, checkpoint.config, len(self._found))
                self._take_apart(entry, place.row.stacked)
            elif entry.dtype in FULL_PRECISION or entry.name in scales:
                self._found[canonical(entry.name)] = Original(
                    entry.name,
                    entry.file,
                    entry.offset,
                    entry.dtype,
                    entry.shape,
                    scales.get(entry.name),
                )

    def find(self, tensor: str) -> Original | None:
        """The original of the checkpoint's tensor called `tensor`."""
        return self._found.get(canonical(tensor))

    def lost(self, present: Collection[str]) -> list[str]:
        """Tensors of the source that none of the canonical names `present` stands for.

        A multi-token-prediction head may be dropped on purpose, so it is not asked for here.
        """
        return [
            name
            for name, parts in self._parts.items()
            if name not in present and not (parts and all(part in present for part in parts))
        ]

    def rows(self, original: Original, start: int, count: int) -> Weights:
        """Rows as BF16 bits or float32; valid until this thread reads again.

        `start` is a multiple of the block's rows where the source is FP8 in blocks.
        """
        nbytes = count * original.row_bytes
        raw = self._scratch.take("raw", nbytes)
        offset = original.offset + start * original.row_bytes
        self.source.read_into(original.file, offset, raw.data)
        shape = (count, *original.shape[1:])
        if original.scale is not None:
            return self._dequantized(original, original.scale, start, raw.reshape(shape))
        return as_weights(original.dtype, raw, shape, self._scratch)

    def _take_apart(self, entry: TensorEntry, parts: tuple[str, ...]) -> None:
        """`[experts, parts * rows, columns]`: each expert's part by the name that servers use."""
        experts, all_rows, columns = entry.shape
        rows = all_rows // len(parts)
        if rows * len(parts) != all_rows or entry.dtype not in FULL_PRECISION:
            return
        parent, nbytes = entry.name.rpartition(".")[0], entry.dtype.nbytes((rows, columns))
        offset = entry.offset
        self._parts[canonical(entry.name)] = tuple(
            canonical(f"{parent}.{expert}.{part}.weight")
            for expert in range(experts)
            for part in parts
        )
        for expert in range(experts):
            for part in parts:
                name = f"{parent}.{expert}.{part}.weight"
                self._found[canonical(name)] = Original(
                    entry.name, entry.file, offset, entry.dtype, (rows, columns), None
                )
                offset += nbytes
        self._found[canonical(entry.name)] = Original(
            entry.name, entry.file, entry.offset, entry.dtype, entry.shape, None
        )

    def _dequantized(
        self, original: Original, scale: SourceScale, start: int, codes: Bytes
    ) -> NDArray[np.uint16]:
        out = self._scratch.take("bf16", codes.size * 2).view(np.uint16).reshape(codes.shape)
        values = self._values(scale)
        if scale.kind is ScaleKind.Block:
            dequantize_blocks(codes, values, start, scale.block, out)
        else:
            dequantize_rows(codes, values, start, out)
        return out

    def _values(self, scale: SourceScale) -> NDArray[np.float32]:
        entry = scale.entry
        with self._guard:
            known = self._scale_values.get(entry.name)
        if known is None:
            known = read_scales(self.source, entry)
            with self._guard:
                self._scale_values[entry.name] = known
        return known


def canonical(tensor: str) -> str:
    """The name without what multimodal repositories put in front of the language model."""
    if tensor.startswith("model.language_model."):
        return "model." + tensor.removeprefix("model.language_model.")
    return tensor
