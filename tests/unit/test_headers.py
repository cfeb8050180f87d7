"""safetensors headers: what we write the library reads, what it writes we read.

`test_headers_refused.py` has every defect with its sentence.

We test these aspects:
- equivalence with the safetensors library, in both directions
- any bytes at all end in a header or in a refusal
- how much of a file is read
"""

import hashlib
import json
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from halftone.checkpoint.headers import (
    FIRST_GUESS_BYTES,
    ShardHeader,
    TensorEntry,
    guess_header_bytes,
    parse_header,
    read_header,
    serialize_header,
)
from halftone.spec.dtypes import Dtype
from halftone.spec.errors import RefusedInput
from halftone.stores import open_source

FILE = "model.safetensors"
ONE = {"w": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}}


def raw_header(document: object) -> bytes:
    """Length and JSON of any document."""
    text = json.dumps(document).encode()
    return len(text).to_bytes(8, "little") + text


def test_a_header_says_where_each_tensor_lies_in_the_file() -> None:
    raw = raw_header({"__metadata__": {"format": "pt"}} | ONE)
    header = parse_header(FILE, len(raw) + 24, raw + b"data")

    assert header == ShardHeader(
        file=FILE,
        size_bytes=len(raw) + 24,
        header_bytes=len(raw),
        sha256=hashlib.sha256(raw).hexdigest(),
        tensors={"w": TensorEntry("w", Dtype.F32, (2, 3), FILE, len(raw), 24)},
        metadata={"format": "pt"},
    )


def test_a_header_of_the_safetensors_library_is_understood(tmp_path: Path) -> None:
    tensors: dict[str, npt.NDArray[Any]] = {
        "a.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
        "scalar": np.array(7, dtype=np.int64),
        "empty": np.zeros((0, 4), dtype=np.float16),
        "codes": np.arange(5, dtype=np.uint8),
        "ünï": np.ones(3, dtype=np.float64),
    }
    save_file(tensors, tmp_path / FILE, metadata={"format": "np"})

    with closing(open_source(tmp_path)) as source:
        header = read_header(source, source.files()[0])
        for name, expected in tensors.items():
            entry = header.tensors[name]
            data = source.read_range(FILE, entry.offset, entry.nbytes)
            assert entry.shape == expected.shape
            assert data == expected.tobytes()
    assert header.metadata == {"format": "np"}
    assert header.tensors.keys() == tensors.keys()


def test_the_safetensors_library_reads_what_we_write(tmp_path: Path) -> None:
    rows = [
        ("z.weight", Dtype.F32, (2, 3), 0, 24),
        ('ünï "quoted"', Dtype.U8, (5,), 24, 29),
        ("empty", Dtype.F16, (0, 4), 29, 29),
        ("scalar", Dtype.I64, (), 29, 37),
    ]
    data = bytes(range(37))
    header = serialize_header(rows, {"format": "pt", "by": "us"})
    (tmp_path / FILE).write_bytes(header + data)

    with safe_open(tmp_path / FILE, "np") as opened:
        assert set(opened.keys()) == {row[0] for row in rows}
        assert opened.metadata() == {"format": "pt", "by": "us"}
    loaded = load_file(tmp_path / FILE)
    for name, _, shape, begin, end in rows:
        assert loaded[name].shape == shape
        assert loaded[name].tobytes() == data[begin:end]


@pytest.mark.parametrize("dtype", [d for d in Dtype if not d.startswith(("F4", "F6"))])
def test_the_safetensors_library_knows_every_dtype_that_we_name(
    tmp_path: Path, dtype: Dtype
) -> None:
    header = serialize_header([("w", dtype, (8,), 0, dtype.nbytes((8,)))], {})
    (tmp_path / FILE).write_bytes(header + bytes(dtype.nbytes((8,))))

    with safe_open(tmp_path / FILE, "np") as opened:
        assert opened.get_slice("w").get_dtype() == dtype


def test_a_header_is_padded_and_depends_on_nothing_but_its_tensors() -> None:
    rows = [("a", Dtype.BF16, (4,), 0, 8), ("b", Dtype.BF16, (4,), 8, 16)]
    header = serialize_header(rows, {"b": "2", "a": "1"})

    assert len(header) % 8 == 0
    assert header == serialize_header(iter(rows), {"a": "1", "b": "2"})
    text = header[8:].decode()
    assert text.startswith('{"__metadata__":{"a":"1","b":"2"},"a":{"dtype":"BF16","shape":[4],')


# Spelled out, because Hypothesis takes seconds to find out what all of Unicode is.
_TEXT = st.text('ab."\\/\u00e9\u4e2d\U0001f642', max_size=9)


@given(
    st.lists(
        st.tuples(
            _TEXT.filter(bool),
            st.sampled_from([d for d in Dtype if d.bits >= 8]),
            st.lists(st.integers(0, 9), max_size=4),
        ),
        unique_by=lambda row: row[0],
        max_size=8,
    ),
    st.dictionaries(_TEXT, _TEXT, max_size=3),
)
def test_what_is_written_is_read_back(
    tensors: list[tuple[str, Dtype, list[int]]], metadata: dict[str, str]
) -> None:
    rows, begin = [], 0
    for name, dtype, shape in tensors:
        end = begin + dtype.nbytes(tuple(shape))
        rows.append((name, dtype, tuple(shape), begin, end))
        begin = end
    raw = serialize_header(rows, metadata)
    header = parse_header(FILE, len(raw) + begin, raw)

    assert header.metadata == metadata
    assert [
        (e.name, e.dtype, e.shape, e.offset - len(raw), e.offset - len(raw) + e.nbytes)
        for e in header.tensors.values()
    ] == rows


@given(st.binary(max_size=200), st.integers(0, 300))
def test_any_bytes_end_in_a_header_or_in_a_refusal(raw: bytes, size: int) -> None:
    _parse_or_refuse(raw, size)


_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 60)
    | st.integers()
    | st.floats()
    | st.sampled_from(["F32", "U8", "F4", "dtype", "shape", "__metadata__"])
    | _TEXT,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(_TEXT | st.just("__metadata__"), inner, max_size=3)
        | st.fixed_dictionaries({"dtype": inner, "shape": inner, "data_offsets": inner})
    ),
    max_leaves=12,
)
_NEARLY = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["U8", "F16", "F4"]) | _JSON,
        "shape": st.lists(st.integers(0, 8), max_size=3) | _JSON,
        "data_offsets": st.lists(st.integers(0, 64), min_size=2, max_size=2) | _JSON,
    }
)


@settings(deadline=None)
@given(
    st.dictionaries(st.sampled_from(["a", "b", "c", "__metadata__"]), _NEARLY | _JSON) | _JSON,
    st.integers(-3, 3),
    st.integers(0, 80),
)
def test_any_json_ends_in_a_header_or_in_a_refusal(document: object, lie: int, data: int) -> None:
    text = json.dumps(document).encode()
    raw = max(0, len(text) + lie).to_bytes(8, "little") + text
    _parse_or_refuse(raw, len(raw) + data)


def _parse_or_refuse(raw: bytes, size: int) -> None:
    header, sentence = None, ""
    try:
        header = parse_header(FILE, size, raw)
    except RefusedInput as refused:
        sentence = str(refused)
    if header is None:
        assert sentence.isprintable()
        assert FILE in sentence
        return
    spans = sorted((e.offset, e.offset + e.nbytes) for e in header.tensors.values())
    covered = [header.header_bytes, *(end for _, end in spans)]
    assert [begin for begin, _ in spans] == covered[:-1]
    assert covered[-1] == size


def test_a_short_header_is_read_with_one_request_and_no_data_beyond_the_guess(
    tmp_path: Path,
) -> None:
    header = serialize_header([("w", Dtype.U8, (10**7,), 0, 10**7)], {})
    with (tmp_path / FILE).open("wb") as shard:
        shard.write(header)
        shard.truncate(len(header) + 10**7)

    with closing(open_source(tmp_path)) as source:
        read_header(source, source.files()[0])
        assert source.traffic.requests == 1
        assert source.traffic.bytes == FIRST_GUESS_BYTES
        read_header(source, source.files()[0], guess=8)
        assert source.traffic.bytes == FIRST_GUESS_BYTES + len(header)


def test_a_long_header_is_read_with_two_requests_or_with_one_when_its_names_are_known(
    tmp_path: Path,
) -> None:
    names = [f"model.layers.{n}.mlp.experts.{n}.gate_proj.weight" for n in range(4000)]
    big = 10**9  # offsets with as many digits as in the largest shards
    rows = [(name, Dtype.U8, (big,), n * big, (n + 1) * big) for n, name in enumerate(names)]
    header = serialize_header(rows, {"format": "pt"})
    assert FIRST_GUESS_BYTES < len(header) <= guess_header_bytes(names) < 2 * len(header)

    with (tmp_path / FILE).open("wb") as shard:
        shard.write(header)
        shard.truncate(len(header) + len(names) * big)
    with closing(open_source(tmp_path)) as source:
        by_guess = read_header(source, source.files()[0])
        assert source.traffic.requests == 2
        assert source.traffic.bytes == len(header)
        by_names = read_header(source, source.files()[0], guess_header_bytes(names))
        assert source.traffic.requests == 3
    assert by_guess == by_names
