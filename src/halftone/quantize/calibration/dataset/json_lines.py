"""JSON Lines: where each row begins, and the rows that were drawn.

Called by `row_index`. A file is read in pieces and never held; of each usable row only its place
is kept, 24 bytes. It must not interpret a row: `rows` does.
"""

import re
from array import array
from collections.abc import Iterator, Sequence
from typing import Final

from halftone.checkpoint.json_objects import parse_object, refuse_deep
from halftone.quantize.calibration.dataset.row_files import Read
from halftone.quantize.calibration.dataset.rows import Row, refuse, understood
from halftone.spec.calibration import Modality
from halftone.spec.errors import RefusedInput

_PIECE: Final = 8 << 20
# A row with its images inside takes some megabytes; more means that the file is something else.
MAX_ROW_BYTES: Final = 256 << 20
_MARK: Final = b"\xef\xbb\xbf"  # what some editors put in front of UTF-8
# What files begin with that are called JSON and are none, and what to do about them.
_OTHERS: Final = {
    b"\xff\xfe": "is in UTF-16 or UTF-32; save it as UTF-8",
    b"\xfe\xff": "is in UTF-16; save it as UTF-8",
    b"\x1f\x8b": "is packed by gzip; let its name end with `.gz`",
    b"\x28\xb5\x2f\xfd": "is packed by zstd; unpack it",
    b"PK\x03\x04": "is a ZIP archive; unpack it",
    b"PAR1": "is Parquet; let its name end with `.parquet`",
    b"version https://git-lfs": "is a pointer of Git LFS; fetch the file itself by `git lfs pull`",
    b"[": "begins with a JSON array; write JSON Lines, one object on each line",
}
# How refusals of JSON end that was written by programs, and where their parser stopped.
_REMEDY: Final = re.compile(r"(; fetch (the file|it) again)?\.$")
_AT: Final = re.compile(r": line \d+ column (\d+) \(char \d+\)")


class JsonLines:
    """The rows of one file, by position among those that are usable."""

    def __init__(
        self, read: Read, size_bytes: int, name: str, *, piece_bytes: int = _PIECE
    ) -> None:
        self._read = read
        self._piece_bytes = piece_bytes
        self._size_bytes = size_bytes
        self._name = name
        # Of every usable row: its first byte, its length and its line.
        self._places = array("Q")

    def scan(self) -> Iterator[Modality]:
        """What each usable row holds, in order; `read` takes positions in what this gave.

        Raises RefusedInput(DatasetUnusable) for a line that is no JSON object, or no row.
        """
        self._places = array("Q")
        begin = 0
        for number, line in enumerate(self._lines(), 1):
            row = self._understood(line, number)
            if row is not None:
                self._places.extend((begin, len(line), number))
                yield row.modality
            begin += len(line)

    def read(self, positions: Sequence[int]) -> Iterator[Row]:
        """The usable rows at `positions`, which are in order."""
        for position in positions:
            begin, length, number = self._places[3 * position : 3 * position + 3]
            row = self._understood(self._read(begin, length), number)
            assert row is not None  # the file has not changed: the store sees to that
            yield row

    def _understood(self, line: bytes, number: int) -> Row | None:
        line = (line.removeprefix(_MARK) if number == 1 else line).strip()
        if not line:
            return None
        place = f"line {number} of `{self._name}`"
        try:
            fields = parse_object(line, f"{self._name}, line {number}")
            refuse_deep(fields, f"{self._name}, line {number}")
        except RefusedInput as error:
            self._refuse_other(line, place)
            said = _REMEDY.sub("", _AT.sub(r": column \1", error.message))
            refuse(
                place, f"{said}; mend or remove the line, each of which is one JSON object.", error
            )
        return understood(fields, place, self._name)

    def _refuse_other(self, line: bytes, place: str) -> None:
        """Say of a file without a row so far what it is instead."""
        if self._places:
            return
        for begin, said in _OTHERS.items():
            if line.startswith(begin):
                refuse(place, f"`{self._name}` {said}.")

    def _lines(self) -> Iterator[bytes]:
        """Each line with its end, as it comes."""
        rest = b""
        for offset in range(0, self._size_bytes, self._piece_bytes):
            piece = self._read(offset, min(self._piece_bytes, self._size_bytes - offset))
            *lines, rest = (rest + piece).split(b"\n")
            yield from (line + b"\n" for line in lines)
            if len(rest) > MAX_ROW_BYTES:
                refuse(
                    self._name,
                    f"`{self._name}` has a line of more than {MAX_ROW_BYTES >> 20} MiB; write JSON "
                    "Lines, one object on each line.",
                )
        if rest:
            yield rest
