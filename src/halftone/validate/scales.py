"""Global scales: which are read, whether they make sense, and which one a server keeps.

A server that merges matrices multiplies them by one global scale. vLLM 0.32 keeps the largest
stored number for linear layers (of compressed-tensors' divisors as of ModelOpt's multipliers) and
the gate's for fused experts, so members that differ are decoded wrongly, and nothing says so.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite, prod
from typing import Final

import numpy as np

from halftone.checkpoint.architectures.table import ServedScale
from halftone.checkpoint.headers import TensorEntry
from halftone.checkpoint.serving_limits import SCALE_TOLERANCE
from halftone.checkpoint.serving_rules import WeightLayout
from halftone.spec.dtypes import Dtype
from halftone.spec.files import FileSource
from halftone.spec.names import DefectKind
from halftone.validate.budget import Budget, Span, fit, largest_fit, read_ranges
from halftone.validate.findings import Defect
from halftone.validate.inventory import Inventory, Module, layer_of


@dataclass(frozen=True)
class Unit:
    """What a server decodes with one scale: a fused group, or one matrix."""

    name: str
    members: tuple[Module, ...]

    def scale_entries(self) -> list[TensorEntry]:
        """Every one-number scale of the members."""
        return [entry for member in self.members for entry in single_scales(member)]


@dataclass(frozen=True)
class Scales:
    """Values by tensor name, and how many there are in all."""

    values: Mapping[str, float]
    total: int

    @property
    def complete(self) -> bool:
        """Whether every scale was read."""
        return len(self.values) == self.total

    def of(self, entry: TensorEntry | None) -> float | None:
        """The value of a scale, None where it was not read."""
        return None if entry is None else self.values.get(entry.name)


def units_of(inventory: Inventory) -> list[Unit]:
    """Fused groups with a quantized member, and all other quantized modules by themselves."""
    units = [
        Unit(name if len(members) > 1 else members[0].key, tuple(members))
        for name, members in inventory.groups.items()
        if any(member.layouts for member in members)
    ]
    grouped = {member.name for unit in units for member in unit.members}
    units += [Unit(m.key, (m,)) for m in inventory.quantized if m.name not in grouped]
    return units


def single_scales(module: Module) -> list[TensorEntry]:
    """Scales of one number: global, per tensor, and of activations."""
    candidates = [module.global_scale, module.input_scale]
    if module.layout is WeightLayout.Fp8Tensor:
        candidates.append(module.scale)
    return [entry for entry in candidates if entry is not None and is_number(entry)]


def is_number(entry: TensorEntry) -> bool:
    """Whether the tensor is one number that can be read as it is."""
    return prod(entry.shape) == 1 and entry.dtype in _NUMBERS


def global_scale_of(module: Module) -> TensorEntry | None:
    """The scale that reports show: NVFP4's global one, or the one number of per-tensor FP8."""
    if module.layout is WeightLayout.Fp8Tensor:
        return module.scale
    return module.global_scale if module.layout is WeightLayout.Nvfp4 else None


def read_scales(
    source: FileSource,
    units: Sequence[Unit],
    budget: Budget | None,
    beside: Sequence[TensorEntry] = (),
) -> Scales:
    """Read all single scales, or within `budget` those of as many units as it allows.

    A sample takes a unit of every role of every layer before it takes a second one, and those
    `beside` the units first: they are few.
    """
    ordered = in_order_of_interest(units)
    wanted = [[entry] for entry in beside if is_number(entry)]
    wanted += [unit.scale_entries() for unit in ordered]
    parts = [[_extent(entry) for entry in part] for part in wanted]
    total = sum(len(part) for part in parts)
    entries = {entry.name: entry for part in wanted for entry in part}
    ranges = fit([extent for part in parts for extent in part], budget)
    if ranges is None and budget is not None:
        ranges = largest_fit(parts, budget)[1]
    values = {
        name: number_in(entries[name], data) for name, data in read_ranges(source, ranges or [])
    }
    return Scales(values, total)


def in_order_of_interest(units: Sequence[Unit]) -> list[Unit]:
    """Units so ordered that any beginning covers layers and roles as evenly as it can."""
    seen: dict[object, int] = {}
    ranked = []
    for position, unit in enumerate(units):
        first = unit.members[0]
        # A merged group is worth more than a single matrix of the same place: it can disagree.
        kind = (layer_of(first.name), first.place.role, len(unit.members) > 1)
        rank = seen[kind] = seen.get(kind, -1) + 1
        ranked.append(((rank, len(unit.members) == 1, position), unit))
    return [unit for _, unit in sorted(ranked, key=lambda item: item[0])]


def served_scale(unit: Unit, scales: Scales) -> float | None:
    """The global scale that a server decodes all of `unit` with; None if it is not known."""
    values = [scales.of(member.global_scale) for member in unit.members]
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return None
    row = unit.members[0].place.row
    if row is not None and row.served is ServedScale.First:
        return known[0]
    return max(known)


def scale_defects(units: Sequence[Unit], scales: Scales) -> Iterator[Defect]:
    """Scales that are no positive numbers, and groups whose members disagree."""
    for unit in units:
        broken = list(unusable(unit.scale_entries(), scales))
        yield from broken
        if not broken:
            yield from _unequal(unit, scales)


def unusable(entries: Iterable[TensorEntry], scales: Scales) -> Iterator[Defect]:
    """Those of `entries` that are no positive numbers."""
    for entry in entries:
        value = scales.of(entry)
        if value is not None and not is_usable(value):
            yield Defect(
                kind=DefectKind.NotFinite,
                tensor=entry.name,
                message=f"`{entry.name}` is {value:g}; a scale must be a positive number.",
            )


def is_usable(value: float) -> bool:
    """Whether a number can be a scale at all."""
    return isfinite(value) and value > 0


def _unequal(unit: Unit, scales: Scales) -> Iterator[Defect]:
    entries = [m.global_scale for m in unit.members if m.layout is WeightLayout.Nvfp4]
    known = {e.name: scales.values[e.name] for e in entries if e and e.name in scales.values}
    if not differ(known.values()):
        return
    row = unit.members[0].place.row
    first = row is not None and row.served is ServedScale.First
    kept = next(iter(known.values())) if first else max(known.values())
    wrong = max(known, key=lambda name: abs(known[name] - kept))
    yield Defect(
        kind=DefectKind.UnequalGlobalScales,
        tensor=wrong,
        message=f"The members of `{unit.name}` have different global scales, "
        f"{', '.join(f'{value:.6g}' for value in known.values())}; a server keeps {kept:.6g} "
        f"for all, which is off by {abs(known[wrong] / kept - 1):.1%} here.",
    )


def differ(values: Collection[float]) -> bool:
    """Whether scales that should be one are further apart than vLLM itself tolerates."""
    return bool(values) and max(values) - min(values) > SCALE_TOLERANCE * max(values)


_NUMBERS: Final[dict[Dtype, np.dtype[np.generic]]] = {
    Dtype.F32: np.dtype("<f4"),
    Dtype.F16: np.dtype("<f2"),
    Dtype.BF16: np.dtype("<u2"),
    Dtype.F64: np.dtype("<f8"),
}


def number_in(entry: TensorEntry, data: bytes) -> float:
    """The one number of a tensor for which `is_number` holds."""
    values = np.frombuffer(data, _NUMBERS[entry.dtype])
    if entry.dtype is Dtype.BF16:
        values = (values.astype(np.uint32) << 16).view(np.float32)
    return float(values[0])


def _extent(entry: TensorEntry) -> Span:
    return Span(entry.name, entry.file, entry.offset, entry.nbytes)
