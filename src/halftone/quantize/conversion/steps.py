"""What becomes of each stored tensor: its new name, dtype and shape, and what its bytes go through.

Every tensor is converted by itself, whatever shard it lies in, so the work streams; `settling`
looks at the few whose numbers decide. `converting` asks for the steps, from headers alone, and
`shards` applies them. Codes and NVFP4's block scales are always copied.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from math import prod
from typing import Final

import numpy as np

from halftone.checkpoint.headers import TensorEntry
from halftone.checkpoint.scratch import Bytes
from halftone.checkpoint.serving_limits import modelopt_block_obstacle
from halftone.checkpoint.stored_weights import as_float32
from halftone.plan.kv_scales import kv_scales
from halftone.quantize.conversion.inversion import Floats, divisors_of, multipliers_of
from halftone.quantize.conversion.source import CACHE_SCALES, QuantizedSource, matrix_shape
from halftone.spec.dtypes import FULL_PRECISION, Dtype
from halftone.spec.errors import RefusedInput
from halftone.spec.formats import (
    FORMATS,
    CheckpointFormat,
    Format,
    Part,
    StoredTensor,
    stored_tensors,
)
from halftone.spec.names import Reason

# Which of a format's scales are divisors in compressed-tensors' layout.
_DIVISORS: Final = {
    Format.NVFP4A16: {Part.GlobalScale},
    Format.NVFP4: {Part.GlobalScale, Part.InputScale},
}


class Action(StrEnum):
    """What the bytes of a tensor go through."""

    Copy = "Copy"
    Cast = "Cast"  # another floating dtype, the same numbers
    Multiplier = "Multiplier"  # from divisors
    Divisor = "Divisor"  # from multipliers


@dataclass(frozen=True, slots=True)
class Step:
    """One tensor of the source, and the tensor that it becomes.

    `unit`, `member` and `place` say where it stands among others: a server's merged matrix, the
    matrix in it, and which of the tensors that its format stores. `part` is what it is to its
    matrix, None where it is kept. `one_number` says that it is the only scale of its kind there.
    `given` is the number to write in place of its own, as the source would say it.
    """

    source: TensorEntry
    name: str
    dtype: Dtype
    shape: tuple[int, ...]
    action: Action
    unit: str
    member: str = ""
    place: int = 0
    part: Part | None = None
    one_number: bool = False
    given: np.float32 | None = None

    @property
    def nbytes(self) -> int:
        """Bytes in the output."""
        return self.dtype.nbytes(self.shape)

    @property
    def changes(self) -> bool:
        """Whether the output's tensor is not the source's to the letter."""
        same = (self.name, self.dtype, self.shape) == (
            self.source.name,
            self.source.dtype,
            self.source.shape,
        )
        return not same or self.action is not Action.Copy

    @property
    def is_narrowed(self) -> bool:
        """Whether the output's dtype may not hold every number of the source's."""
        return self.dtype.bits < self.source.dtype.bits


def steps_of(source: QuantizedSource, to: CheckpointFormat) -> dict[str, Step]:
    """The step of every tensor, by its name in the source.

    Raises RefusedInput(NotSupported) for a format or a cache that `to` has no words for, or whose
    place in the model is unknown, (MalformedCheckpoint) when two tensors would get one name.
    """
    steps = {}
    for module, parts in source.modules.items():
        changed = _of_module(module, parts, source, to) if module in source.formats else {}
        for parameter, entry in parts.items():
            step = changed.get(parameter)
            if parameter in CACHE_SCALES:
                step = _of_cache(entry, module, parameter, source, to)
            steps[entry.name] = step or _kept(entry)
    _refuse_twins(steps.values())
    return steps


def apply(step: Step, data: Bytes) -> tuple[Bytes, bool]:
    """The output's bytes for all bytes of the source's tensor, and whether they say the very same.

    Scales that are turned round are positive, and so are their inverses: `settling` saw to it.
    """
    if step.action is Action.Copy:
        return data, True
    values = as_float32(step.source.dtype, data)
    if step.given is not None:
        values = np.full_like(values, step.given)
    exact = True
    if step.action is Action.Multiplier:
        values = multipliers_of(values)
    elif step.action is Action.Divisor:
        values, each = divisors_of(values)
        exact = bool(each.all())
    return _encoded(values, step.dtype), exact


def survives_as_bf16(data: Bytes) -> bool:
    """Whether every float32 of `data` is a BF16 number."""
    return not (data.view(np.uint32) & np.uint32(0xFFFF)).any()


def _kept(entry: TensorEntry) -> Step:
    return Step(entry, entry.name, entry.dtype, entry.shape, Action.Copy, unit=entry.name)


def _of_module(
    module: str, parts: Mapping[str, TensorEntry], source: QuantizedSource, to: CheckpointFormat
) -> dict[str, Step]:
    """Steps of what a format stores for `module`, by parameter in the source."""
    fmt = source.formats[module]
    if to not in FORMATS[fmt].layouts:
        raise RefusedInput(
            Reason.NotSupported,
            module,
            f"`{module}` is {fmt}, which {to}'s layout has no words for: a server would quantize "
            "its activations too; leave the checkpoint as it is, or quantize the source anew.",
        )
    before, after = stored_tensors(fmt, source.layout), stored_tensors(fmt, to)
    shape = matrix_shape(parts[before[0].suffix])
    _refuse_odd_blocks(module, fmt, shape[1], to)
    weight = f"{module}.weight"
    return {
        old.suffix: Step(
            parts[old.suffix],
            f"{module}.{new.suffix}",
            _dtype(parts[old.suffix], new),
            new.shape(*shape),
            _action(parts[old.suffix], new, fmt, to),
            source.architecture.place(weight).group or weight,
            weight,
            place,
            new.part,
            _is_one_number(new.part, fmt),
        )
        for place, (old, new) in enumerate(zip(before, after, strict=True))
    }


def _is_one_number(part: Part, fmt: Format) -> bool:
    return part in {Part.GlobalScale, Part.InputScale} or (part is Part.Scale and fmt is Format.FP8)


def _refuse_odd_blocks(module: str, fmt: Format, columns: int, to: CheckpointFormat) -> None:
    """What a server loads in the one layout and not in the other is not converted."""
    if fmt is not Format.FP8_BLOCK or to is not CheckpointFormat.ModelOpt:
        return
    obstacle = modelopt_block_obstacle(columns)
    if obstacle is not None:
        raise RefusedInput(
            Reason.NotSupported,
            module,
            f"`{module}` would not load in {to}'s layout: {obstacle}; leave the checkpoint in its "
            "own layout.",
        )


def _dtype(entry: TensorEntry, new: StoredTensor) -> Dtype:
    """The dtype that `new` has; a stranger's F16 scale has numbers that BF16 has not."""
    return Dtype.F32 if entry.dtype is Dtype.F16 and new.dtype is Dtype.BF16 else new.dtype


def _action(entry: TensorEntry, new: StoredTensor, fmt: Format, to: CheckpointFormat) -> Action:
    if new.part in _DIVISORS.get(fmt, set()):
        return Action.Multiplier if to is CheckpointFormat.ModelOpt else Action.Divisor
    return Action.Copy if entry.dtype is _dtype(entry, new) else Action.Cast


def _of_cache(
    entry: TensorEntry,
    module: str,
    parameter: str,
    source: QuantizedSource,
    to: CheckpointFormat,
) -> Step:
    """Scales of the cache stand at the attention module, or below its projections."""
    if prod(entry.shape) != 1 or entry.dtype not in FULL_PRECISION:
        raise RefusedInput(
            Reason.NotSupported,
            entry.name,
            f"`{entry.name}` is {entry.dtype} {list(entry.shape)}, and a layer's keys and values "
            "have one scale each in both layouts; give a checkpoint with such scales.",
        )
    attention = module.removesuffix(".k_proj").removesuffix(".v_proj")
    if not source.has_weight(f"{attention}.k_proj"):
        raise RefusedInput(
            Reason.NotSupported,
            entry.name,
            f"`{entry.name}` is a scale of a KV cache, but the checkpoint has no "
            f"`{attention}.k_proj.weight`, so no layer's keys and values are known to go with it; "
            "name it after the module that has the projections, or take it away.",
        )
    (scales,) = kv_scales([attention], to)
    found = scales.keys if parameter == "k_scale" else scales.values
    dtype = Dtype.F32 if entry.dtype is Dtype.F16 else found.dtype
    action = Action.Copy if entry.dtype is dtype else Action.Cast
    return Step(entry, found.name, dtype, found.shape, action, unit=found.name, one_number=True)


def _encoded(values: Floats, dtype: Dtype) -> Bytes:
    if dtype is Dtype.BF16:  # nothing is lost: the tensor was among the survivors
        return (values.view(np.uint32) >> np.uint32(16)).astype(np.uint16).view(np.uint8)
    return np.ascontiguousarray(values, np.float32).view(np.uint8)


def _refuse_twins(steps: Iterable[Step]) -> None:
    names: dict[str, str] = {}
    for step in steps:
        other = names.setdefault(step.name, step.source.name)
        if other != step.source.name:
            raise RefusedInput(
                Reason.MalformedCheckpoint,
                step.source.name,
                f"`{step.source.name}` and `{other}` would both become `{step.name}`; take away "
                "the one that does not belong to the checkpoint.",
            )
