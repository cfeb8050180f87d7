"""A capacity as numbers by name: what a replica exports, and what whoever scales it reads.

    fields = told(Stated(capacity, warm_up_s=120))    # a replica, in its gauges
    stated(fields)                                    # inputs.capacity_gauges, out of them

Called by `serve` and by `inputs`, so that both name the same things. The names are bounded: those
of `Capacity`, and three for each cache group. Pure; standard library only.
"""

import math
from collections.abc import Mapping
from dataclasses import fields as fields_of
from typing import Final, NamedTuple

from halftone.scaling.capacity import CacheGroup, Capacity

# No model of vLLM has as many; each is three series of each replica.
MOST_GROUPS: Final = 16
_GROUPS: Final = "groups"
_WARM_UP: Final = "warm_up_s"
_NUMBERS: Final = tuple(each.name for each in fields_of(Capacity) if each.name != _GROUPS)
_COUNTS: Final = ("kv_blocks", "token_budget", "max_sequences")


class Stated(NamedTuple):
    """What is said of one replica: what it can do, and how long it takes to be warm, in seconds."""

    capacity: Capacity
    warm_up_s: float


def told(said: Stated) -> dict[str, float]:
    """Every field and its value. A group that grows with the request has `most` 0.

    Raises ValueError for a capacity that nothing can be reckoned with.
    """
    groups = said.capacity.groups
    found = {name: float(getattr(said.capacity, name)) for name in _NUMBERS}
    found |= {_GROUPS: float(len(groups)), _WARM_UP: said.warm_up_s}
    for number, group in enumerate(groups[:MOST_GROUPS]):
        found[f"group_{number}_block_tokens"] = float(group.block_tokens)
        found[f"group_{number}_most"] = float(group.most or 0)
        found[f"group_{number}_pinned"] = float(group.pinned)
    if stated(found) is None:
        raise ValueError("a capacity must be of finite numbers, and have blocks and groups")
    return found


def stated(fields: Mapping[str, float]) -> Stated | None:
    """What `told` was given; None where a field is missing or cannot be."""
    try:
        return _stated(fields)
    except (KeyError, ValueError, OverflowError):
        return None


def _stated(fields: Mapping[str, float]) -> Stated:
    if not all(math.isfinite(value) and value >= 0 for value in fields.values()):
        raise ValueError
    groups = tuple(_group(fields, number) for number in range(int(fields[_GROUPS])))
    numbers = {name: fields[name] for name in _NUMBERS}
    counts = {name: int(numbers.pop(name)) for name in _COUNTS}
    capacity = Capacity(**numbers, **counts, groups=groups)  # type: ignore[arg-type]
    if not (0 < len(groups) <= MOST_GROUPS and min(counts.values()) > 0):
        raise ValueError
    if capacity.prefill_tokens_per_second <= 0:
        raise ValueError
    return Stated(capacity, fields[_WARM_UP])


def _group(fields: Mapping[str, float], number: int) -> CacheGroup:
    tokens = int(fields[f"group_{number}_block_tokens"])
    if tokens < 1:
        raise ValueError
    most = int(fields[f"group_{number}_most"])
    return CacheGroup(tokens, most or None, pinned=bool(fields[f"group_{number}_pinned"]))
