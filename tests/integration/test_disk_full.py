"""A full disk, on a real file system of a few megabytes: said plainly, and nothing half written.

Mounting takes root; where it cannot be done these tests fail and say so, since nothing else shows
what a kernel really answers.
"""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.builders import write_checkpoint
from tests.commands import (
    JOURNALED,
    files_of,
    fill_disk,
    go_on,
    halftone,
    start_and_stop,
    wide_config,
)
from tests.disks import small_disk

RECIPE = ("--recipe", "nvfp4a16", "--max-shard-bytes", "3000000")
SLOWLY = (*RECIPE, "--scale-search", "Exhaustive", "--workers", "2")
NEEDED = 16_000_000  # what the output takes, rounded up


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("full") / "source", wide_config())


@pytest.fixture
def too_small(tmp_path: Path) -> Iterator[Path]:
    """A disk on which the output does not fit."""
    with small_disk(tmp_path / "small", NEEDED // 2) as directory:
        yield directory


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk on which the output fits, and little more."""
    with small_disk(tmp_path / "disk", NEEDED + 4_000_000) as directory:
        yield directory


def test_what_cannot_fit_is_refused_before_work_begins(source: Path, too_small: Path) -> None:
    ended = halftone("quantize", source, too_small / "output", *RECIPE)

    assert ended.code == 3
    assert f"halftone: '{too_small / 'output'}' needs 15," in ended.err
    assert "free some space or choose another directory" in ended.err
    assert list(too_small.iterdir()) == []


def test_a_conversion_that_cannot_fit_is_refused_before_it_begins(
    source: Path, too_small: Path, tmp_path: Path
) -> None:
    assert halftone("quantize", source, tmp_path / "ours", *RECIPE).code == 0

    ended = halftone("convert", tmp_path / "ours", too_small / "output", "--to", "ModelOpt")

    assert (ended.code, ended.out) == (3, "")
    assert f"'{too_small / 'output'}' needs 15," in ended.err
    assert list(too_small.iterdir()) == []


def test_the_files_beside_the_weights_count_too(source: Path, disk: Path, tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    for path in source.iterdir():
        os.link(path, tmp_path / "source" / path.name)
    (tmp_path / "source" / "tokenizer.model").write_bytes(bytes(8_000_000))

    ended = halftone("quantize", tmp_path / "source", disk / "output", *RECIPE)

    assert (ended.code, ended.out) == (3, "")
    assert "needs 23," in ended.err
    assert list(disk.iterdir()) == []


@pytest.mark.parametrize("finished_shards", [0, 3])
def test_a_disk_that_fills_up_meanwhile_is_told_and_the_next_run_goes_on(
    finished_shards: int, source: Path, disk: Path, tmp_path: Path
) -> None:
    expected = tmp_path / "expected"
    assert halftone("quantize", source, expected, *SLOWLY).code == 0
    output, partial = disk / "output", disk / ".output.partial"
    # Before the first shard is opened, and when the last of those that can be finished is written.
    times, event = (finished_shards, JOURNALED) if finished_shards else (1, r"open .*\.writing")
    process = start_and_stop(times, event, "quantize", source, output, *SLOWLY)
    fill_disk(disk / "filler")
    _, err = go_on(process)

    assert process.returncode == 3
    sentence = err.splitlines()[-1]
    assert sentence.startswith("halftone: The disk under '")
    assert sentence.endswith(
        "is full; free some space and run the same command again: finished shards are kept."
    )
    assert "Traceback" not in err
    assert not output.exists()
    assert not list(partial.glob("*.writing"))  # useless, and they take the space that is missing
    staged = {
        path.name: (path.stat().st_ino, path.stat().st_mtime_ns)
        for path in partial.rglob("*.safetensors")
    }
    assert len(staged) == finished_shards

    (disk / "filler").unlink()
    again = halftone("quantize", source, output, *SLOWLY)

    assert again.code == 0, again.err
    assert files_of(output) == files_of(expected)
    kept = {p.name: (p.stat().st_ino, p.stat().st_mtime_ns) for p in output.iterdir()}
    assert staged.items() <= kept.items()


def test_a_read_only_output_is_told(source: Path, disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)

    ended = halftone("quantize", source, disk / "output", *RECIPE)

    assert ended.code == 3
    assert ended.failure.startswith(
        f"halftone: '{disk / 'output'}' cannot be the output (Read-only file system); choose "
    )


@pytest.mark.parametrize("verb", ["plan", "run"])
def test_documents_that_cannot_be_written_are_told(
    verb: str, source: Path, disk: Path, tmp_path: Path
) -> None:
    job = tmp_path / "job.yaml"
    job.write_text(
        f"metadata: {{name: full}}\nspec:\n  source: {{directory: {{path: {source}}}}}\n"
        "  quantization: {preset: nvfp4a16}\n"
    )
    fill_disk(disk / "filler")

    ended = (
        halftone("plan", source, "--recipe", "nvfp4a16", "--output", disk / "plan.json")
        if verb == "plan"
        else halftone("run", job, "--workdir", disk / "work")
    )

    assert ended.code == 3
    assert "No space left on device" in ended.err
    assert not list(disk.rglob("*.json"))


def test_a_publish_that_does_not_fit_leaves_no_half_artifact(
    source: Path, too_small: Path, tmp_path: Path
) -> None:
    job = tmp_path / "job.yaml"
    job.write_text(
        f"metadata: {{name: full}}\nspec:\n  source: {{directory: {{path: {source}}}}}\n"
        "  quantization: {preset: nvfp4a16}\n"
        f"  publish: {{directory: {{path: {too_small / 'artifact'}}}}}\n"
    )

    ended = halftone("run", job, "--workdir", tmp_path / "work")

    assert ended.code == 3
    assert "No space left on device" in ended.err
    assert list(too_small.iterdir()) == []
