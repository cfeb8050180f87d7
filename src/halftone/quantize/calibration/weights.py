"""Which stored tensor fills which parameter of the model, and how its numbers are read.

Called by `measuring`, a sweep and `streaming`. Names on disk become names of modules as
transformers renames them when it loads a model; stacked experts are taken apart; FP8 sources are
dequantized as the engine does it.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

import torch
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

from halftone.plan.tensors import LogicalTensor
from halftone.quantize.tiles import TileReader, tiles_of
from halftone.spec.dtypes import Dtype

_TORCH: Final = {
    Dtype.BOOL: torch.bool,
    Dtype.U8: torch.uint8,
    Dtype.I8: torch.int8,
    Dtype.I16: torch.int16,
    Dtype.I32: torch.int32,
    Dtype.I64: torch.int64,
    Dtype.F16: torch.float16,
    Dtype.BF16: torch.bfloat16,
    Dtype.F32: torch.float32,
    Dtype.F64: torch.float64,
}
_EXPERT: Final = re.compile(r"\.experts\.([0-9]+)\.")
# What transformers stacks, in which order, and what llm-compressor calls the parts.
_STACKED: Final = {"gate_up_proj": ("gate_proj", "up_proj"), "down_proj": ("down_proj",)}
# One read of a remote source; a store asks again for a piece that did not arrive, not for a layer.
_PIECE_BYTES: Final = 64 * 2**20


class Names:
    """From names on disk to names in the model."""

    def __init__(self, module: Any) -> None:
        self._known = module.state_dict(keep_vars=True)
        self._prefix = module.base_model_prefix
        mapping = get_model_conversion_mapping(module)
        self._renamings = [entry for entry in mapping if isinstance(entry, WeightRenaming)]
        self._converters = [entry for entry in mapping if isinstance(entry, WeightConverter)]

    def in_model(self, name: str) -> str | None:
        """The parameter or buffer that the stored tensor `name` fills; None when there is none."""
        for renamings in (self._renamings, []):
            found, _ = rename_source_key(name, renamings, [], self._prefix, self._known)
            found = self._of_expert(found)
            if found in self._known:
                return found
        return None

    def _of_expert(self, name: str) -> str:
        """The name in the model of one expert's matrix, which transformers would stack."""
        number = _EXPERT.search(name)
        if name in self._known or number is None:
            return name
        for converter in self._converters:
            stack, source = converter.rename_source_key(name)
            parent, _, stacked = stack.rpartition(".")
            if source is not None and stacked in _STACKED:
                place = converter.source_patterns.index(source)
                return f"{parent}.{number[1]}.{_STACKED[stacked][place]}.weight"
        return name


def stored_tensors(
    tensors: tuple[LogicalTensor, ...], names: Names
) -> Iterator[tuple[str, LogicalTensor]]:
    """Names in the model, and the stored tensor that fills each."""
    for tensor in tensors:
        for part in _apart(tensor):
            name = names.in_model(part.name)
            if name is not None:
                yield name, part


def _apart(tensor: LogicalTensor) -> Iterator[LogicalTensor]:
    """The matrices of stacked experts that the plan keeps as they are, else the tensor itself."""
    parts = tensor.row.stacked if tensor.row is not None else ()
    if not parts or len(tensor.shape) != 3:
        yield tensor
        return
    experts, all_rows, columns = tensor.shape
    rows = all_rows // len(parts)
    nbytes = tensor.source_bytes // (experts * len(parts))
    parent = tensor.name.rpartition(".")[0]
    for number in range(experts * len(parts)):
        expert, part = divmod(number, len(parts))
        yield tensor._replace(
            name=f"{parent}.{expert}.{parts[part]}.weight",
            shape=(rows, columns),
            offset=tensor.offset + number * nbytes,
            source_bytes=nbytes,
        )


def read_tensor(reader: TileReader, tensor: LogicalTensor, dtype: Any) -> Any:
    """The numbers of `tensor` in its shape, on the CPU, as torch's `dtype`.

    Raises what the store raises.
    """
    if tensor.scale is not None:
        return _dequantized(reader, tensor).to(dtype)
    stored = _TORCH[tensor.dtype]
    found = torch.empty(tensor.shape, dtype=stored)
    flat = found.reshape(-1).view(torch.uint8).numpy()
    for begin in range(0, tensor.source_bytes, _PIECE_BYTES):
        reader.read_bytes(tensor, begin, flat[begin : begin + _PIECE_BYTES])
    return found.to(dtype)


def _dequantized(reader: TileReader, tensor: LogicalTensor) -> Any:
    """An FP8 matrix with its scales applied, BF16."""
    found = torch.empty(tensor.shape, dtype=torch.bfloat16)
    bits = found.view(torch.uint16).numpy()
    for tile in tiles_of(tensor):
        bits[tile.start : tile.start + tile.rows] = reader.read(tile)
    reader.forget((tensor,))
    return found


def misfit(
    known: Mapping[str, Any], stored: Mapping[str, LogicalTensor], wanted: Iterable[str]
) -> tuple[str, str] | None:
    """The first of `wanted` that no stored tensor fills, or one of another shape; and why."""
    for name in wanted:
        tensor = stored.get(name)
        if tensor is None:
            return name, "no tensor of the source fills it"
        if tuple(known[name].shape) != tensor.shape:
            shape = list(known[name].shape)
            return name, f"it has the shape {shape}, and `{tensor.name}` has {list(tensor.shape)}"
    return None
