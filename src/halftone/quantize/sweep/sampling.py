"""Which matrices are measured: all of a small model, the same few layers of a large one each time.

Called by `weight_errors` and by `measuring`. A unit is what shares a scale: a fused group, or a
matrix of its own. Of a role with more than `ROLE_BYTES` of weights some layers are measured, spread
evenly from the first to the last, and of routed experts then some of each such layer; what is said
of the role is their mean. So the weights of a model of 55 GB need not be read to compare formats,
and two runs measure the same ones.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple, TypeVar

from halftone.plan.tensors import LogicalTensor
from halftone.spec.roles import Role

# A role up to this size is measured whole: some seconds of reading for each format.
ROLE_BYTES: Final = 1_000_000_000
# Of a larger role so many layers, and in each so many experts.
LAYERS: Final = 8
EXPERTS: Final = 8

_INDEX = re.compile(r"(?<=\.)\d+(?=\.)", re.ASCII)
Item = TypeVar("Item")


class Unit(NamedTuple):
    """Matrices that a server merges, or one alone; `expert` is None outside routed experts."""

    name: str
    role: Role
    layer: int
    expert: int | None
    members: tuple[LogicalTensor, ...]

    @property
    def source_bytes(self) -> int:
        """Bytes in the source."""
        return sum(member.source_bytes for member in self.members)


class Sampled(NamedTuple):
    """The units of a role that are measured, and how many layers it has in all."""

    units: tuple[Unit, ...]
    layers: int

    @property
    def measured_layers(self) -> tuple[int, ...]:
        """The layers that the units are of."""
        return tuple(dict.fromkeys(unit.layer for unit in self.units))


def units_of(tensors: Iterable[LogicalTensor]) -> tuple[Unit, ...]:
    """The units of some matrices, by layer and expert."""
    members: defaultdict[str, list[LogicalTensor]] = defaultdict(list)
    for tensor in tensors:
        members[tensor.group or tensor.name.removesuffix(".weight")].append(tensor)
    units = []
    for name, group in members.items():
        indices = [int(found) for found in _INDEX.findall(group[0].name)]
        routed = group[0].role is Role.Experts and len(indices) > 1
        units.append(
            Unit(
                name,
                group[0].role,
                indices[0] if indices else 0,
                indices[-1] if routed else None,
                tuple(group),
            )
        )
    return tuple(sorted(units, key=lambda unit: (unit.layer, unit.expert or 0, unit.name)))


def sampled(
    tensors: Mapping[Role, Sequence[LogicalTensor]],
    layers: int | None,
    role_bytes: int = ROLE_BYTES,
) -> dict[Role, Sampled]:
    """What is measured of each role; `layers` is the most of a role, None for the rule above."""
    found = {}
    for role, matrices in tensors.items():
        units = units_of(matrices)
        every = list(dict.fromkeys(unit.layer for unit in units))
        if layers is not None or _bytes(units) > role_bytes:
            chosen = set(spread(every, layers or LAYERS))
            units = tuple(unit for unit in units if unit.layer in chosen)
        if _bytes(units) > role_bytes:
            experts = list(dict.fromkeys(u.expert for u in units if u.expert is not None))
            some = {None, *spread(experts, EXPERTS)}
            units = tuple(unit for unit in units if unit.expert in some)
        found[role] = Sampled(units, len(every))
    return found


def spread(items: Sequence[Item], count: int) -> list[Item]:
    """`count` of `items` at even distances, first and last among them; all where there are fewer.

    A single one is from the middle.
    """
    if len(items) <= count:
        return list(items)
    if count == 1:
        return [items[len(items) // 2]]
    step = (len(items) - 1) / (count - 1)
    return [items[round(place * step)] for place in range(count)]


def _bytes(units: Iterable[Unit]) -> int:
    return sum(unit.source_bytes for unit in units)
