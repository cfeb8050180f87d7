"""Parquet: which rows are usable, and the rows that were drawn.

Called by `row_index`, in an environment that has pyarrow. To count rows it reads texts, but of
messages and images only their smallest column, which says how many there are. A file is read page
by page and never held; of each usable row only its number is kept, 8 bytes. A page is as large as
its writer made it: pyarrow's have up to 1024 rows, those of the Hub's image data sets 100.
"""

import io
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import accumulate, groupby
from typing import TYPE_CHECKING, Any, Final

from halftone.quantize.calibration.dataset.json_lines import MAX_ROW_BYTES
from halftone.quantize.calibration.dataset.row_files import RangedFile
from halftone.quantize.calibration.dataset.rows import FIELDS, Row, refuse, understood
from halftone.spec.calibration import Modality
from halftone.spec.errors import HalftoneError
from halftone.spec.extras import extra
from halftone.spec.files import FileEntry, FileSource

if TYPE_CHECKING:
    import pyarrow as pa

_BUFFER: Final = 4 << 20
# Rows that are decoded at once: few where they may hold images of megabytes.
_COUNTED: Final = 1024
_DRAWN: Final = 8
# More values in the lists of a row than a conversation has are somebody's mischief.
_MOST: Final = 1 << 20


class Parquet:
    """The rows of one file, by position among those that are usable."""

    def __init__(self, source: FileSource, entry: FileEntry) -> None:
        self._name = entry.path
        with extra("quantize", "Parquet"):
            from pyarrow import parquet
        with self._understanding():
            handle = io.BufferedReader(RangedFile(source, entry), _BUFFER)
            self._file = parquet.ParquetFile(handle, pre_buffer=False, buffer_size=_BUFFER)
            metadata = self._file.metadata
            groups = range(metadata.num_row_groups)
            sizes = [metadata.row_group(group).num_rows for group in groups]
            # Not the sizes of columns: of some damaged files, asking for them ends the process.
            self._leaves = [metadata.schema.column(at) for at in range(metadata.num_columns)]
            self._refuse_columns(self._file.schema_arrow)
        # The number of the first row of each group.
        self._begins = list(accumulate(sizes, initial=0))[:-1]
        self._numbers = array("Q")

    def scan(self) -> Iterator[Modality]:
        """What each usable row holds, in order; `read` takes positions in what this gave.

        Raises RefusedInput(DatasetUnusable) for a row that has both or neither of `text` and
        `messages`.
        """
        self._numbers = array("Q")
        columns = [leaf for name in FIELDS if (leaf := self._smallest(name)) is not None]
        number = 0
        for group in range(len(self._begins)):
            for fields in self._rows(group, columns, _COUNTED):
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
            wanted = set(inside)
            last = max(wanted)
            rows = self._rows(group, names, _DRAWN)
            for number, fields in enumerate(rows, self._begins[group]):
                if number in wanted:
                    yield self._understood(fields, number)
                if number == last:
                    break

    def _understood(self, fields: dict[str, Any], number: int) -> Row:
        """A row that was usable when it was counted."""
        place = self._place(number)
        row = understood(fields, place, self._name)
        if row is None:
            refuse(place, f"{place} is longer in one column than in another; fetch the file again.")
        return row

    def _held(self, fields: dict[str, Any], number: int) -> Modality | None:
        """What a row holds, of which messages and images have only been counted."""
        counted = dict(fields)
        for name in ("messages", "images"):
            if counted.get(name) is not None:
                counted[name] = [{"role": ""}] * len(counted[name])
        row = understood(counted, self._place(number), self._name)
        return None if row is None else row.modality

    def _refuse_columns(self, schema: "pa.Schema") -> None:
        """Refuse a file without text, with two columns of one name, or whose messages or images are
        no lists."""
        if not {"text", "messages"} & set(schema.names):
            names = ", ".join(f"`{name[:40]}`" for name in schema.names[:8]) or "none"
            refuse(
                self._name,
                f"The columns of `{self._name}` are {names}; one must be `text` or `messages`.",
            )
        for field in schema:
            if field.name not in FIELDS:
                continue
            if schema.names.count(field.name) > 1:
                said = f"`{self._name}` has more than one column `{field.name}`; keep one of them."
                refuse(self._name, said)
            self._refuse_type(field.name, field.type)

    def _refuse_type(self, name: str, kind: "pa.DataType") -> None:
        """Refuse what the column `name` holds, when no row of it could be understood."""
        from pyarrow import types

        if name != "text" and not (
            types.is_null(kind) or types.is_list(kind) or types.is_large_list(kind)
        ):
            refuse(
                self._name,
                f"Column `{name}` of `{self._name}` holds {str(kind)[:60]}; make it a list.",
            )
        twice = _repeated(kind)
        if twice is not None:
            refuse(
                self._name,
                f"Column `{name}` of `{self._name}` holds structs with more than one field "
                f"`{twice[:40]}`; keep one of them.",
            )

    def _smallest(self, name: str) -> str | None:
        """The path of that column below `name` which should take the fewest bytes, by its type and
        name; None without any."""
        leaves = [x for x in self._leaves if x.path == name or x.path.startswith(f"{name}.")]
        return min(leaves, key=_bulk).path if leaves else None

    def _rows(self, group: int, columns: list[str], rows: int) -> Iterator[dict[str, Any]]:
        """The rows of a group as Python has them, decoded `rows` at a time."""
        number = self._begins[group]
        with self._understanding(number):
            batches = self._file.iter_batches(
                batch_size=rows, row_groups=[group], columns=columns, use_threads=False
            )
        while True:
            with self._understanding(number):
                batch = next(batches, None)
            if batch is None:
                return
            yield from self._in_python(batch, number)
            number += batch.num_rows

    def _in_python(self, batch: "pa.RecordBatch", number: int) -> Iterable[dict[str, Any]]:
        """The rows of a batch whose first is row `number`."""
        with self._understanding(number):
            is_moderate = _is_moderate(batch)
        if is_moderate:
            with suppress(Exception):  # found again below, at its row
                found: list[dict[str, Any]] = batch.to_pylist()
                return found
        return self._one_by_one(batch, number)

    def _one_by_one(self, batch: "pa.RecordBatch", number: int) -> Iterator[dict[str, Any]]:
        for at in range(batch.num_rows):
            row = batch.slice(at, 1)
            place = self._place(number + at)
            if not _is_moderate(row):
                refuse(
                    place,
                    f"{place} has more than {MAX_ROW_BYTES >> 20} MiB, or lists of more than "
                    f"{_MOST:,} values; remove it.",
                )
            with self._understanding(number + at):
                [fields] = row.to_pylist()
            yield fields

    def _place(self, number: int) -> str:
        return f"row {number + 1} of `{self._name}`"

    @contextmanager
    def _understanding(self, number: int | None = None) -> Iterator[None]:
        """Refuse whatever pyarrow raises, at row `number` if it came so far."""
        try:
            yield
        except HalftoneError:
            raise
        except Exception as error:  # pyarrow has as many as a file has ways to be damaged
            lines = str(error).strip().splitlines() or [""]
            said = f"{type(error).__name__}: {lines[0][:200]}"
            if number is None:
                refuse(
                    self._name,
                    f"`{self._name}` is no Parquet file that can be read ({said}); fetch it again.",
                    error,
                )
            place = self._place(number)
            refuse(
                place,
                f"`{self._name}` cannot be read from row {number + 1} on ({said}); fetch the file "
                "again, or mend or remove the row.",
                error,
            )


def _bulk(leaf: Any) -> tuple[bool, bool, bool]:
    """What sorts columns of a Parquet file by how much they are likely to hold."""
    is_short = leaf.path.rpartition(".")[2] in {"role", "type", "path"}
    is_bytes = leaf.physical_type == "BYTE_ARRAY"
    return is_bytes, not is_short, is_bytes and leaf.logical_type.type != "STRING"


def _is_moderate(batch: "pa.RecordBatch") -> bool:
    """Whether rows may become Python's objects: a kilobyte of Parquet can hold a billion values."""
    return batch.nbytes <= MAX_ROW_BYTES and sum(map(_values, batch.columns)) <= _MOST


def _values(array: "pa.Array") -> int:
    """How many values the lists in `array` hold, at any depth."""
    from pyarrow import types

    if types.is_struct(array.type):
        return sum(_values(array.field(at)) for at in range(array.type.num_fields))
    if types.is_nested(array.type):  # a list, or a map, which is one
        inner = array.flatten()
        return len(inner) + _values(inner)
    return 0


def _repeated(kind: "pa.DataType") -> str | None:
    """The name that two fields of one struct in `kind` have, at any depth."""
    names: list[str] = [kind.field(at).name for at in range(kind.num_fields)]
    for name in names:
        if names.count(name) > 1:
            return name
    found = (_repeated(kind.field(at).type) for at in range(kind.num_fields))
    return next((name for name in found if name is not None), None)
