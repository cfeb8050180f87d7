"""Each defect of a safetensors header is refused, in a sentence that names file or tensor.

We test these aspects:
- lengths that cannot be, and files that are something else
- tensors that overlap, leave gaps or leave the file
- descriptions, shapes, offsets and names that are none
- JSON that is none, or would fill the memory
"""

import json
from typing import Any

import pytest

from halftone.checkpoint.headers import (
    MAX_HEADER_BYTES,
    MAX_TENSORS,
    ShardHeader,
    TensorEntry,
    bounded,
    parse_header,
)
from halftone.spec.dtypes import Dtype
from halftone.spec.errors import RefusedInput
from halftone.spec.names import Reason

FILE = "model.safetensors"
ONE = {"w": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}}


def raw_header(document: object) -> bytes:
    """Length and JSON, byte for byte, whatever the document is."""
    text = document if isinstance(document, bytes) else json.dumps(document).encode()
    return len(text).to_bytes(8, "little") + text


def refusal(document: object, data_bytes: int = 24) -> str:
    """The sentence with which a header over `data_bytes` bytes of data is refused."""
    raw = raw_header(document)
    with pytest.raises(RefusedInput) as caught:
        parse_header(FILE, len(raw) + data_bytes, raw)
    assert caught.value.reason is Reason.MalformedCheckpoint
    assert f"`{FILE}`" in str(caught.value)
    assert str(caught.value).isprintable()
    return str(caught.value)


def one(**changes: Any) -> dict[str, Any]:
    """A header with one tensor, changed."""
    return {"w": ONE["w"] | changes}


def test_a_file_too_short_for_a_length_is_refused() -> None:
    with pytest.raises(RefusedInput) as caught:
        parse_header(FILE, 5, b"12345")
    assert str(caught.value) == (f"`{FILE}` is too short for a safetensors file; fetch it again.")


def test_a_header_longer_than_the_file_is_refused() -> None:
    with pytest.raises(RefusedInput) as caught:
        parse_header(FILE, 1000, (5000).to_bytes(8, "little"))
    assert str(caught.value) == (
        f"`{FILE}` claims a header of 5000 bytes but has only 1000 bytes in all; it is truncated: "
        "fetch it again."
    )


def test_a_header_over_the_limit_is_refused_even_in_a_larger_file() -> None:
    length = MAX_HEADER_BYTES + 1
    with pytest.raises(RefusedInput) as caught:
        parse_header(FILE, 10**12, length.to_bytes(8, "little"))
    assert str(caught.value) == (
        f"`{FILE}` claims a header of 100000001 bytes, and safetensors allows 100000000; it is no "
        "safetensors file, or damaged: fetch it again."
    )


def test_a_header_that_its_file_cuts_short_is_refused() -> None:
    raw = raw_header(ONE)
    with pytest.raises(RefusedInput, match="ends inside its header"):
        parse_header(FILE, len(raw) + 24, raw[:-1])


def test_a_pointer_of_git_lfs_is_recognised() -> None:
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 5368709120\n"
    with pytest.raises(RefusedInput) as caught:
        parse_header(FILE, len(pointer), pointer)
    assert str(caught.value) == (
        f"`{FILE}` is a Git LFS pointer and not the weights; run `git lfs pull`."
    )


def test_a_truncated_shard_names_the_first_tensor_that_is_cut() -> None:
    raw = raw_header(ONE)
    with pytest.raises(RefusedInput) as caught:
        parse_header(FILE, len(raw) + 23, raw)
    assert caught.value.subject == "w"
    assert str(caught.value) == (
        f"Tensor `w` ends at byte {len(raw) + 24} of `{FILE}`, which has {len(raw) + 23}; the file "
        "is truncated: fetch it again."
    )


def test_bytes_after_the_last_tensor_are_refused() -> None:
    assert "but its tensors end at byte" in refusal(ONE, data_bytes=25)


def test_bytes_without_any_tensor_are_refused() -> None:
    assert "but its tensors end at byte" in refusal({}, data_bytes=1)


def test_a_file_without_tensors_is_accepted() -> None:
    assert parse_header(FILE, 10, raw_header({})).tensors == {}


def pair(first: list[int], second: list[int]) -> dict[str, Any]:
    return {
        name: {"dtype": "U8", "shape": [span[1] - span[0]], "data_offsets": span}
        for name, span in (("a", first), ("b", second))
    }


def test_overlapping_tensors_are_refused_by_name() -> None:
    sentence = refusal(pair([0, 16], [12, 24]))
    assert sentence.startswith(f"Tensor `b` of `{FILE}` begins at byte ")
    assert " and overlaps `a`, which ends at " in sentence


def test_two_tensors_over_the_same_bytes_are_refused() -> None:
    assert "overlaps `a`" in refusal(pair([0, 24], [0, 24]))


def test_a_gap_between_tensors_is_refused_by_name() -> None:
    assert "leaves a gap after `a`" in refusal(pair([0, 8], [12, 24]))


def test_a_gap_before_the_first_tensor_is_refused() -> None:
    assert "Tensor `a`" in refusal(pair([1, 8], [8, 24]))


def test_order_in_the_header_is_free_and_empty_tensors_lie_between_others() -> None:
    document = pair([8, 24], [0, 8]) | pair([8, 24], [8, 8]) | {"c": pair([0, 0], [0, 8])["b"]}
    raw = raw_header(document)
    assert list(parse_header(FILE, len(raw) + 24, raw).tensors) == ["a", "b", "c"]


def test_an_unknown_dtype_is_refused_with_the_known_ones() -> None:
    sentence = refusal(one(dtype="F7"))
    assert sentence.startswith(f"Tensor 'w' of `{FILE}` has the unknown dtype 'F7'; known are BOOL")


def test_a_span_that_the_shape_does_not_fill_is_refused() -> None:
    assert refusal(one(shape=[2, 2])) == (
        f"Tensor `w` of `{FILE}` spans 24 bytes, but F32 of shape [2, 2] takes 16; fetch the file "
        "again."
    )


def test_four_bit_tensors_fill_whole_bytes() -> None:
    raw = raw_header(one(dtype="F4", shape=[48]))
    assert parse_header(FILE, len(raw) + 24, raw).tensors["w"].nbytes == 24
    assert "of shape [47] takes 24" in refusal(one(dtype="F4", shape=[47]))


@pytest.mark.parametrize(
    "shape",
    [
        [-2, -3],
        [2.0, 3],
        [True, 6],
        ["2", 3],
        "23",
        {"2": 3},
        None,
        6,
        [6, None],
        [1] * 33,
        [1 << 63],
    ],
)
def test_an_impossible_shape_is_refused(shape: object) -> None:
    assert f"Tensor `w` of `{FILE}` has the impossible shape" in refusal(one(shape=shape))


def test_a_shape_too_large_for_any_number_is_refused() -> None:
    assert "spans 24 bytes, but F32 of shape" in refusal(one(shape=[(1 << 63) - 1] * 32))


@pytest.mark.parametrize("offsets", [[24, 0], [-24, 0], [0.0, 24], [False, 24], ["0", "24"]])
def test_impossible_offsets_are_refused(offsets: object) -> None:
    assert f"Tensor `w` of `{FILE}` has impossible offsets" in refusal(one(data_offsets=offsets))


@pytest.mark.parametrize("offsets", [[1 << 63, 1 << 64], [0, 1 << 200]])
def test_offsets_beyond_the_file_are_refused(offsets: list[int]) -> None:
    assert "the file is truncated" in refusal(one(data_offsets=offsets))


@pytest.mark.parametrize(
    "described",
    [None, [], "F32", 7, {}, {"dtype": "F32"}, one(data_offsets=[0])["w"], one(dtype=["F32"])["w"]],
)
def test_a_description_with_something_missing_is_refused(described: object) -> None:
    sentence = refusal({"w": described})
    assert sentence.startswith(f"Tensor 'w' of `{FILE}` is described by ")
    assert "`dtype`, `shape` and two `data_offsets` are needed" in sentence


def test_a_name_with_half_of_a_surrogate_pair_is_refused() -> None:
    assert "holds half of a surrogate pair" in refusal({"w\ud800": ONE["w"]})


@pytest.mark.parametrize("name", ["", "x" * 513, "bell\x07", "\x1b[2J", "new\nline"])
def test_a_name_that_cannot_be_shown_is_refused(name: str) -> None:
    assert "no tensor may be named so" in refusal({name: ONE["w"]})


@pytest.mark.parametrize("metadata", [[], "pt", {"format": 1}, {"a": {"b": "c"}}, {"a": None}])
def test_metadata_other_than_strings_is_refused(metadata: object) -> None:
    assert "must map strings to strings" in refusal({"__metadata__": metadata} | ONE)


def test_a_tensor_that_is_described_twice_is_refused() -> None:
    text = json.dumps(ONE)
    twice = f'{text[:-1]}, "w": {{}}}}'.encode()
    assert "the key 'w' appears twice" in refusal(twice)


def test_a_field_that_is_given_twice_is_refused() -> None:
    text = json.dumps(ONE).replace('"shape"', '"dtype": "U8", "shape"').encode()
    assert "the key 'dtype' appears twice" in refusal(text)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b" {}",
        b"[]",
        b"null",
        b"{",
        b"{}}",
        b"{'w': 1}",
        b'{"w": 1,}',
        b"\xef\xbb\xbf{}",
        '{"w": 1}'.encode("utf-16"),
        b'{"\xff": 1}',
        b"{}\x00\x00",
        b'{"w": ' + b"[" * 100_000,
        b'{"w": ' * 100_000,
        b'{"w": ' + b"9" * 5000 + b"}",
        b'{"w": NaN}',
        b'{"w": {"dtype": "F32", "shape": [Infinity], "data_offsets": [0, -Infinity]}}',
    ],
    ids=range(17),
)
def test_what_is_not_json_is_refused(text: bytes) -> None:
    assert "fetch" in refusal(text)


def test_a_header_that_would_fill_the_memory_is_refused_before_it_is_parsed() -> None:
    text = b'{"w":[' + b"[]," * 2_100_000 + b"[]]}"
    assert "holds more than 4000000 values" in refusal(text)


def shard(file: str, count: int) -> ShardHeader:
    """A header with `count` tensors, which are one and the same."""
    entry = TensorEntry("w", Dtype.F32, (), file, 8, 4)
    return ShardHeader(file, 12, 8, "", dict.fromkeys(map(str, range(count)), entry), {})


def test_shards_may_not_hold_more_tensors_together_than_memory_is_meant_for() -> None:
    half = shard("model-1.safetensors", MAX_TENSORS // 2)
    assert bounded([half, half]) == (half, half)

    one_more = shard("model-3.safetensors", 1)
    unread = iter([half, half, one_more, half])
    with pytest.raises(RefusedInput, match=f"`model-3.safetensors` .* {MAX_TENSORS + 1} tensors"):
        bounded(unread)
    assert list(unread) == [half]
