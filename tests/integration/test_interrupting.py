"""Ctrl-C and SIGTERM while a verb works in the environment that has llm-compressor.

Two processes then work for one command. In most tests the other one is a program of ours, which
tells what reached it; in one it is the real one, in the middle of a calibration.

We test these aspects:
- the other process is told once, in time to clean up, and one of both says that it was interrupted
- a second time ends it as it is; what it started never outlives it, and holds nobody up
- Ctrl-Z stops both, and both go on; a process that could not say anything is spoken for
- a real calibration keeps what was measured and no copy of an image, and goes on from there
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from halftone.spec.names import QUANTIZE_PYTHON
from tests.builders import tiny_config, write_checkpoint
from tests.builders.datasets import chat_rows, write_images, write_rows
from tests.commands import plan_directory, start, wait_until, write_recipe
from tests.environments import python_of

INTERRUPTED = "halftone: interrupted; run the same command again to go on.\n"
# Waits to be told; then cleans up for as long as the test likes, or does not listen at all.
PROGRAM = """#!{python}
import os, signal, subprocess, sys, time
from pathlib import Path
folder, how = Path({folder!r}), {how!r}
if sys.argv[1] == "-c":
    sys.exit(0)

def told(number, frame):
    with (folder / "told").open("a") as file:
        file.write(f"{{number}}\\n")
    if how == "deaf":
        return
    while not (folder / "go").exists():
        time.sleep(0.01)
    (folder / "cleaned").touch()
    sys.stderr.write({interrupted!r})
    sys.exit(130)

if how != "helpless":
    signal.signal(signal.SIGINT, told)
    signal.signal(signal.SIGTERM, told)
def deaf():
    signal.signal(signal.SIGINT, signal.SIG_IGN)

child = subprocess.Popen(["sleep", "600"], preexec_fn=deaf)
(folder / "child").write_text(str(child.pid))
(folder / "pid").write_text(str(os.getpid()))
(folder / "ready").touch()
while True:
    time.sleep(600)
"""


class Calibrating:
    """`halftone calibrate` in a process group of its own, as a shell starts it."""

    def __init__(self, folder: Path, how: str) -> None:
        self.folder = folder
        source = write_checkpoint(folder / "model", "llama")
        recipe = write_recipe(
            folder / "recipe.yaml",
            precision={"Mlp": "NVFP4"},
            calibration={"dataset": {"path": "rows.jsonl"}},
        )
        plan_directory(source, recipe).full_document().save(folder / "plan.json")
        program = PROGRAM.format(
            python=sys.executable, folder=str(folder), how=how, interrupted=INTERRUPTED
        )
        (folder / "python").write_text(program)
        (folder / "python").chmod(0o755)
        command = ("calibrate", str(folder / "plan.json"), "--output", str(folder / "out"))
        self.process = subprocess.Popen(
            [sys.executable, "-m", "halftone", *command],
            env=os.environ | {QUANTIZE_PYTHON: str(folder / "python")},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            process_group=0,
        )
        self.wait_for("ready")

    def wait_for(self, file: str) -> None:
        wait_until((self.folder / file).exists, self.process)
        assert (self.folder / file).exists()

    def tell(self, number: int) -> None:
        """As a terminal does: everybody in the group that it knows."""
        os.killpg(self.process.pid, number)

    def ended(self) -> tuple[int, str, list[int]]:
        """Exit code, what was said, and what the other process was told."""
        _, err = self.process.communicate()
        told = self.folder / "told"
        numbers = list(map(int, told.read_text().split())) if told.exists() else []
        child = int((self.folder / "child").read_text())
        deadline = time.monotonic() + 60  # one that was killed has to be scheduled once more
        while not is_gone(child) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert is_gone(child)
        return self.process.returncode, err, numbers


def state(process: int) -> str:
    """The kernel's letter for what a process does: S sleeps, T is stopped, X is gone."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "X"


def is_gone(process: int) -> bool:
    return state(process) in "ZX"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_other_process_is_told_once_and_waited_for(
    number: signal.Signals, tmp_path: Path
) -> None:
    running = Calibrating(tmp_path, "tidy")

    running.tell(number)
    running.wait_for("told")
    (tmp_path / "go").touch()

    assert running.ended() == (130, INTERRUPTED, [number])
    assert (tmp_path / "cleaned").exists()


def test_a_second_time_ends_it_as_it_is(tmp_path: Path) -> None:
    running = Calibrating(tmp_path, "deaf")

    running.tell(signal.SIGINT)
    running.wait_for("told")
    running.tell(signal.SIGINT)

    code, err, told = running.ended()
    assert (code, told) == (130, [signal.SIGINT])
    assert err.count("interrupted") == 1


def test_both_stand_still_and_go_on_together(tmp_path: Path) -> None:
    running = Calibrating(tmp_path, "helpless")
    both = (running.process.pid, int((tmp_path / "pid").read_text()))

    running.tell(signal.SIGTSTP)
    wait_until(lambda: all(state(process) == "T" for process in both), running.process)
    running.tell(signal.SIGCONT)
    wait_until(lambda: all(state(process) == "S" for process in both), running.process)

    running.tell(signal.SIGINT)
    assert running.ended()[0] == 130


def test_who_could_not_say_anything_is_spoken_for(tmp_path: Path) -> None:
    running = Calibrating(tmp_path, "helpless")

    running.tell(signal.SIGTERM)

    code, err, _ = running.ended()
    assert code == 130
    assert err.count("interrupted") == 1
    assert "Traceback" not in err


# The real one -------------------------------------------------------------------------------------


@pytest.fixture
def calibrating(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[subprocess.Popen[str]]:
    """A calibration on images, in layers that take long enough."""
    config = tiny_config("gemma4_unified", num_hidden_layers=36)
    config["text_config"]["layer_types"] *= 6
    source = write_checkpoint(tmp_path / "model", config)
    pictures = write_images(tmp_path / "pictures", 4)
    write_rows(tmp_path / "rows.jsonl", chat_rows(48, images=pictures))
    recipe = write_recipe(
        tmp_path / "recipe.yaml",
        precision={"Mlp": "NVFP4"},
        calibration={
            "dataset": {"path": str(tmp_path / "rows.jsonl")},
            "samples": 48,
            "modalities": ["Image"],
        },
    )
    plan_directory(source, recipe).full_document().save(tmp_path / "plan.json")
    monkeypatch.setenv(QUANTIZE_PYTHON, str(python_of("quantize")))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    process = start("calibrate", tmp_path / "plan.json", "--output", tmp_path / "out")
    yield process
    process.kill()
    process.communicate()


@pytest.mark.quantize_env
def test_a_real_calibration_keeps_what_was_measured_and_no_image(
    calibrating: subprocess.Popen[str], tmp_path: Path
) -> None:
    partial = tmp_path / "out" / ".statistics.partial"
    wait_until((partial / "journal.json").exists, calibrating)
    assert any((partial / "data").iterdir())

    calibrating.send_signal(signal.SIGTERM)
    _, err = calibrating.communicate()

    assert calibrating.returncode == 130, err
    assert err.count("halftone: interrupted") == 1
    assert "Traceback" not in err
    assert not (tmp_path / "out" / "statistics.json").exists()
    assert sorted(path.name for path in partial.iterdir()) == ["journal.json", "lock", "values"]
    done = json.loads((partial / "journal.json").read_text())["done"]
    assert 1 <= done <= 36
    assert {path.name for path in (partial / "values").iterdir()} == {
        file
        for _, values in json.loads((partial / "journal.json").read_text())["samples"]
        for file in values.values()
    }
