"""A source that changes while it is read, or between two runs: never a mixture of both.

We test these aspects:
- a change while the command runs is noticed, and what was made of it is thrown away
- a change between two runs is refused where headers show it, and undone where they do not
"""

import os
import shutil
from pathlib import Path

import pytest

from tests.builders import read_checkpoint, set_value, write_checkpoint
from tests.commands import (
    JOURNALED,
    files_of,
    go_on,
    halftone,
    kill,
    start_and_stop,
    wide_config,
)

RECIPE = ("--recipe", "nvfp4a16", "--max-shard-bytes", "3000000")
SLOWLY = (*RECIPE, "--scale-search", "Exhaustive", "--workers", "1")
FIRST = "model.layers.0.self_attn.q_proj.weight"
LAST = "model.layers.1.mlp.up_proj.weight"


@pytest.fixture
def source(wide_source: Path, tmp_path: Path) -> Path:
    return shutil.copytree(wide_source, tmp_path / "source")


def killed_after_a_shard(source: Path, output: Path) -> Path:
    """Unfinished work with at least one finished shard; returns where it lies."""
    partial = output.with_name(f".{output.name}.partial")
    kill(start_and_stop(2, JOURNALED, "quantize", source, output, *SLOWLY))
    assert partial.exists()
    return partial


def test_a_change_while_it_is_read_is_noticed_and_nothing_is_kept(
    source: Path, tmp_path: Path
) -> None:
    output = tmp_path / "output"
    partial = tmp_path / ".output.partial"
    process = start_and_stop(2, JOURNALED, "quantize", source, output, *SLOWLY)
    set_value(source, FIRST, 0.5)  # the same size, and the same header
    _, err = go_on(process)

    assert process.returncode == 2
    assert ".safetensors` of `" in err
    assert "changed while it was being read" in err
    assert not output.exists()
    assert not partial.exists()
    assert halftone("quantize", source, output, *SLOWLY).code == 0
    expected = tmp_path / "expected"
    assert halftone("quantize", source, expected, *SLOWLY).code == 0
    assert files_of(output) == files_of(expected)


def test_weights_replaced_between_two_runs_are_all_read_anew(source: Path, tmp_path: Path) -> None:
    output = tmp_path / "output"
    killed_after_a_shard(source, output)
    other = write_checkpoint(tmp_path / "other", wide_config(), seed=1)
    for path in other.glob("*.safetensors"):
        shutil.copy(path, source / path.name)

    assert halftone("quantize", source, output, *SLOWLY).code == 0

    expected = tmp_path / "expected"
    assert halftone("quantize", source, expected, *SLOWLY).code == 0
    assert read_checkpoint(output) == read_checkpoint(expected)
    assert files_of(output).keys() == files_of(expected).keys()


def test_headers_that_changed_between_two_runs_are_refused_by_file(
    source: Path, tmp_path: Path
) -> None:
    output = tmp_path / "output"
    partial = killed_after_a_shard(source, output)
    before = files_of(partial)
    path = max(source.glob("*.safetensors"))
    with path.open("r+b") as file:  # a blank of the header's padding goes elsewhere
        head = bytearray(file.read(int.from_bytes(file.read(8), "little")))
        file.seek(8)
        file.write(head.rstrip().replace(b":", b": ", 1).ljust(len(head)))

    ended = halftone("quantize", source, output, *SLOWLY)

    assert ended.code == 2
    assert f"'{path.name}' of the source is not the file that this work began with" in ended.err
    assert "bring that one back, or remove the unfinished work" in ended.err
    assert files_of(partial) == before


def test_a_nan_found_late_leaves_nothing_that_a_repaired_source_would_be_mixed_with(
    source: Path, tmp_path: Path
) -> None:
    output = tmp_path / "output"
    set_value(source, LAST, float("nan"))

    ended = halftone("quantize", source, output, *SLOWLY)

    assert ended.code == 2
    assert f"`{LAST}` holds NaN" in ended.err
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_a_source_that_vanishes_is_told(source: Path, tmp_path: Path) -> None:
    output = tmp_path / "output"
    killed_after_a_shard(source, output)
    os.truncate(max(source.glob("*.safetensors")), 10_000)

    ended = halftone("quantize", source, output, *SLOWLY)

    assert ended.code == 2
    assert "truncated" in ended.err
    assert not output.exists()
