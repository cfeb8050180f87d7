"""What becomes of each stored tensor: its new name, dtype and shape, and what its bytes go through.

Every tensor is converted by itself, whatever shard it lies in, so the work streams. Called by
`converting`. Codes and NVFP4's block scales are always copied.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from math import prod
from typing import Final

import numpy as np

from halftone.checkpoint.headers import TensorEntry
from halftone.checkpoint.scratch import Bytes
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

    `unit`, `member` and `part` say where it stands among others: a server's merged matrix, the
    matrix in it, and which of the tensors that its format stores.
    """

    source: TensorEntry
    name: str
    dtype: Dtype
    shape: tuple[int, ...]
    action: Action
    unit: str
    member: str = ""
    part: int = 0

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


def steps_of(
    source: QuantizedSource,
    to: CheckpointFormat,
    survivors: Callable[[Sequence[TensorEntry]], set[str]],
) -> dict[str, Step]:
    """The step of every tensor, by its name in the source.

    `survivors(entries)` names those of these scales whose numbers are all BF16 numbers; the others
    keep their dtype, which servers read as well. Raises RefusedInput(NotSupported) for a
    format or a cache that `to` has no words for, (MalformedCheckpoint) when two tensors would get
    one name.
    """
    steps = {}
    for module, parts in source.modules.items():
        changed = _of_module(module, parts, source, to) if module in source.formats else {}
        for parameter, entry in parts.items():
            step = changed.get(parameter)
            if parameter in CACHE_SCALES:
                step = _of_cache(entry, module, parameter, to)
            steps[entry.name] = step or _kept(entry)
    _refuse_twins(steps.values())
    narrowed = [s.source for s in steps.values() if s.action is Action.Cast and s.is_narrowed]
    safe = survivors(narrowed)
    for entry in narrowed:
        if entry.name not in safe:
            wider = replace(steps[entry.name], dtype=entry.dtype, action=Action.Copy)
            steps[entry.name] = wider
    return steps


def apply(step: Step, data: Bytes) -> tuple[Bytes, bool]:
    """The output's bytes for all bytes of the source's tensor, and whether they say the very same.

    Raises RefusedInput(MalformedCheckpoint) for a scale that cannot be turned round.
    """
    if step.action is Action.Copy:
        return data, True
    values = as_float32(step.source.dtype, data)
    exact = True
    if step.action in {Action.Multiplier, Action.Divisor}:
        _refuse_unusable(step.source, values)
        if step.action is Action.Multiplier:
            values = multipliers_of(values)
        else:
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
            part,
        )
        for part, (old, new) in enumerate(zip(before, after, strict=True))
    }


def _dtype(entry: TensorEntry, new: StoredTensor) -> Dtype:
    """The dtype that `new` has; a stranger's F16 scale has numbers that BF16 has not."""
    return Dtype.F32 if entry.dtype is Dtype.F16 and new.dtype is Dtype.BF16 else new.dtype


def _action(entry: TensorEntry, new: StoredTensor, fmt: Format, to: CheckpointFormat) -> Action:
    if new.part in _DIVISORS.get(fmt, set()):
        return Action.Multiplier if to is CheckpointFormat.ModelOpt else Action.Divisor
    return Action.Copy if entry.dtype is _dtype(entry, new) else Action.Cast


def _of_cache(entry: TensorEntry, module: str, parameter: str, to: CheckpointFormat) -> Step:
    """Scales of the cache stand at the attention module, or below its projections."""
    if prod(entry.shape) != 1 or entry.dtype not in FULL_PRECISION:
        raise RefusedInput(
            Reason.NotSupported,
            entry.name,
            f"`{entry.name}` is {entry.dtype} {list(entry.shape)}, and a layer's keys and values "
            "have one scale each in both layouts; give a checkpoint with such scales.",
        )
    attention = module.removesuffix(".k_proj").removesuffix(".v_proj")
    (scales,) = kv_scales([attention], to)
    part = scales.keys if parameter == "k_scale" else scales.values
    dtype = Dtype.F32 if entry.dtype is Dtype.F16 else part.dtype
    action = Action.Copy if entry.dtype is dtype else Action.Cast
    return Step(entry, part.name, dtype, part.shape, action, unit=part.name)


def _encoded(values: Floats, dtype: Dtype) -> Bytes:
    if dtype is Dtype.BF16:  # nothing is lost: the tensor was among the survivors
        return (values.view(np.uint32) >> np.uint32(16)).astype(np.uint16).view(np.uint8)
    return np.ascontiguousarray(values, np.float32).view(np.uint8)


def _refuse_unusable(entry: TensorEntry, values: Floats) -> None:
    with np.errstate(all="ignore"):
        usable = np.isfinite(values) & (values > 0) & np.isfinite(np.float32(1.0) / values)
    if not usable.all():
        raise RefusedInput(
            Reason.MalformedCheckpoint,
            entry.name,
            f"`{entry.name}` is {float(values[~usable][0])}, and a global scale must be a positive "
            "number whose inverse is one too; look at the checkpoint with `halftone inspect`.",
        )


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
