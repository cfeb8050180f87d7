"""We test these aspects of progress:

- what an earlier run did counts as done, however many shards it was, and not into the rate;
- a log gets a line every few seconds and one at the end, with the time that is left;
- a stage that found nothing to do leaves no line, and no bar;
- a terminal gets a bar with how many of how many, time that went and time that is left.
"""

import io
import json
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, suppress

import pytest
from rich.console import Console
from rich.progress import Progress

from halftone.cli.progress import BarShown, LinesShown, progress, steps

# What a terminal is told to forget the line of the cursor.
ERASED = b"\x1b[2K"


def test_skipped_bytes_add_up_on_the_bar() -> None:
    with Progress(console=Console(file=io.StringIO())) as bar:
        task = bar.add_task("quantize", total=100)
        shown = BarShown(bar, task)
        shown.skip(40)
        shown.skip(30)
        shown.advance(30)
        assert bar.tasks[task].completed == 100


def test_skipped_steps_do_not_spoil_the_time_that_is_left_on_the_bar() -> None:
    clock = Clock()
    with Progress(console=Console(file=io.StringIO()), get_time=clock) as bar:
        shown = BarShown(bar, bar.add_task("calibrate", total=None))
        shown.begin(1000)
        shown.skip(400)
        shown.skip(500)
        for _ in range(3):
            clock.now += 2
            shown.advance(1)
        assert bar.tasks[0].time_remaining == 97 * 2


# In a log ---------------------------------------------------------------------------------------


class Clock:
    """Seconds, as a test says."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def told(err: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in err.getvalue().splitlines()]


def test_a_log_gets_a_line_when_it_is_time_with_the_time_that_is_left() -> None:
    clock, err = Clock(), io.StringIO()
    with redirect_stderr(err):
        shown = LinesShown("layers", "steps", None, clock)
        clock.now += 60  # whatever came before: imports, reading data
        shown.begin(110)
        shown.skip(10)
        shown.advance(1)
        clock.now += 4.9
        shown.advance(9)
        assert not told(err)
        clock.now += 0.1
        shown.advance(10)

    assert told(err) == [
        {
            "stage": "layers",
            "stepsDone": 30,
            "stepsTotal": 110,
            "stepsPerSecond": 4.0,
            "secondsLeft": 20,
        }
    ]


def test_a_log_gets_a_last_line_when_all_is_done() -> None:
    with redirect_stderr(err := io.StringIO()):
        with steps("calibrate") as shown:
            shown.begin(6)
            shown.skip(4)
            shown.advance(2)
        with progress("quantize", 10) as bytes_shown:
            bytes_shown.advance(10)

    last = [(x["stage"], x["secondsLeft"]) for x in told(err)]
    assert last == [("calibrate", 0), ("quantize", 0)]
    assert told(err)[0]["stepsDone"] == 6


def fail_in_a_stage() -> None:
    with steps("calibrate") as shown:
        shown.begin(6)
        raise ValueError("disk")


def test_a_stage_that_fails_is_not_said_to_be_at_its_end() -> None:
    err = io.StringIO()
    with redirect_stderr(err), pytest.raises(ValueError, match="disk"):
        fail_in_a_stage()

    assert err.getvalue() == ""


def test_a_stage_without_anything_to_do_leaves_no_line() -> None:
    with redirect_stderr(err := io.StringIO()), steps("calibrate"):
        pass

    assert err.getvalue() == ""


# On a terminal ------------------------------------------------------------------------------------


class Terminal(threading.Thread):
    """A real terminal as standard error; `sent` has what was sent there, codes included."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.ours, self.theirs = os.openpty()
        self.sent = b""

    def run(self) -> None:
        # Linux says so (EIO) once nobody can send any more and all was read.
        with suppress(OSError):
            while some := os.read(self.ours, 4096):
                self.sent += some


@contextmanager
def terminal() -> Iterator[Terminal]:
    shown = Terminal()
    shown.start()
    with open(shown.theirs, "w", encoding="utf-8") as stream, redirect_stderr(stream):  # noqa: PTH123
        yield shown
    shown.join()
    os.close(shown.ours)


@pytest.fixture(autouse=True)
def _kind_of_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """One on which a line can be written again, wherever the tests run."""
    monkeypatch.setenv("TERM", "xterm")


def test_a_terminal_gets_a_bar_with_the_time_that_is_left() -> None:
    with terminal() as seen, steps("calibrate") as shown:
        shown.begin(5)
        shown.skip(1)
        for _ in range(4):
            shown.advance(1)

    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", seen.sent.decode())
    # The last frame: all of them, the time that went, the time that is left.
    assert re.search(r"calibrate .* 5/5 +\d+:\d\d:\d\d +0:00:00", plain.splitlines()[-1])


def test_on_a_terminal_too_nothing_stays_of_a_stage_without_anything_to_do() -> None:
    with terminal() as seen, steps("calibrate"):
        pass

    assert b"calibrate" in seen.sent
    assert b"calibrate" not in seen.sent.rpartition(ERASED)[2]
