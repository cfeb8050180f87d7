"""Whole checkpoints on paper: index, shards and configuration held against each other.

We test these aspects:
- which files are shards, with an index and without
- every way in which an index and its shards can contradict each other
- names in an index that reach for files of others
- configurations that are no configurations
- that headers alone are read, also from a remote store
"""

import json
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from halftone.checkpoint.headers import serialize_header
from halftone.checkpoint.index import MAX_CONFIG_BYTES, Checkpoint, read_checkpoint
from halftone.spec.dtypes import Dtype
from halftone.spec.errors import RefusedInput
from halftone.spec.names import CONFIG_FILE, INDEX_FILE, Reason
from halftone.stores import open_source

A, B = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"


def write_shard(path: Path, *names: str) -> None:
    """A shard with one byte a tensor."""
    rows = [(name, Dtype.U8, (1,), at, at + 1) for at, name in enumerate(names)]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(serialize_header(rows, {"format": "pt"}) + bytes(len(names)))


def write_index(directory: Path, weight_map: Mapping[str, Any]) -> None:
    text = json.dumps({"metadata": {"total_size": 3}, "weight_map": weight_map})
    (directory / INDEX_FILE).write_text(text)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """Two shards, three tensors, an index and some other files."""
    (tmp_path / CONFIG_FILE).write_text('{"model_type": "qwen3"}')
    (tmp_path / "LICENSE").write_text("Apache-2.0")
    write_shard(tmp_path / A, "x", "y")
    write_shard(tmp_path / B, "z")
    write_index(tmp_path, {"x": A, "y": A, "z": B})
    return tmp_path


def read(directory: Path, *, whole: bool = True) -> Checkpoint:
    with closing(open_source(directory)) as source:
        return read_checkpoint(source, whole=whole)


def refusal(
    directory: Path, *, whole: bool = True, reason: Reason = Reason.MalformedCheckpoint
) -> str:
    with pytest.raises(RefusedInput) as caught:
        read(directory, whole=whole)
    assert caught.value.reason is reason
    assert str(caught.value).isprintable()
    return str(caught.value)


def test_a_checkpoint_with_an_index_is_read(base: Path) -> None:
    checkpoint = read(base)

    assert checkpoint.config == {"model_type": "qwen3"}
    assert [shard.file for shard in checkpoint.shards] == [A, B]
    assert {name: entry.file for name, entry in checkpoint.tensors.items()} == {
        "x": A,
        "y": A,
        "z": B,
    }
    assert checkpoint.index_only == ()
    assert checkpoint.unindexed == ()
    assert [entry.path for entry in checkpoint.other_files] == ["LICENSE"]


def test_a_single_file_needs_no_index(tmp_path: Path) -> None:
    (tmp_path / CONFIG_FILE).write_text("{}")
    write_shard(tmp_path / "model.safetensors", "x")
    write_shard(tmp_path / "consolidated.safetensors", "x")

    checkpoint = read(tmp_path)
    assert [shard.file for shard in checkpoint.shards] == ["model.safetensors"]
    assert [entry.path for entry in checkpoint.other_files] == ["consolidated.safetensors"]


def test_without_an_index_all_safetensors_files_at_the_top_are_shards(base: Path) -> None:
    (base / INDEX_FILE).unlink()
    write_shard(base / "onnx" / "model.safetensors", "x")

    checkpoint = read(base)
    assert checkpoint.tensors.keys() == {"x", "y", "z"}
    assert checkpoint.unindexed == ()
    assert [e.path for e in checkpoint.other_files] == ["LICENSE", "onnx/model.safetensors"]


def test_shards_that_the_index_does_not_name_are_other_files(base: Path) -> None:
    write_shard(base / "consolidated.safetensors", "x")

    assert [e.path for e in read(base).other_files] == ["LICENSE", "consolidated.safetensors"]


def test_shards_may_lie_in_subdirectories(base: Path) -> None:
    write_shard(base / "more" / "w.safetensors", "w")
    write_index(base, {"x": A, "y": A, "z": B, "w": "more/w.safetensors"})

    assert read(base).tensors["w"].file == "more/w.safetensors"


@pytest.mark.parametrize("whole", [True, False])
def test_an_index_that_names_a_missing_shard_is_refused(base: Path, whole: bool) -> None:
    (base / B).unlink()

    assert refusal(base, whole=whole) == (
        f"`{INDEX_FILE}` puts 'z' into '{B}', a shard that is missing; fetch it, or fetch the "
        "index again."
    )


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize(
    "shard",
    [
        "../private.safetensors",
        "more/../../private.safetensors",
        "/etc/private.safetensors",
        "..\\private.safetensors",
        "C:\\private.safetensors",
        "private.safetensors\x00",
        "\x1b[2Jprivate.safetensors",
    ],
)
def test_an_index_that_reaches_out_of_its_directory_is_refused(
    base: Path, shard: str, whole: bool
) -> None:
    write_shard(base.parent / "private.safetensors", "z")
    write_index(base, {"x": A, "y": A, "z": shard})

    sentence = refusal(base, whole=whole)
    assert f"puts 'z' into {shard!r}, and an index may name only files of its own dire" in sentence
    assert "do not use this checkpoint unless you know who wrote it" in sentence


def test_an_index_that_names_a_pickle_is_refused(base: Path) -> None:
    (base / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    write_index(base, {"x": A, "y": A, "z": "pytorch_model.bin"})

    assert "into 'pytorch_model.bin', which is no safetensors file; convert it" in refusal(base)


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("indexed", [True, False])
def test_a_tensor_in_two_shards_is_refused(base: Path, indexed: bool, whole: bool) -> None:
    write_shard(base / B, "y", "z")
    if not indexed:
        (base / INDEX_FILE).unlink()

    assert refusal(base, whole=whole) == (
        f"Tensor `y` is both in `{A}` and in `{B}`; take away the file that is not part of the "
        "checkpoint."
    )


def test_a_tensor_that_only_the_index_has_is_refused_by_name(base: Path) -> None:
    write_index(base, {"x": A, "y": A, "z": B, "v": B, "w": B})

    assert refusal(base) == (
        f"`{INDEX_FILE}` puts 'v' into `{B}`, but it is not there (the first of 2 such tensors); "
        "fetch the index and the shards of one revision."
    )


def test_a_tensor_that_only_a_shard_has_is_refused_by_name(base: Path) -> None:
    write_index(base, {"x": A, "z": B})

    assert refusal(base) == (
        f"Tensor `y` is in `{A}`, but `{INDEX_FILE}` does not name it (one such tensor); fetch "
        "the index and the shards of one revision."
    )


def test_a_tensor_in_another_shard_than_the_index_says_is_refused(base: Path) -> None:
    write_index(base, {"x": A, "y": B, "z": B})

    assert f"puts 'y' into `{B}`, but it is in `{A}` (one such tensor)" in refusal(base)


def test_inspection_is_told_of_differences_instead(base: Path) -> None:
    write_index(base, {"x": A, "y": B, "z": B, "w": A})
    write_shard(base / B, "z", "extra")

    checkpoint = read(base, whole=False)
    assert checkpoint.index_only == ("y", "w")
    assert checkpoint.unindexed == ("y", "extra")
    assert checkpoint.tensors.keys() == {"x", "y", "z", "extra"}


@pytest.mark.parametrize(
    "weight_map", [None, [], {}, "x", {"x": 1}, {"x": None}, {"x": [A]}, {"x": {"file": A}}]
)
def test_a_weight_map_that_maps_no_names_to_files_is_refused(
    base: Path, weight_map: Mapping[str, Any]
) -> None:
    write_index(base, weight_map)

    assert f"`{INDEX_FILE}`" in refusal(base)


def test_a_tensor_that_the_index_places_twice_is_refused(base: Path) -> None:
    (base / INDEX_FILE).write_text(f'{{"weight_map": {{"x": "{A}", "x": "{B}"}}}}')

    assert "the key 'x' appears twice" in refusal(base)


@pytest.mark.parametrize("suffix", [".bin", ".pt", ".pth", ".ckpt"])
def test_pickled_weights_alone_are_refused_unopened(tmp_path: Path, suffix: str) -> None:
    (tmp_path / CONFIG_FILE).write_text("{}")
    (tmp_path / f"pytorch_model{suffix}").write_bytes(b"\x80\x04.")

    assert refusal(tmp_path, reason=Reason.NoSafetensors) == (
        f"`{tmp_path}` holds pickled weights only (`pytorch_model{suffix}`), and a pickle can run "
        "any code when it is opened; convert it to safetensors, or use a revision that has them."
    )


def test_a_source_without_weights_is_refused(tmp_path: Path) -> None:
    (tmp_path / CONFIG_FILE).write_text("{}")

    assert "holds no `*.safetensors` file; give" in refusal(tmp_path, reason=Reason.NoSafetensors)


def test_a_source_without_configuration_is_refused(base: Path) -> None:
    (base / CONFIG_FILE).unlink()

    assert refusal(base, reason=Reason.SourceNotFound) == (
        f"`{base}` has no `config.json`; give the directory, prefix or repository of a whole "
        "checkpoint."
    )


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b'"qwen3"',
        b"{",
        b"\xff\xfe{",
        b'{"a": NaN}',
        b'{"a": 1, "a": 2}',
        b'{"a": ' * 100_000,
        b'{"a": ' * 300 + b"1" + b"}" * 300,
        b'{"a": ' + b"9" * 5000 + b"}",
        b'{"a": [1e999]}',
        b'{"a": -1e999}',
        rb'{"a": {"\ud800": 1}}',
        rb'{"a": "\uDFFF"}',
    ],
    ids=range(14),
)
def test_a_configuration_that_is_no_json_object_is_refused(base: Path, text: bytes) -> None:
    (base / CONFIG_FILE).write_bytes(text)

    assert "`config.json`" in refusal(base)


def test_characters_beyond_the_first_plane_may_be_escaped(base: Path) -> None:
    (base / CONFIG_FILE).write_bytes(rb'{"a": "\ud83d\ude00", "b": "\\ud800", "c": 1e-400}')

    assert read(base).config == {"a": "\N{GRINNING FACE}", "b": r"\ud800", "c": 0.0}


def test_a_configuration_without_end_is_refused_unread(base: Path) -> None:
    with (base / CONFIG_FILE).open("wb") as config:
        config.truncate(MAX_CONFIG_BYTES + 1)

    assert "`config.json` has 16000001 bytes, and 16000000 are allowed" in refusal(base)


def test_a_truncated_shard_is_refused_whoever_asks(base: Path) -> None:
    shard = base / A
    shard.write_bytes(shard.read_bytes()[:-1])

    sentence = f"of `{A}`, which has {shard.stat().st_size}; the file is truncated: fetch it again."
    assert sentence in refusal(base)
    assert sentence in refusal(base, whole=False)


def test_headers_alone_are_read_from_the_largest_shards(tmp_path: Path) -> None:
    (tmp_path / CONFIG_FILE).write_text("{}")
    size = 1 << 40  # sparse: a terabyte that nobody could read in a test
    header = serialize_header([("w", Dtype.U8, (size,), 0, size)], {})
    with (tmp_path / "model.safetensors").open("wb") as shard:
        shard.write(header)
        shard.truncate(len(header) + size)

    with closing(open_source(tmp_path)) as source:
        assert read_checkpoint(source).tensors["w"].nbytes == size
        assert source.traffic.bytes < 300_000
