"""Files of a source that are wrong: truncated, malformed, hostile, missing, pickled.

Through the real command line: one sentence, exit code 2, nothing written.
"""

import json
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.builders import (
    keep_only_a_pickle,
    read_file,
    read_header,
    truncate_shard,
    write_checkpoint,
    write_safetensors,
)
from tests.commands import halftone
from tests.refusals import (
    INDEX,
    change_config,
    change_index,
    refused,
    refused_by_quantize,
    sentence_of,
)

SHARD = "model-00001-of-00003.safetensors"
Q_PROJ = "model.layers.0.self_attn.q_proj.weight"
DOWN_PROJ = "model.layers.1.mlp.down_proj.weight"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "source", "qwen3")


def write_head(path: Path, document: dict[str, Any], data: bytes = b"", length: int = -1) -> None:
    """A shard with this header, whatever it says."""
    text = json.dumps(document).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length < 0 else length) + text + data)


def change_header(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Rewrite a shard's header, its data untouched."""
    entries, start = read_header(path)
    data = path.read_bytes()[start:]
    change(entries)
    write_head(path, entries, data)


def test_a_truncated_shard_is_refused(source: Path, tmp_path: Path) -> None:
    path = truncate_shard(source, DOWN_PROJ, 5)

    sentence = refused(source, tmp_path)

    assert f"`{path.name}`" in sentence
    assert "the file is truncated: fetch it again" in sentence


def test_a_header_longer_than_its_file_is_refused(source: Path, tmp_path: Path) -> None:
    write_head(source / SHARD, {}, length=50_000)

    assert refused(source, tmp_path).startswith(
        f"`{SHARD}` claims a header of 50000 bytes but has only 10 bytes in all"
    )


def test_a_header_of_more_than_100_mb_is_refused(source: Path, tmp_path: Path) -> None:
    write_head(source / SHARD, {}, length=100_000_001)
    os.truncate(source / SHARD, 200_000_000)

    sentence = halftone("quantize", source, tmp_path / "output", "--recipe", "nvfp4a16").err

    assert f"`{SHARD}` claims a header of 100000001 bytes" in sentence
    assert "safetensors allows 100000000" in sentence
    assert not (tmp_path / "output").exists()


def test_overlapping_tensors_are_refused(source: Path, tmp_path: Path) -> None:
    entry = {"dtype": "BF16", "shape": [4]}
    write_head(
        source / SHARD,
        {"a": entry | {"data_offsets": [0, 8]}, "b": entry | {"data_offsets": [4, 12]}},
        bytes(12),
    )

    assert f"Tensor `b` of `{SHARD}` begins at byte" in (sentence := refused(source, tmp_path))
    assert "overlaps `a`" in sentence


@pytest.mark.parametrize("offsets", [[0, 10**9], [-8, 0], [8, 0]])
def test_offsets_outside_the_file_are_refused(
    offsets: list[int], source: Path, tmp_path: Path
) -> None:
    change_header(source / SHARD, lambda head: head[Q_PROJ].update(data_offsets=offsets))

    assert f"ensor `{Q_PROJ}`" in refused(source, tmp_path)


def test_an_unknown_dtype_is_refused(source: Path, tmp_path: Path) -> None:
    change_header(source / SHARD, lambda head: head[Q_PROJ].update(dtype="BF17"))

    sentence = refused(source, tmp_path)

    assert f"Tensor '{Q_PROJ}' of `{SHARD}` has the unknown dtype 'BF17'" in sentence
    assert "known are" in sentence


def test_an_index_that_names_a_missing_shard_is_refused(source: Path, tmp_path: Path) -> None:
    (source / SHARD).unlink()

    assert f"into '{SHARD}', a shard that is missing; fetch it" in refused(source, tmp_path)


@pytest.mark.parametrize("name", ["../secret.safetensors", "/etc/passwd", "a/../../b.safetensors"])
def test_an_index_that_leaves_its_directory_is_refused(
    name: str, source: Path, tmp_path: Path
) -> None:
    shutil.copy(source / SHARD, tmp_path / "secret.safetensors")
    change_index(source, lambda placed: placed.update({Q_PROJ: name}))

    sentence = refused(source, tmp_path)

    assert f"`{INDEX}` puts '{Q_PROJ}' into '{name}'" in sentence
    assert "do not use this checkpoint unless you know who wrote it" in sentence


def test_a_tensor_in_two_shards_is_refused(source: Path, tmp_path: Path) -> None:
    other = source / "model-00002-of-00003.safetensors"
    write_safetensors(other, read_file(other) | {Q_PROJ: read_file(source / SHARD)[Q_PROJ]})

    sentence = refused(source, tmp_path)

    assert f"Tensor `{Q_PROJ}` is both in `{SHARD}` and in `{other.name}`" in sentence


def test_a_link_that_leaves_the_directory_is_refused_before_work_begins(
    source: Path, tmp_path: Path
) -> None:
    (tmp_path / "private").write_text("private")
    (source / "tokenizer.json").unlink()
    (source / "tokenizer.json").symlink_to(tmp_path / "private")

    sentence = refused_by_quantize(source, tmp_path)

    assert "`tokenizer.json`" in sentence
    assert "is a symbolic link that leaves the directory" in sentence


def test_pickled_weights_are_refused_unopened(source: Path, tmp_path: Path) -> None:
    keep_only_a_pickle(source)

    sentence = refused(source, tmp_path)

    assert "holds pickled weights only (`pytorch_model.bin`)" in sentence
    assert "convert it to safetensors" in sentence


def test_a_source_that_is_not_there_is_refused(tmp_path: Path) -> None:
    assert refused(tmp_path / "absent", tmp_path).startswith("There is no `")


def test_a_source_without_a_configuration_is_refused(source: Path, tmp_path: Path) -> None:
    (source / "config.json").unlink()

    assert "has no `config.json`" in refused(source, tmp_path)


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"model_type": NaN}', '{"a": 1, "a": 2}', "\udcff"]
)
def test_a_configuration_that_is_no_object_is_refused(
    text: str, source: Path, tmp_path: Path
) -> None:
    (source / "config.json").write_text(text, errors="surrogateescape")

    assert "`config.json`" in refused(source, tmp_path)


@pytest.mark.parametrize(
    "changes",
    [
        {"model_type": ["qwen3"]},
        {"model_type": None},
        {"model_type": "qwen3", "text_config": 7, "quantization_config": "fp8"},
        {"model_type": "qwen3", "quantization_config": {"weight_block_size": ["a", {}]}},
        {"model_type": "qwen3", "text_config": {"mtp_num_hidden_layers": "many"}},
    ],
)
def test_odd_values_in_a_configuration_never_end_in_a_traceback(
    changes: dict[str, Any], source: Path, tmp_path: Path
) -> None:
    change_config(source, **changes)

    for verb in (
        ("plan", source, "--recipe", "nvfp4a16", "--gpu", "B200", "--json"),
        ("quantize", source, tmp_path / "output", "--recipe", "nvfp4a16"),
    ):
        ended = halftone(*verb)
        assert ended.code in {0, 2}
        assert ended.code == 0 or sentence_of(ended)


@pytest.mark.parametrize("uri", ["ftp://host/model", "s3://", "hf://a/b/c", "s3://UPPER/x"])
def test_an_address_that_is_none_is_refused(uri: str, tmp_path: Path) -> None:
    assert uri.split("://", maxsplit=1)[0] in refused(uri, tmp_path)
