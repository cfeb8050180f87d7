"""One role of one layer in one format, for a while: weights from our kernels, inputs rounded.

Called by `sequence`. The model's own weights are put back when a variant is left. Beside the layer
itself one role of it is in memory.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

import numpy as np
import torch

from halftone.plan.tensors import LogicalTensor
from halftone.quantize import kernels
from halftone.quantize.kernels import Weights
from halftone.quantize.sweep.measuring.activations import activation_rounding
from halftone.quantize.sweep.rounding import WeightRounder
from halftone.quantize.sweep.sampling import Unit
from halftone.quantize.sweep.weight_errors import is_bfloat16
from halftone.spec.dtypes import Dtype
from halftone.spec.formats import FP8_BLOCK_SIDE, Format

# Encoded at once: a multiple of 128 rows, so that blocks fall as they do when a file is written.
_ROWS: Final = 8 * FP8_BLOCK_SIDE


class Placed(NamedTuple):
    """A unit and, for each member in order, the linear module that has its weights."""

    unit: Unit
    modules: tuple[Any, ...]


@contextmanager
def variant(
    placed: Sequence[Placed], fmt: Format, rounder: WeightRounder, amax: Mapping[str, float]
) -> Iterator[None]:
    """`placed` in `fmt`; `amax` has by unit the largest magnitude that entered its input group."""
    originals: list[tuple[Any, Any]] = []
    handles: list[Any] = []
    try:
        for one in placed:
            maximum = max(_amax(module, member) for module, member in _members(one))
            rounding = activation_rounding(fmt, amax.get(one.unit.name))
            for module, member in _members(one):
                weight = _encoded(module, member, fmt, maximum, is_bfloat16(one.unit), rounder)
                originals.append((module, module.weight))
                module._parameters["weight"] = torch.nn.Parameter(weight, requires_grad=False)
                if rounding is not None:
                    handles.append(module.register_forward_pre_hook(_hook(rounding)))
        yield
    finally:
        for handle in handles:
            handle.remove()
        for module, weight in originals:
            module._parameters["weight"] = weight


def _members(placed: Placed) -> Iterator[tuple[Any, LogicalTensor]]:
    return zip(placed.modules, placed.unit.members, strict=True)


def _hook(rounding: Any) -> Any:
    def round_input(_: Any, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        return (rounding(arguments[0]), *arguments[1:])

    return round_input


def _amax(module: Any, member: LogicalTensor) -> float:
    return max(kernels.amax(tile) for _, tile in _tiles(module, member))


def _encoded(
    module: Any,
    member: LogicalTensor,
    fmt: Format,
    maximum: float,
    bfloat16: bool,
    rounder: WeightRounder,
) -> Any:
    """The weights of `module` as a server dequantizes them, float32, where the module's are."""
    made = torch.empty(member.shape, dtype=torch.float32)
    rows = made.numpy()
    for start, tile in _tiles(module, member):
        rounder.round(fmt, tile, maximum, bfloat16, rows[start : start + len(tile)])
    return made.to(module.weight.device)


def _tiles(module: Any, member: LogicalTensor) -> Iterator[tuple[int, Weights]]:
    """The weights of `module` (float32) as the kernels saw them in the source.

    BF16 sources, and FP8 ones, which are read as BF16, give their own bits: widening lost nothing.
    """
    for start in range(0, member.shape[0], _ROWS):
        part = module.weight[start : start + _ROWS].detach().cpu().contiguous().numpy()
        if member.dtype is Dtype.BF16:
            yield start, (part.view(np.uint32) >> np.uint32(16)).astype(np.uint16)
        else:
            yield start, part
