"""How far a long stage is: a bar on a terminal, else one JSON line every few seconds, on stderr."""

import json
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, Protocol

import click

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

_LINE_SECONDS: Final = 5.0


class Shown(Protocol):
    """What a stage tells: bytes done now, and bytes that an earlier run had done."""

    def advance(self, nbytes: int) -> None:
        """Count bytes; safe from any thread."""

    def skip(self, nbytes: int) -> None:
        """Count bytes that took this run no time."""


@contextmanager
def progress(label: str, total_bytes: int) -> Iterator[Shown]:
    """Yield what a stage tells its bytes to; shows bytes, rate and time left."""
    # A process that was started with stderr closed has none.
    if sys.stderr is not None and sys.stderr.isatty():
        yield from _bar(label, total_bytes)
    else:
        lines = _JsonLines(label, total_bytes)
        yield lines
        lines.tell()


def _bar(label: str, total_bytes: int) -> Iterator[Shown]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        yield BarShown(bar, bar.add_task(label, total=total_bytes))


class BarShown:
    """A rich bar; its rate is over the last half minute, so what was skipped soon leaves it."""

    def __init__(self, bar: "RichProgress", task: "TaskID") -> None:
        self._bar = bar
        self._task = task

    def advance(self, nbytes: int) -> None:
        self._bar.advance(self._task, nbytes)

    def skip(self, nbytes: int) -> None:
        self._bar.advance(self._task, nbytes)


class _JsonLines:
    """A line when enough time has passed; logs of pods are read by people and by programs."""

    def __init__(self, label: str, total_bytes: int) -> None:
        self._label = label
        self._total = total_bytes
        self._done = self._skipped = 0
        self._begin = self._last = time.monotonic()
        self._guard = threading.Lock()

    def advance(self, nbytes: int) -> None:
        """Count `nbytes` and print a line if it is time."""
        with self._guard:
            self._done += nbytes
            if time.monotonic() - self._last >= _LINE_SECONDS:
                self.tell()

    def skip(self, nbytes: int) -> None:
        """Count `nbytes` as done, but not into the rate."""
        with self._guard:
            self._done += nbytes
            self._skipped += nbytes

    def tell(self) -> None:
        """Print a line now; the last one is due when all is done."""
        self._last = time.monotonic()
        rate = (self._done - self._skipped) / max(self._last - self._begin, 1e-6)
        line = {
            "stage": self._label,
            "bytesDone": self._done,
            "bytesTotal": self._total,
            "bytesPerSecond": round(rate),
            "secondsLeft": round((self._total - self._done) / rate) if rate else None,
        }
        click.echo(json.dumps(line), err=True)
