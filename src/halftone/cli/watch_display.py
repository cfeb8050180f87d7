"""What a person sees of a job in a cluster: a line a condition, and how far the running stage is.

Called by `watch`. A terminal gets a bar below the lines, everything else plain lines. It decides
nothing.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, Protocol

import click

from halftone.spec.cluster import Condition, Doing, Ended
from halftone.spec.status import ConditionRow, ConditionStatus, JobStatus, ProgressStatus

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

_STATES: Final = {
    ConditionStatus.TRUE: "done",
    ConditionStatus.FALSE: "failed",
    ConditionStatus.UNKNOWN: "open",
}
_COLOURS: Final = {"done": "green", "failed": "red", "open": "yellow"}
# What takes long enough for somebody to wonder.
_TELL_PROGRESS: Final = frozenset({Condition.Calibrated, Condition.Quantized})
# The kubelet's sentences are long; a table of conditions is read by its first columns.
_NAME: Final = max(len(condition) for condition in Condition)


class Display(Protocol):
    """Where a job is shown."""

    def note(self, text: str) -> None:
        """Say something beside the conditions, once until it changes."""

    def show(self, status: JobStatus) -> None:
        """The job as it is now; only what changed gets a line."""


@contextmanager
def display(name: str) -> Iterator[Display]:
    """Yield what shows the job `name`: on a terminal a bar, else lines on stderr."""
    if sys.stderr is not None and sys.stderr.isatty():
        yield from _bar(name)
    else:
        yield Lines()


class Changes:
    """Which conditions say something that was not said yet."""

    def __init__(self) -> None:
        self._told: dict[Condition, tuple[ConditionStatus, str, str]] = {}
        self._note = ""

    def of(self, status: JobStatus) -> Iterator[ConditionRow]:
        """Rows to tell: not the summary, which is said at the end, and nothing that only waits."""
        for row in status.conditions:
            said = row.status, row.reason, "" if _is_running(row) else row.message
            if row.type is Condition.Succeeded or self._told.get(row.type) == said:
                continue
            self._told[row.type] = said
            if row.reason not in (Ended.NotReached, Doing.Pending):
                yield row

    def is_new(self, note: str) -> bool:
        """Whether `note` is another than the last."""
        is_new, self._note = note != self._note, note
        return is_new


class Lines:
    """For logs and pipes: a line a change, and a line a percent."""

    def __init__(self) -> None:
        self._changes = Changes()
        self._percent = ""

    def note(self, text: str) -> None:
        """One line."""
        if self._changes.is_new(text):
            click.echo(f"halftone: {text}", err=True)

    def show(self, status: JobStatus) -> None:
        """Lines for what changed."""
        for row in self._changes.of(status):
            click.echo(_line(row), err=True)
        running = running_condition(status)
        progress = measured(status, running)
        if running is None or progress is None:
            return
        percent = f"{progress.bytesDone * 100 // progress.bytesTotal} %"
        if percent != self._percent:
            self._percent = percent
            told = f"{percent} ({amount(progress, running.type)})"
            click.echo(f"{running.type:{_NAME}}  open    {told}", err=True)


class Bar:
    """For a terminal: lines as in `Lines`, and under them one bar for the running stage."""

    def __init__(self, progress: "Progress", task: "TaskID", name: str) -> None:
        self._progress = progress
        self._task = task
        self._name = name
        self._shown: tuple[Condition | None, bool] = None, False
        self._changes = Changes()

    def note(self, text: str) -> None:
        """One line above the bar."""
        if self._changes.is_new(text):
            self._print(f"halftone: {text}")

    def show(self, status: JobStatus) -> None:
        """Lines for what changed, and the bar as far as it is."""
        for row in self._changes.of(status):
            self._print(_line(row), _COLOURS[_STATES[row.status]])
        running = running_condition(status)
        progress = measured(status, running)
        told = f"{self._name}  {running.reason if running else ''}"
        shown = (running.type if running else None), progress is not None
        if shown != self._shown:
            # Another stage, or one that begins to tell: its rate is measured from now on.
            self._shown = shown
            self._progress.remove_task(self._task)
            self._task = self._progress.add_task(told, total=None, amount="")
        self._progress.update(self._task, description=told)
        if running is not None and progress is not None:
            done = min(progress.bytesDone, progress.bytesTotal)
            said = amount(progress, running.type)
            total = progress.bytesTotal
            self._progress.update(self._task, total=total, completed=done, amount=said)

    def _print(self, text: str, style: str | None = None) -> None:
        from rich.text import Text

        # Wrapped by the terminal, so that what is copied from it has no line breaks of ours.
        line = Text(text)
        if style is not None:
            line.stylize(style, 0, _NAME + len("  failed"))
        self._progress.console.print(line, soft_wrap=True)


def _bar(name: str) -> Iterator[Display]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        TextColumn("{task.fields[amount]}"),
        TimeElapsedColumn(),
        TextColumn("left:"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        yield Bar(progress, progress.add_task(name, total=None, amount=""), name)


def running_condition(status: JobStatus) -> ConditionRow | None:
    """The condition that is worked on; None before the first and after the last."""
    unknown = (
        row
        for row in status.conditions
        if row.status is ConditionStatus.UNKNOWN and row.type is not Condition.Succeeded
    )
    return next(unknown, None)


def measured(status: JobStatus, running: ConditionRow | None) -> ProgressStatus | None:
    """How far the running stage is, if it is one that says so."""
    known = status.progress is not None and status.progress.bytesTotal > 0
    return status.progress if known and running and running.type in _TELL_PROGRESS else None


def amount(progress: ProgressStatus, condition: Condition) -> str:
    """`1.2 of 5.0 GB`; where activations are measured, `12 of 60 steps`."""
    done, total = progress.bytesDone, progress.bytesTotal
    if condition is Condition.Calibrated:
        return f"{done} of {total} steps"
    unit, size = next((u, s) for u, s in _UNITS if total >= s)
    return f"{done / size:.1f} of {total / size:.1f} {unit}"


_UNITS: Final = (("TB", 10**12), ("GB", 10**9), ("MB", 10**6), ("kB", 10**3), ("bytes", 1))


def _is_running(row: ConditionRow) -> bool:
    """Whether it is worked on; its message then counts, and the bar does so better."""
    return row.status is ConditionStatus.UNKNOWN and row.reason in frozenset(Doing)


def _line(row: ConditionRow) -> str:
    state = _STATES[row.status]
    said = f"{row.reason}: {row.message}"
    if row.status is ConditionStatus.TRUE:
        said = row.message
    elif row.message.rstrip(".") == row.reason:
        said = row.reason
    return f"{row.type:{_NAME}}  {state:6}  {said}"
