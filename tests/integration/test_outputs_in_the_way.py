"""Outputs on which no checkpoint can be put, or on which one lies that is not what was written.

We test these aspects, through the real command line:
- what cannot be the output is refused before any work, by the name that the user gave it
- a finished output is proven by its bytes

Mounting takes root; where it cannot be done that test fails and says so.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.builders import write_checkpoint
from tests.commands import files_of, halftone
from tests.disks import small_disk
from tests.refusals import sentence_of

RECIPE = ("--recipe", "nvfp4a16")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "source", "qwen3")


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own below `tmp_path`."""
    with small_disk(tmp_path / "mount", 4_000_000) as directory:
        yield directory


@pytest.mark.parametrize("linked", [False, True])
def test_a_mount_point_is_refused_and_a_directory_inside_it_taken(
    linked: bool, source: Path, mount: Path, tmp_path: Path
) -> None:
    output = tmp_path / "link" if linked else mount
    if linked:
        output.symlink_to(mount)
    before = files_of(tmp_path)

    refused = halftone("quantize", source, output, *RECIPE)
    taken = halftone("quantize", source, output / "model", *RECIPE)

    assert sentence_of(refused) == (
        f"'{output}' is a mount point, which the finished checkpoint cannot replace; give a "
        f"directory inside it, such as '{output / 'model'}'."
    )
    assert before.keys() == {name for name in files_of(tmp_path) if not name.startswith("mount/")}
    assert not list(tmp_path.glob(".*"))
    assert taken.code == 0, taken.err


@pytest.mark.parametrize(
    ("output", "words"),
    [
        ("/proc/halftone", "choose a directory in which directories can be made"),
        ("m" * 300, "(File name too long); choose a shorter name"),
        ("m" * 250, "(File name too long); choose a shorter name"),  # with what we add to it
        ("source/config.json/model", "(Not a directory); choose a directory below which"),
    ],
)
def test_an_output_that_cannot_be_made_is_refused_by_its_own_name(
    output: str, words: str, source: Path, tmp_path: Path
) -> None:
    before = files_of(tmp_path)

    ended = halftone("quantize", source, tmp_path / output, *RECIPE)

    assert ended.code == 3
    assert ended.failure.startswith(f"halftone: '{tmp_path / output}' cannot be the output (")
    assert words in ended.failure
    assert ".partial" not in ended.failure
    assert files_of(tmp_path) == before


def test_a_finished_output_with_one_other_bit_is_not_taken_for_finished(
    source: Path, tmp_path: Path
) -> None:
    output = tmp_path / "output"
    assert halftone("quantize", source, output, *RECIPE).code == 0
    shard = output / "model.safetensors"
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)

    ended = halftone("quantize", source, output, *RECIPE)

    assert sentence_of(ended) == (
        f"'{shard}' is missing or is not the file that was written (its SHA-256 differs from "
        f"checkpoint.json); remove '{output}' and run the same command again."
    )
    assert shard.read_bytes() == data
