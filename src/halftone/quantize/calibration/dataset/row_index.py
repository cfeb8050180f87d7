"""Every usable row of a data set, by modality and number, without holding any of them.

Called by `preparing`. Files are taken in the order of their names. It must not know what becomes of
a row.
"""

from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import groupby
from pathlib import Path
from typing import Protocol

from halftone.quantize.calibration.dataset.json_lines import JsonLines
from halftone.quantize.calibration.dataset.parquet import Parquet
from halftone.quantize.calibration.dataset.row_files import reader, unpacked
from halftone.quantize.calibration.dataset.rows import Row
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

    What is packed is unpacked on the disk of `scratch`. Raises RefusedInput(DatasetUnusable) for a
    row that is none. Close it after use.
    """

    def __init__(
        self, dataset: DatasetFiles, modalities: Sequence[Modality], scratch: Path
    ) -> None:
        # Positions in their files, of one file after another; `_begins` says where each starts.
        self._positions = {modality: array("Q") for modality in modalities}
        self._begins: dict[Modality, list[int]] = {modality: [] for modality in modalities}
        self._files: list[RowFile] = []
        with ExitStack() as resources:
            for entry in dataset.files:
                self._files.append(_opened(dataset, entry, scratch, resources))
                self._scan(self._files[-1])
            self._resources = resources.pop_all()

    def usable(self, modality: Modality) -> int:
        """How many rows could be drawn."""
        return len(self._positions[modality])

    def rows(self, modality: Modality, numbers: Sequence[int]) -> Iterator[Row]:
        """The rows with these numbers among the usable ones of `modality`; numbers are in order."""
        begins = self._begins[modality]
        for file, group in groupby(numbers, lambda number: bisect_right(begins, number) - 1):
            positions = [self._positions[modality][number] for number in group]
            yield from self._files[file].read(positions)

    def close(self) -> None:
        """Take away what was unpacked."""
        self._resources.close()

    def _scan(self, file: RowFile) -> None:
        for modality, positions in self._positions.items():
            self._begins[modality].append(len(positions))
        for position, modality in enumerate(file.scan()):
            if modality in self._positions:
                self._positions[modality].append(position)


def _opened(
    dataset: DatasetFiles, entry: FileEntry, scratch: Path, resources: ExitStack
) -> RowFile:
    if entry.path.endswith(".parquet"):
        return Parquet(dataset.source, entry)
    read, size_bytes = reader(dataset.source, entry), entry.size_bytes
    if entry.path.endswith(".gz"):
        read, size_bytes, file = unpacked(dataset.source, entry, scratch)
        resources.enter_context(file)
    return JsonLines(read, size_bytes, entry.path)
