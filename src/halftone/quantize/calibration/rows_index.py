"""Every usable row of a data set, by modality and position, without holding any of them.

Called by `data`. Files are taken in the order of their names. It must not know what becomes of a
row.
"""

from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Protocol

from halftone.quantize.calibration.rows import Row, refuse
from halftone.quantize.calibration.rows_json_lines import JsonLines
from halftone.spec.calibration import Modality
from halftone.spec.files import FileEntry
from halftone.stores.datasets import DatasetFiles


class RowFile(Protocol):
    """One file: a pass over all usable rows, and then any of them by position."""

    def scan(self) -> Iterator[Modality]:
        """What each usable row holds, in order. Raises RefusedInput(DatasetUnusable)."""

    def read(self, positions: Sequence[int]) -> Iterator[Row]:
        """The usable rows at `positions`, which are in order."""


class RowIndex:
    """Usable rows of the modalities that were asked for; eight bytes a row, and what a file keeps.

    Raises RefusedInput(DatasetUnusable) for a row that is none.
    """

    def __init__(self, dataset: DatasetFiles, modalities: Sequence[Modality]) -> None:
        self._files = [_opened(dataset, entry) for entry in dataset.files]
        # Positions of one modality in its file, one after another; `_begins` says where each starts.
        self._positions = {modality: array("Q") for modality in modalities}
        self._begins: dict[Modality, list[int]] = {modality: [] for modality in modalities}
        for file in self._files:
            for modality in modalities:
                self._begins[modality].append(len(self._positions[modality]))
            for position, modality in enumerate(file.scan()):
                if modality in self._positions:
                    self._positions[modality].append(position)

    def usable(self, modality: Modality) -> int:
        """How many rows could be drawn."""
        return len(self._positions[modality])

    def rows(self, modality: Modality, numbers: Sequence[int]) -> Iterator[Row]:
        """The rows with these numbers among the usable ones of `modality`; numbers are in order."""
        begins = self._begins[modality]
        for file, group in groupby(numbers, lambda number: bisect_right(begins, number) - 1):
            positions = [self._positions[modality][number] for number in group]
            yield from self._files[file].read(positions)


def _opened(dataset: DatasetFiles, entry: FileEntry) -> RowFile:
    name = entry.path
    if name.endswith((".jsonl", ".json")):
        return JsonLines(dataset.source, name, entry.size_bytes, name)
    refuse(name, f"`{name}` is no .jsonl, .json or .parquet file; give one that is.")
