"""The choice: of all combinations of formats, the one with the least predicted loss that fits.

Pure arithmetic over a table of sizes and losses; called by `halftone.quantize.sweep.sweeping`. A
column stands for the roles that must have one format (nearly always a single role), its options for
the formats that it may have, "kept" among them. Size and loss of a combination are sums over its
columns. Six roles in six formats or kept are 117,649 combinations, so all of them are looked at.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from halftone.spec.formats import Format
from halftone.spec.roles import Role

_ORDER = {fmt: place for place, fmt in enumerate(Format)}


class Option(NamedTuple):
    """One format for a column, None for kept: bytes of its tensors, and the loss that it costs."""

    format: Format | None
    nbytes: int
    loss: float


class Column(NamedTuple):
    """Roles that share a format, and the formats that they may have."""

    roles: tuple[Role, ...]
    options: tuple[Option, ...]


class Combination(NamedTuple):
    """One option of each column, with the bytes of the whole checkpoint and the predicted loss."""

    formats: tuple[Format | None, ...]
    nbytes: int
    loss: float

    @property
    def simplicity(self) -> tuple[int, int, tuple[int, ...]]:
        """Sorts the simpler list first: fewer formats, fewer lines, then the order of formats."""
        used = [fmt for fmt in self.formats if fmt is not None]
        order = tuple(-1 if fmt is None else _ORDER[fmt] for fmt in self.formats)
        return len(set(used)), len(used), order


class Combinations:
    """All combinations of `columns`, and `fixed_bytes` for what no column changes.

    Two arrays hold a number for each combination: some 2 MB for six columns of seven options.
    """

    def __init__(self, columns: Sequence[Column], fixed_bytes: int) -> None:
        self._columns = tuple(columns)
        self._shape = tuple(len(column.options) for column in columns)
        sizes: NDArray[np.int64] = np.array([fixed_bytes], np.int64)
        losses: NDArray[np.float64] = np.zeros(1, np.float64)
        for column in columns:  # the later column varies faster
            nbytes = np.array([option.nbytes for option in column.options], np.int64)
            sizes = np.add.outer(sizes, nbytes).reshape(-1)
            costs = np.array([option.loss for option in column.options], np.float64)
            losses = np.add.outer(losses, costs).reshape(-1)
        self._sizes = sizes
        self._losses = losses

    def __len__(self) -> int:
        return int(self._sizes.size)

    def best(self, budget_bytes: int) -> Combination | None:
        """The least loss of at most `budget_bytes`; None where nothing is so small.

        Of equal losses the smaller one, of equally small ones the simpler list.
        """
        fitting = np.flatnonzero(self._sizes <= budget_bytes)
        if fitting.size == 0:
            return None
        fitting = fitting[self._losses[fitting] == self._losses[fitting].min()]
        fitting = fitting[self._sizes[fitting] == self._sizes[fitting].min()]
        return self._simplest(fitting)

    def smallest(self) -> Combination:
        """The fewest bytes; of equally small ones the least loss, then the simpler list."""
        found = np.flatnonzero(self._sizes == self._sizes.min())
        found = found[self._losses[found] == self._losses[found].min()]
        return self._simplest(found)

    def front(self) -> tuple[Combination, ...]:
        """Combinations that no other beats in size and loss, the smallest first."""
        order = np.lexsort((self._losses, self._sizes))
        losses = self._losses[order]
        before = np.concatenate(([np.inf], np.minimum.accumulate(losses)[:-1]))
        front = []
        for leader in order[losses < before]:
            same = self._sizes == self._sizes[leader]
            front.append(
                self._simplest(np.flatnonzero(same & (self._losses == self._losses[leader])))
            )
        return tuple(front)

    def of(self, formats: Sequence[Format | None]) -> Combination | None:
        """The combination with these formats, one a column; None where one is no option."""
        place = 0
        for column, fmt in zip(self._columns, formats, strict=True):
            known = [option.format for option in column.options]
            if fmt not in known:
                return None
            place = place * len(known) + known.index(fmt)
        return self._at(place)

    def _at(self, place: int) -> Combination:
        chosen = np.unravel_index(place, self._shape) if self._shape else ()
        formats = tuple(
            column.options[int(at)].format for column, at in zip(self._columns, chosen, strict=True)
        )
        return Combination(formats, int(self._sizes[place]), float(self._losses[place]))

    def _simplest(self, places: Iterable[np.intp]) -> Combination:
        return min((self._at(int(place)) for place in places), key=lambda c: c.simplicity)
