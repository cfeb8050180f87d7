"""Odd and damaged Parquet files, and what Halftone says of each.

    python parquet_rows.py REQUEST.json ANSWER.json

Run in the quantize environment, which has pyarrow; it imports no torch. REQUEST has `folder`, where
files are written, `cuts` and `flips`, how many damaged copies are made of each whole file, and
`seed`. ANSWER has `odd`, by name how many rows were read or the refusal; and `damaged`, a list of
the same for every copy.
"""

import json
import random
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import parquet

from halftone.quantize.calibration.dataset.row_index import RowIndex
from halftone.spec.calibration import Dataset, Modality
from halftone.spec.errors import RefusedInput
from halftone.stores.datasets import open_dataset

_FAR = 2**60  # milliseconds: long after the last year that Python knows


def tables() -> dict[str, pa.Table]:
    """Whole files that no writer should have made, and two that are as they should be."""
    user, hello = pa.array(["user", "user"]), pa.array(["hello", "again"])
    late = pa.array([0, _FAR], type=pa.timestamp("ms"))
    many = pa.array(["user"]).take(pa.array([0] * (1 << 21)))
    parts = pa.StructArray.from_arrays([many], names=["type"])
    content = pa.ListArray.from_arrays([0, len(parts)], parts)
    return {
        "two columns": pa.table([hello, user], names=["text", "text"]),
        "two columns that nobody reads": pa.table([hello, user, user], names=["text", "x", "x"]),
        "two fields": spoken([user, user, hello], ["role", "role", "content"]),
        "late message": spoken([user, hello, late], ["role", "content", "at"]),
        "late text": pa.table({"text": late.slice(1)}),
        "text of bytes": pa.table({"text": [b"fine", b"\xff"]}),
        "text in a dictionary": pa.table({"text": hello.dictionary_encode()}),
        "no rows": pa.table({"text": hello.slice(2)}),
        "two million parts": spoken([user.slice(1), content], ["role", "content"]),
        "plain": pa.table({"text": [f"row {number}" for number in range(100)]}),
        "pictures": pa.Table.from_pylist([
            {
                "messages": [{"role": "user", "content": [{"type": "image", "text": None},
                                                          {"type": "text", "text": "what"}]}],
                "images": [{"bytes": bytes([number] * 20), "path": "a.png"}],
            }
            for number in range(60)
        ]),
    }  # fmt: skip


def spoken(columns: list[pa.Array], names: list[str]) -> pa.Table:
    """A table of one message a row, whose fields may share names."""
    fields = [pa.field(name, array.type) for name, array in zip(names, columns, strict=True)]
    messages = pa.StructArray.from_arrays(columns, fields=fields)
    return pa.table({"messages": pa.ListArray.from_arrays(range(len(messages) + 1), messages)})


def told(file: Path) -> Any:
    """How many rows are read from `file`, or the refusal."""
    try:
        with (
            closing(open_dataset(Dataset(path=str(file)))) as dataset,
            closing(RowIndex(dataset, list(Modality), file.parent)) as index,
        ):
            usable = {modality: range(index.usable(modality)) for modality in Modality}
            return sum(len(list(index.rows(one, numbers))) for one, numbers in usable.items())
    except RefusedInput as error:
        return [error.reason, error.subject, error.message]


def damaged(whole: bytes, cuts: int, flips: int, chance: random.Random) -> Iterator[bytes]:
    """Copies of a file that end too early, or of which some bits are others; half in its footer."""
    for _ in range(cuts):
        yield whole[: chance.randrange(len(whole))]
    footer = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
    for number in range(flips):
        copy = bytearray(whole)
        for _ in range(chance.choice((1, 2, 8))):
            copy[chance.randrange(footer * (number % 2), len(copy))] ^= 1 << chance.randrange(8)
        yield bytes(copy)


def main(request: Path, answer: Path) -> None:
    """Answer every question of a file."""
    asked = json.loads(request.read_text())
    folder, chance, odd, broken = Path(asked["folder"]), random.Random(asked["seed"]), {}, []
    for name, table in tables().items():
        file = folder / "odd.parquet"
        parquet.write_table(table, file, row_group_size=30)
        odd[name] = told(file)
        if name in {"plain", "pictures"}:
            whole = file.read_bytes()
            for copy in damaged(whole, asked["cuts"], asked["flips"], chance):
                file.write_bytes(copy)
                broken.append(told(file))
    answer.write_text(json.dumps({"odd": odd, "damaged": broken}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
