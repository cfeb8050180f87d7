"""What an architecture table is, and how a tensor's name finds its row.

A table is data: rows of module paths in which `*` stands for one index, each with the role that it
plays and, where a server merges modules into one at load, the name of what they become. All of
planning, writing, `config.json` and inspection read the same rows, so a family is added by adding
one table and its tiny fixture, and nothing else.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, NamedTuple

from halftone.spec.roles import Role

# Prefixes under which the language model's layers lie on disk (multimodal, text-only), and, for
# matching only, how vLLM names the same modules at run time.
TEXT_PREFIXES: Final = ("model.language_model.", "model.")
RUNTIME_PREFIXES: Final = ("model.language_model", "language_model.model", "model")

_INDEX = re.compile(r"(?<=\.)\d+(?=\.)", re.ASCII)


class Split(StrEnum):
    """How tensor parallelism divides a matrix `[N, K]`: by rows N, by columns K, or not at all."""

    Column = "Column"  # vLLM's ColumnParallelLinear: N is divided
    Row = "Row"  # vLLM's RowParallelLinear: K is divided
    Replicated = "Replicated"


class ServedScale(StrEnum):
    """Which member's global scale a server keeps when it merges a group (vLLM 0.32)."""

    Largest = "Largest"  # linear layers: the largest divisor, with one warning in the log
    First = "First"  # fused experts: the gate's, silently


@dataclass(frozen=True)
class Row:
    """One kind of module. `fused` names what a server merges it into, beside its siblings.

    `stacked` is set for tensors that hold all experts in one 3-D array `[experts, rows, columns]`:
    the names of the parts that lie one after another along the rows of each expert.
    `values_like` is set for a matrix that holds queries, keys and values one after another, of
    which a server merges each by itself: it names the sibling that is as high as the values.
    """

    path: str
    role: Role
    fused: str | None = None
    split: Split = Split.Replicated
    served: ServedScale = ServedScale.Largest
    stacked: tuple[str, ...] = ()
    values_like: str | None = None


@dataclass(frozen=True)
class Region:
    """Everything under a prefix has one role. `layers_at` says where decoder layers begin in it."""

    prefix: str
    role: Role
    layers_at: str | None = None


class Placement(NamedTuple):
    """What the table says of one tensor name."""

    role: Role
    module: str  # the name without its parameter
    parameter: str  # the last component
    group: str | None  # full name of the fused group, or None
    row: Row | None  # None: in a region, or not listed
    listed: bool


@dataclass(frozen=True)
class Architecture:
    """A family of models that share names: `regions` before `rows`, the longest prefix first."""

    name: str
    model_types: tuple[str, ...]
    rows: tuple[Row, ...]
    regions: tuple[Region, ...] = ()
    anchored: bool = True  # False: rows match the end of any path (the generic table)
    _rows_by_path: dict[str, Row] = field(init=False, repr=False, compare=False)
    _cache: dict[str, "_Resolved"] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_rows_by_path", {row.path: row for row in self.rows})
        object.__setattr__(self, "_cache", {})

    def place(self, tensor: str) -> Placement:
        """The role, module and fused group of the tensor called `tensor`."""
        template = _INDEX.sub("*", tensor)
        resolved = self._cache.get(template)
        if resolved is None:
            resolved = self._cache[template] = self._resolve(template)
        row = resolved.row
        if row is not None and row.stacked:
            return Placement(row.role, tensor, "", None, row, True)
        module, _, parameter = tensor.rpartition(".")
        group = None
        if row is not None and row.fused is not None:
            group = f"{module.rpartition('.')[0]}.{row.fused}"
        return Placement(resolved.role, module, parameter, group, row, resolved.listed)

    def rows_of(self, roles: Iterable[Role]) -> tuple[Row, ...]:
        """The rows that play any of `roles`, in table order."""
        wanted = set(roles)
        return tuple(row for row in self.rows if row.role in wanted)

    def _resolve(self, template: str) -> "_Resolved":
        region = self._region(template)
        if region is not None:
            row = None
            if region.layers_at is not None and template.startswith(region.layers_at):
                row = self._row(template.removeprefix(region.layers_at))
            return _Resolved(region.role, row, listed=True)
        row = self._row(self._in_text(template))
        if row is not None:
            return _Resolved(row.role, row, listed=True)
        module, _, _ = template.rpartition(".")
        if "norm" in module.rpartition(".")[2]:
            return _Resolved(Role.Norm, None, listed=True)
        return _Resolved(Role.Other, None, listed=False)

    def _region(self, template: str) -> Region | None:
        fitting = [r for r in self.regions if template.startswith(r.prefix)]
        return max(fitting, key=lambda r: len(r.prefix), default=None)

    def _in_text(self, template: str) -> str:
        """The path inside the language model; outside of it only a head can lie.

        Servers look for nothing else without a prefix, nor do our expressions match it.
        """
        for prefix in TEXT_PREFIXES:
            if template.startswith(prefix):
                return template.removeprefix(prefix)
        return template if not self.anchored or template.startswith("lm_head.") else ""

    def _row(self, path: str) -> Row | None:
        """The row for a tensor's path: its module, or the whole path when experts are stacked."""
        module = path.rpartition(".")[0]
        if self.anchored:
            stacked = self._rows_by_path.get(path)
            if stacked is not None and stacked.stacked:
                return stacked
            row = self._rows_by_path.get(module)
            return row if row is not None and not row.stacked else None
        for row in self.rows:
            subject = path if row.stacked else module
            if subject == row.path or subject.endswith("." + row.path):
                return row
        return None


class _Resolved(NamedTuple):
    role: Role
    row: Row | None
    listed: bool
