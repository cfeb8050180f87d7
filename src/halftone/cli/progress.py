"""How far a long stage is: a bar on a terminal, else one JSON line every few seconds, on stderr.

Called by every verb that may take minutes. It measures time and nothing else.
"""

import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, Protocol

import click

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

_LINE_SECONDS: Final = 5.0
# A step of a large model on a slow machine may take a minute; time left needs a few of them.
_STEPS_SECONDS: Final = 600.0


class Shown(Protocol):
    """What a stage tells: units done now, and units that an earlier run had done."""

    def advance(self, units: int) -> None:
        """Count bytes or steps; safe from any thread."""

    def skip(self, units: int) -> None:
        """Count those that took this run no time."""


class ShownSteps(Shown, Protocol):
    """The same for a stage that learns only on its way how much there is to do."""

    def begin(self, total: int) -> None:
        """Say how many steps there are in all."""


@contextmanager
def progress(label: str, total_bytes: int) -> Iterator[Shown]:
    """Yield what a stage tells its bytes to; shows bytes, rate and time left."""
    # A process that was started with stderr closed has none.
    if sys.stderr is not None and sys.stderr.isatty():
        yield from _bar(label, total_bytes)
    else:
        lines = LinesShown(label, "bytes", total_bytes)
        yield lines
        lines.tell()


@contextmanager
def steps(label: str) -> Iterator[ShownSteps]:
    """Yield what a stage tells its steps to; shows how many of how many, and time left.

    Nothing stays where the stage found that there was nothing to do, and so began none.
    """
    if sys.stderr is not None and sys.stderr.isatty():
        yield from _bar_of_steps(label)
    else:
        lines = LinesShown(label, "steps", None)
        yield lines
        lines.tell()


def _bar_of_steps(label: str) -> Iterator[ShownSteps]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(
        *columns, console=Console(stderr=True), speed_estimate_period=_STEPS_SECONDS
    ) as bar:
        task = bar.add_task(label, total=None)
        yield BarShown(bar, task)
        if bar.tasks[0].total is None:
            bar.update(task, visible=False)


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
    """A rich bar; what was skipped is not part of its rate."""

    def __init__(self, bar: "RichProgress", task: "TaskID") -> None:
        self._bar = bar
        self._task = task
        self._done = 0
        self._guard = threading.Lock()

    def begin(self, total: int) -> None:
        """Say how many there are in all; what came before took no time that counts."""
        self._bar.reset(self._task, total=total, completed=self._done)

    def advance(self, units: int) -> None:
        """Count `units`."""
        with self._guard:
            self._done += units
            self._bar.advance(self._task, units)

    def skip(self, units: int) -> None:
        """Count `units` as done, and begin to measure time anew."""
        with self._guard:
            self._done += units
            self._bar.reset(self._task, completed=self._done)


class LinesShown:
    """A line when enough time has passed; logs of pods are read by people and by programs.

    `total` is None while nobody knows it; `clock` gives seconds.
    """

    def __init__(
        self,
        label: str,
        unit: str,
        total: int | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._label = label
        self._unit = unit
        self._total = total
        self._clock = clock
        self._done = self._skipped = 0
        self._begin = self._last = clock()
        self._guard = threading.Lock()

    def begin(self, total: int) -> None:
        """Say how many there are in all; time before that is not part of the rate."""
        with self._guard:
            self._total = total
            self._begin = self._last = self._clock()

    def advance(self, units: int) -> None:
        """Count `units` and print a line if it is time."""
        with self._guard:
            self._done += units
            if self._clock() - self._last >= _LINE_SECONDS:
                self.tell()

    def skip(self, units: int) -> None:
        """Count `units` as done, but not into the rate."""
        with self._guard:
            self._done += units
            self._skipped += units

    def tell(self) -> None:
        """Print a line now, unless nothing was begun; the last one is due when all is done."""
        if self._total is None:
            return
        self._last = self._clock()
        rate = (self._done - self._skipped) / max(self._last - self._begin, 1e-6)
        line = {
            "stage": self._label,
            f"{self._unit}Done": self._done,
            f"{self._unit}Total": self._total,
            f"{self._unit}PerSecond": round(rate) if self._unit == "bytes" else round(rate, 3),
            "secondsLeft": round((self._total - self._done) / rate) if rate else None,
        }
        click.echo(json.dumps(line), err=True)
