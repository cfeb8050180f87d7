"""Traces of requests, read from files.

We test these aspects: both formats, and their times, lengths and order; what a prefix cache would
have held; every refusal names the line and the field; twenty thousand rows are read whole.
"""

import json
from pathlib import Path

import numpy as np
import pytest

from halftone.scaling.loads.load import Load
from halftone.scaling.loads.traces import read_trace
from halftone.spec.errors import RefusedInput
from halftone.spec.names import Reason

AZURE = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:17:03.9799600,4808,10
2023-11-16 18:17:04.0319600,3180,8
"""


def trace(folder: Path, text: str, name: str = "some.csv") -> Load:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return read_trace(path)


def lines(*rows: dict[str, object]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def row(timestamp: float, prompt: int = 1024, output: int = 5, **more: object) -> dict[str, object]:
    return {"timestamp": timestamp, "input_length": prompt, "output_length": output, **more}


def test_azures_columns_are_read_with_seven_digits_of_a_second(tmp_path: Path) -> None:
    load = trace(tmp_path, AZURE)
    assert load.name == "some"
    assert load.arrival_s == pytest.approx([0.0, 0.052], abs=1e-6)
    assert load.prompt.tolist() == [4808, 3180]
    assert load.output.tolist() == [10, 8]
    assert load.cached.tolist() == [0, 0]


def test_times_with_a_zone_other_columns_and_any_order_are_read(tmp_path: Path) -> None:
    load = trace(
        tmp_path,
        "id,GeneratedTokens,TIMESTAMP,ContextTokens\r\n"
        "b,2,2024-05-10 02:00:03.5+02:00,20\r\n\r\n"
        "a,1,2024-05-10 00:00:01+00:00,10\r\n",
    )
    assert load.arrival_s.tolist() == [0.0, 2.5]
    assert load.prompt.tolist() == [10, 20]
    assert load.output.tolist() == [1, 2]


def test_json_lines_are_milliseconds(tmp_path: Path) -> None:
    load = trace(tmp_path, lines(row(3000, 7, 9), row(500.5, 5, 6)))
    assert load.arrival_s == pytest.approx([0.0, 2.4995])
    assert load.prompt.tolist() == [5, 7]
    assert load.output.tolist() == [6, 9]


def test_a_field_may_hold_the_separators_of_unicode(tmp_path: Path) -> None:
    told = json.dumps(row(0, said="a\u2028b\x85c"), ensure_ascii=False)
    assert len(trace(tmp_path, f"{told}\n{told}\n")) == 2


def test_leading_blocks_that_came_before_are_cached(tmp_path: Path) -> None:
    rows = [
        row(0, 1500, hash_ids=[1, 2, 3]),
        row(1, 2000, hash_ids=[1, 2, 9, 3]),  # what follows a new block is new
        row(2, 1024, hash_ids=[1, 2]),  # the last token is always computed
        row(3, 900, hash_ids=[7, 1]),
        row(4, 900),
    ]
    assert trace(tmp_path, lines(*rows)).cached.tolist() == [0, 1024, 1023, 0, 0]


def test_blocks_are_looked_up_in_the_order_of_arrival(tmp_path: Path) -> None:
    rows = [row(1000, hash_ids=[1]), row(0, hash_ids=[1])]
    assert trace(tmp_path, lines(*rows)).cached.tolist() == [0, 512]


def test_nothing_asked_or_answered_counts_as_one_token(tmp_path: Path) -> None:
    load = trace(tmp_path, lines(row(0, 0, 0)))
    assert (load.prompt.tolist(), load.output.tolist(), load.cached.tolist()) == ([1], [1], [0])


@pytest.mark.parametrize(
    ("text", "field", "said"),
    [
        ("", "TIMESTAMP", "line 1 has no column `TIMESTAMP`"),
        ("TIMESTAMP,Context\n", "ContextTokens", "line 1 has no column `ContextTokens`"),
        (AZURE.splitlines()[0], "some.csv", "holds no request"),
        (AZURE + "2023-11-16 18:17:05,7\n", "GeneratedTokens", "in line 4 is missing"),
        (AZURE + "yesterday,7,8\n", "TIMESTAMP", "in line 4 is no time as"),
        (AZURE + "2023-11-16 18:17:05,7.5,8\n", "ContextTokens", "in line 4 is no whole number"),
        (AZURE + "2023-11-16 18:17:05,7,-8\n", "GeneratedTokens", "in line 4 must be from 0"),
        (lines(row(0)) + "[1]\n", "timestamp", "in line 2 is missing, for the line is no JSON"),
        (lines(row(0)) + "{\n", "timestamp", "in line 2 is missing, for the line is no JSON"),
        (lines(row(0), {"timestamp": "x"}), "timestamp", "in line 2 must be a number"),
        ('{"timestamp": NaN}\n', "timestamp", "in line 1 must be a number of milliseconds"),
        (lines({"timestamp": 10**400}), "timestamp", "in line 1 must be a number of milliseconds"),
        (lines(row(0), row(1.7e12)), "some.csv", "lasts 19,676 days, and 31 can be replayed"),
        (lines({"timestamp": 1, "input_length": 2}), "output_length", "and is missing"),
        (lines(row(0, True)), "input_length", "must be a whole number, and is true"),
        (lines(row(0, 10**12)), "input_length", "must be from 0 to 100,000,000 tokens"),
        (lines(row(0, hash_ids="ab")), "hash_ids", "must be a list of block hashes"),
        (lines(row(0, hash_ids=[[1]])), "hash_ids", "must be a list of block hashes"),
    ],
)
def test_what_is_no_trace_is_refused_by_line_and_field(
    text: str, field: str, said: str, tmp_path: Path
) -> None:
    with pytest.raises(RefusedInput) as refused:
        trace(tmp_path, text)
    assert refused.value.reason is Reason.InvalidTrace
    assert refused.value.subject.endswith(field)
    assert said in refused.value.message


def test_files_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00")
    for name, said in (("absent.csv", "No such file"), ("binary.csv", "not text in UTF-8")):
        with pytest.raises(RefusedInput, match=said):
            read_trace(tmp_path / name)


def test_twenty_thousand_rows_are_read_whole(tmp_path: Path) -> None:
    rows = 20_000
    text = AZURE.splitlines()[0] + "\n"
    text += "".join(
        f"2023-11-16 {place // 3600:02}:{place // 60 % 60:02}:{place % 60:02}.1234567,{place},1\n"
        for place in range(rows)
    )
    load = trace(tmp_path, text)
    assert np.array_equal(load.arrival_s, np.arange(rows, dtype=np.float64))
    assert load.prompt.tolist() == [1, *range(1, rows)]
