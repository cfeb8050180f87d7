"""Parquet: which rows are usable, and the rows that were drawn.

Called by `rows_index`, in an environment that has pyarrow. To count rows it reads texts, but of
messages and images only their smallest column, which says how many there are. A file is read page
by page and never held; of each usable row only its number is kept, 8 bytes. A page is as large as
its writer made it: pyarrow's have up to 1024 rows, those of the Hub's image data sets 100.
"""

import io
from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate, groupby
from typing import Any, Final

from halftone.quantize.calibration.rows import FIELDS, Row, refuse, understood
from halftone.quantize.calibration.rows_files import RangedFile
from halftone.spec.calibration import Modality
from halftone.spec.errors import EnvironmentFault
from halftone.spec.files import FileEntry, FileSource
from halftone.spec.names import Reason

_BUFFER: Final = 4 << 20
# Rows that are decoded at once: few where they may hold images of megabytes.
_COUNTED: Final = 4096
_DRAWN: Final = 8


class Parquet:
    """The rows of one file, by position among those that are usable."""

    def __init__(self, source: FileSource, entry: FileEntry) -> None:
        self._name = entry.path
        with _installed():
            from pyarrow import parquet
        with self._understanding():
            handle = io.BufferedReader(RangedFile(source, entry), _BUFFER)
            self._file = parquet.ParquetFile(handle, pre_buffer=False, buffer_size=_BUFFER)
            groups = range(self._file.metadata.num_row_groups)
            sizes = [self._file.metadata.row_group(group).num_rows for group in groups]
        # The number of the first row of each group.
        self._begins = list(accumulate(sizes, initial=0))[:-1]
        self._numbers = array("Q")
        self._refuse_columns()

    def scan(self) -> Iterator[Modality]:
        """What each usable row holds, in order; `read` takes positions in what this gave.

        Raises RefusedInput(DatasetUnusable) for a row that has both or neither of `text` and
        `messages`.
        """
        self._numbers = array("Q")
        columns = [leaf for name in FIELDS if (leaf := self._smallest(name)) is not None]
        number = 0
        for batch in self._batches(None, columns, _COUNTED):
            for fields in batch:
                modality = self._held(fields, number)
                if modality is not None:
                    self._numbers.append(number)
                    yield modality
                number += 1

    def read(self, positions: Sequence[int]) -> Iterator[Row]:
        """The usable rows at `positions`, which are in order."""
        numbers = [self._numbers[position] for position in positions]
        names = [name for name in FIELDS if self._smallest(name) is not None]
        for group, inside in groupby(numbers, lambda n: bisect_right(self._begins, n) - 1):
            wanted, begin = set(inside), self._begins[group]
            for batch in self._batches(group, names, _DRAWN):
                for number, fields in enumerate(batch, begin):
                    if number in wanted:
                        row = understood(fields, self._place(number), self._name)
                        assert row is not None  # it was usable when it was counted
                        yield row
                begin += len(batch)
                if begin > max(wanted):
                    break

    def _held(self, fields: dict[str, Any], number: int) -> Modality | None:
        """What a row holds, of which messages and images have only been counted."""
        counted = dict(fields)
        for name in ("messages", "images"):
            if counted.get(name) is not None:
                counted[name] = [{"role": ""}] * len(counted[name])
        row = understood(counted, self._place(number), self._name)
        return None if row is None else row.modality

    def _refuse_columns(self) -> None:
        """Refuse a file without text, or whose messages or images are no lists."""
        from pyarrow import types

        schema = self._file.schema_arrow
        if not {"text", "messages"} & set(schema.names):
            names = ", ".join(f"`{name[:40]}`" for name in schema.names[:8]) or "none"
            refuse(
                self._name,
                f"The columns of `{self._name}` are {names}; one must be `text` or `messages`.",
            )
        for name in ("messages", "images"):
            kind = schema.field(name).type if name in schema.names else None
            if kind is not None and not (
                types.is_null(kind) or types.is_list(kind) or types.is_large_list(kind)
            ):
                refuse(
                    self._name,
                    f"Column `{name}` of `{self._name}` holds {str(kind)[:60]}; make it a list.",
                )

    def _smallest(self, name: str) -> str | None:
        """The path of the column below `name` that takes the fewest bytes; None without any."""
        metadata = self._file.metadata
        sizes: dict[str, int] = {}
        for column in range(metadata.num_columns):
            path = metadata.schema.column(column).path
            if path == name or path.startswith(f"{name}."):
                sizes[path] = sum(
                    metadata.row_group(group).column(column).total_uncompressed_size
                    for group in range(metadata.num_row_groups)
                )
        return min(sizes, key=lambda path: sizes[path]) if sizes else None

    def _batches(
        self, group: int | None, columns: list[str], rows: int
    ) -> Iterator[list[dict[str, Any]]]:
        groups = None if group is None else [group]
        with self._understanding():
            batches = self._file.iter_batches(
                batch_size=rows, row_groups=groups, columns=columns, use_threads=False
            )
        while True:
            with self._understanding():
                batch = next(batches, None)
                found = None if batch is None else batch.to_pylist()
            if found is None:
                return
            yield found

    def _place(self, number: int) -> str:
        return f"row {number + 1} of `{self._name}`"

    @contextmanager
    def _understanding(self) -> Iterator[None]:
        """Turn pyarrow's errors into ours."""
        from pyarrow import ArrowException

        try:
            yield
        except (ArrowException, OSError, UnicodeDecodeError) as error:
            said = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
            refuse(
                self._name,
                f"`{self._name}` is no Parquet file that can be read ({said}); fetch it again.",
                error,
            )


@contextmanager
def _installed() -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        raise EnvironmentFault(
            Reason.MissingDependency,
            "pyarrow",
            "Data in Parquet need pyarrow, which is not installed; run "
            "`pip install 'halftone[quantize]'`.",
        ) from error
