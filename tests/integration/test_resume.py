"""Kill it at any moment and run it again: the result is the one of an undisturbed run.

We test these aspects:
- `kill -9` of the real command at seeded random points, once in CI and many times by hand
- what a kill leaves: nothing at the output's name, finished shards that are kept, nothing trusted
  that is damaged
- two processes on one output, and Ctrl-C
"""

import json
import random
import shutil
import signal
from pathlib import Path
from time import sleep

import pytest

from tests.builders import write_checkpoint
from tests.commands import (
    JOURNALED,
    files_of,
    go_on,
    halftone,
    kill,
    start,
    start_and_stop,
    wait_until,
    wide_config,
)

SHARD_BYTES = 3_000_000
RECIPE = ("--recipe", "nvfp4a16", "--max-shard-bytes", str(SHARD_BYTES))
# Slow enough to be killed in its midst after any time, on one core.
SLOWLY = (*RECIPE, "--scale-search", "Exhaustive", "--workers", "1")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("resume") / "source", wide_config())


@pytest.fixture(scope="module")
def expected(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What an undisturbed run gives."""
    output = tmp_path_factory.mktemp("expected") / "output"
    assert halftone("quantize", source, output, *SLOWLY).code == 0
    assert len(list(output.glob("*.safetensors"))) >= 5
    return output


def partial(output: Path) -> Path:
    return output.with_name(f".{output.name}.partial")


def journal(output: Path) -> list[Path]:
    return sorted((partial(output) / "journal").glob("*.json"))


def shards(directory: Path) -> dict[str, tuple[int, int]]:
    """Inode and time of change of every shard."""
    found = {path.name: path.stat() for path in directory.glob("*.safetensors")}
    return {name: (status.st_ino, status.st_mtime_ns) for name, status in found.items()}


def kill_after(source: Path, output: Path, finished_shards: int) -> None:
    """Start the command and kill it when that many shards are in the journal."""
    kill(start_and_stop(finished_shards + 1, JOURNALED, "quantize", source, output, *SLOWLY))
    assert len(journal(output)) == finished_shards


def kill_at_random(source: Path, output: Path, draw: random.Random) -> None:
    """Start the command and kill it at whatever moment; it may have ended by then."""
    finished_shards, seconds = draw.randrange(5), draw.uniform(0, 0.4)
    process = start("quantize", source, output, *SLOWLY)
    wait_until(
        lambda: partial(output).exists() and len(journal(output)) >= finished_shards, process
    )
    sleep(seconds)
    kill(process)


def finished_shards(output: Path) -> dict[str, tuple[int, int]]:
    names = {path.name.removesuffix(".json") for path in journal(output)}
    staged = shards(partial(output) / "checkpoint")
    return {name: staged[name] for name in names}


def assert_resumed(source: Path, output: Path, expected: Path) -> None:
    """Running the command once more gives what an undisturbed run gives, and leaves no rest."""
    again = halftone("quantize", source, output, *SLOWLY)
    assert (again.code, "digest" in again.out) == (0, True), again.err
    assert files_of(output) == files_of(expected)
    assert not partial(output).exists()


def check_killed_at(seed: int, kills: int, source: Path, expected: Path, output: Path) -> None:
    draw = random.Random(seed)
    for _ in range(kills):
        kill_at_random(source, output, draw)
        if output.exists():  # it was quicker than we were
            break
        assert not list(output.parent.glob("*.json"))
        assert not list(output.parent.glob("*.safetensors"))
    kept = finished_shards(output) if not output.exists() else shards(output)
    assert_resumed(source, output, expected)
    assert kept.items() <= shards(output).items(), "finished shards were written anew"


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_killed_run_is_taken_up_and_gives_the_same_bytes(
    seed: int, source: Path, expected: Path, tmp_path: Path
) -> None:
    check_killed_at(seed, 1, source, expected, tmp_path / "output")


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(100, 120))
def test_a_run_that_is_killed_again_and_again_gives_the_same_bytes(
    seed: int, source: Path, expected: Path, tmp_path: Path
) -> None:
    check_killed_at(seed, 3, source, expected, tmp_path / "output")


def test_nothing_of_a_killed_run_looks_like_a_checkpoint(source: Path, tmp_path: Path) -> None:
    output = tmp_path / "output"

    kill_after(source, output, 2)

    assert [path.name for path in tmp_path.iterdir()] == [".output.partial"]
    assert not (partial(output) / "checkpoint" / "config.json").exists()
    assert not list(partial(output).rglob("checkpoint.json"))
    assert halftone("inspect", output).code != 0


def test_finished_shards_are_kept_and_a_damaged_one_is_made_again(
    source: Path, expected: Path, tmp_path: Path
) -> None:
    output = tmp_path / "output"
    kill_after(source, output, 3)
    before = finished_shards(output)
    damaged, *others = sorted(before)
    path = partial(output) / "checkpoint" / damaged
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)

    assert_resumed(source, output, expected)

    after = shards(output)
    assert {name: after[name] for name in others} == {name: before[name] for name in others}
    assert after[damaged] != before[damaged]


@pytest.mark.parametrize("entry", [b"", b"{}", b"[1]", b'{"sizeBytes": 1}'])
def test_a_damaged_journal_entry_proves_nothing(
    entry: bytes, source: Path, expected: Path, tmp_path: Path
) -> None:
    output = tmp_path / "output"
    kill_after(source, output, 1)
    journal(output)[0].write_bytes(entry)

    assert_resumed(source, output, expected)


def test_what_a_kill_left_beside_the_shards_is_not_published(
    source: Path, expected: Path, tmp_path: Path
) -> None:
    """A kill between the document and the last rename, and one inside a write."""
    output = tmp_path / "output"
    kill_after(source, output, 1)
    staged = partial(output) / "checkpoint"
    for name in ("checkpoint.json", ".checkpoint.json.partial", "config.json", "LICENSE"):
        (staged / name).write_bytes(b"half of")

    assert_resumed(source, output, expected)


def test_rests_of_a_run_that_was_killed_after_its_last_rename_are_removed(
    source: Path, expected: Path, tmp_path: Path
) -> None:
    output = tmp_path / "output"
    shutil.copytree(expected, output)
    partial(output).mkdir()
    (partial(output) / "lock").touch()

    assert_resumed(source, output, expected)


def test_a_kill_between_document_and_checkpoint_of_a_work_directory_is_mended(
    source: Path, tmp_path: Path
) -> None:
    job = tmp_path / "job.yaml"
    job.write_text(
        f"metadata: {{name: resumed}}\nspec:\n  source: {{directory: {{path: {source}}}}}\n"
        "  quantization: {preset: nvfp4a16}\n"
    )
    workdir = tmp_path / "work"
    assert halftone("stage", "plan", "--workdir", workdir, "--job", job).code == 0
    assert halftone("stage", "quantize", "--workdir", workdir).code == 0
    first = files_of(workdir)
    shutil.rmtree(workdir / "checkpoint")

    assert halftone("stage", "quantize", "--workdir", workdir).code == 0

    assert files_of(workdir) == first


def test_the_second_of_two_processes_on_one_output_is_refused(
    source: Path, expected: Path, tmp_path: Path
) -> None:
    output = tmp_path / "output"
    first = start_and_stop(2, JOURNALED, "quantize", source, output, *SLOWLY)

    second = halftone("quantize", source, output, *SLOWLY)

    assert second.code == 3
    assert second.failure == (
        f"halftone: Another process is writing '{output}'; wait for it, or stop it.\n"
    )
    go_on(first)
    assert first.returncode == 0
    assert files_of(output) == files_of(expected)


def test_interrupting_says_how_to_go_on_and_keeps_finished_shards(
    source: Path, expected: Path, tmp_path: Path
) -> None:
    output = tmp_path / "output"
    process = start_and_stop(3, JOURNALED, "quantize", source, output, *SLOWLY)
    process.send_signal(signal.SIGINT)
    _, err = go_on(process)

    assert process.returncode == 130
    assert "halftone: interrupted; run the same command again to go on." in err
    assert "Traceback" not in err
    assert not list(partial(output).glob("*.writing"))
    kept = finished_shards(output)
    assert len(kept) >= 2
    assert_resumed(source, output, expected)
    assert kept.items() <= shards(output).items()


def test_progress_is_told_in_json_lines_where_there_is_no_terminal(
    source: Path, tmp_path: Path
) -> None:
    process = start("quantize", source, tmp_path / "output", *RECIPE)
    out, err = process.communicate()

    assert process.returncode == 0
    lines = [json.loads(line) for line in err.splitlines() if line.startswith("{")]
    assert lines
    last = lines[-1]
    assert last["stage"] == "quantize"
    assert last["bytesDone"] == last["bytesTotal"] > 0
    assert last["secondsLeft"] == 0
    assert {"bytesPerSecond"} <= last.keys()
    assert "digest" in out


def test_a_resumed_run_counts_what_was_done_before(source: Path, tmp_path: Path) -> None:
    output = tmp_path / "output"
    kill_after(source, output, 3)

    again = halftone("quantize", source, output, *SLOWLY)

    last = json.loads(again.err.splitlines()[-1])
    assert last["bytesDone"] == last["bytesTotal"]


def test_work_of_another_plan_is_neither_used_nor_removed(source: Path, tmp_path: Path) -> None:
    output = tmp_path / "output"
    kill_after(source, output, 1)
    before = files_of(partial(output))

    other = halftone("quantize", source, output, "--recipe", "fp8-dynamic")

    assert other.code == 2
    assert f"'{partial(output)}' holds unfinished work of another plan" in other.err
    assert "finish that one or remove the directory" in other.err
    assert files_of(partial(output)) == before


def test_a_failed_start_leaves_no_process_behind(tmp_path: Path) -> None:
    process = start("quantize", tmp_path / "absent", tmp_path / "output", *RECIPE)
    _, err = process.communicate()

    assert process.returncode == 2
    assert err == f"halftone: There is no `{tmp_path / 'absent'}`; correct the path.\n"
    assert list(tmp_path.iterdir()) == []


def test_closing_the_pipe_early_is_no_traceback(source: Path) -> None:
    process = start("plan", source, "--recipe", "nvfp4a16", "--json")
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    with process.stderr as stderr:
        assert "Traceback" not in stderr.read()
    process.wait()
