"""What a person sees of a run: its tasks with their states, as a table or as plain lines.

Called by `pipeline_status` and `pipeline_submit`. It decides nothing.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, Protocol

import click

from halftone.spec.pipelines import Run, RunState, Task, TaskDetail

if TYPE_CHECKING:
    from rich.live import Live
    from rich.table import Table

_NAME: Final = max(len(task) for task in Task)
# Which state several executions of one task have together: the first of these that one of them has.
_ORDER: Final = (
    RunState.Failed,
    RunState.Canceling,
    RunState.Running,
    RunState.Pending,
    RunState.Paused,
    RunState.Unspecified,
    RunState.Canceled,
    RunState.Succeeded,
    RunState.Cached,
    RunState.Skipped,
)
_WORDS: Final = {
    RunState.Unspecified: "waiting",
    RunState.Pending: "waiting",
    RunState.Running: "running",
    RunState.Succeeded: "done",
    RunState.Skipped: "skipped",
    RunState.Failed: "failed",
    RunState.Canceling: "ending",
    RunState.Canceled: "cancelled",
    RunState.Paused: "paused",
    RunState.Cached: "cached",
}
_OPEN: Final = frozenset({"waiting", "running"})
_COLOURS: Final = {
    "done": "green",
    "cached": "green",
    "failed": "red",
    "cancelled": "red",
    "running": "yellow",
    "ending": "yellow",
}


@dataclass(frozen=True)
class Row:
    """One task: a word for its state, how many of its workers are done, seconds, an error."""

    task: Task
    word: str
    amount: str
    seconds: int | None
    error: str

    def line(self) -> str:
        """In plain text."""
        taken = "" if self.seconds is None else duration(self.seconds)
        columns = f"{self.task:{_NAME}}  {self.word:11}  {self.amount:7}  {taken:>8}  {self.error}"
        return columns.rstrip()


class Display(Protocol):
    """Where a run is shown."""

    def note(self, text: str) -> None:
        """Say something beside the tasks, once until it changes."""

    def show(self, run: Run) -> None:
        """The run as it is now."""


@contextmanager
def display() -> Iterator[Display]:
    """Yield what shows a run that is followed: on a terminal one table, else lines that are new."""
    if sys.stdout is not None and sys.stdout.isatty():
        from rich.live import Live

        with Live(auto_refresh=False) as live:
            yield _Redrawn(live)
    else:
        yield _Lines()


class _Lines:
    def __init__(self) -> None:
        self._told: dict[Task, tuple[str, str]] = {}
        self._note = ""

    def note(self, text: str) -> None:
        if text != self._note:
            self._note = text
            click.echo(f"halftone: {text}", err=True)

    def show(self, run: Run) -> None:
        for row in rows(run):
            said = row.word, row.amount
            if self._told.get(row.task) != said:
                self._told[row.task] = said
                click.echo(row.line())


class _Redrawn:
    def __init__(self, live: "Live") -> None:
        self._live = live
        self._note = ""

    def note(self, text: str) -> None:
        if text != self._note:
            self._note = text
            self._live.console.print(f"halftone: {text}", soft_wrap=True)

    def show(self, run: Run) -> None:
        self._live.update(table(run), refresh=True)


def tell(run: Run) -> None:
    """Print a run once."""
    if sys.stdout is not None and sys.stdout.isatty():
        from rich.console import Console

        Console().print(table(run))
        return
    for row in rows(run):
        click.echo(row.line())


def table(run: Run) -> "Table":
    """For a terminal."""
    from rich.table import Table
    from rich.text import Text

    found = Table("Task", "State", "Workers", "Time", "", box=None, pad_edge=False)
    for row in rows(run):
        taken = "" if row.seconds is None else duration(row.seconds)
        state = Text(row.word, _COLOURS.get(row.word, ""))
        found.add_row(row.task.value, state, row.amount, taken, Text(row.error))
    return found


def rows(run: Run, now: datetime | None = None) -> list[Row]:
    """Every task that the run has come to, in their order."""
    moment = now or datetime.now(UTC)
    by_task: dict[Task, list[TaskDetail]] = {}
    for detail in run.run_details.task_details:
        if detail.display_name in _TASKS:
            by_task.setdefault(Task(detail.display_name), []).append(detail)
    found = [_row(task, by_task[task], moment) for task in Task if task in by_task]
    if not run.state.is_final:
        return found
    # What was not reached has a beginning there, and no end.
    return [
        replace(row, word="not reached", seconds=None) if row.word in _OPEN else row
        for row in found
    ]


_TASKS: Final = frozenset(Task)


def _row(task: Task, details: list[TaskDetail], now: datetime) -> Row:
    states = [_state(detail) for detail in details]
    state = next(one for one in _ORDER if one in states)
    amount = ""
    if len(details) > 1:
        amount = f"{sum(one in _DONE for one in states)} of {len(details)}"
    errors = (detail.error.message for detail in details if detail.error is not None)
    error = " ".join(next((words for words in errors if words), "").split())
    seconds = None if _WORDS[state] == "waiting" else _seconds(details, now)
    return Row(task, _WORDS[state], amount, seconds, error)


def _state(detail: TaskDetail) -> RunState:
    """2.14 does not say what came from the cache: it succeeded without a moment's work.

    A pod takes seconds, and the server counts in them.
    """
    instant = detail.start_time is not None and detail.start_time == detail.end_time
    return RunState.Cached if instant and detail.state is RunState.Succeeded else detail.state


_DONE: Final = frozenset({RunState.Succeeded, RunState.Cached, RunState.Skipped})


def _seconds(details: list[TaskDetail], now: datetime) -> int | None:
    """From the first beginning to the last end, or until now; None before it began."""
    begun = [moment for one in details if (moment := when(one.start_time)) is not None]
    if not begun:
        return None
    running = any(not one.state.is_final for one in details)
    ended = [moment for one in details if (moment := when(one.end_time)) is not None]
    last = now if running or not ended else max(ended)
    return max(0, int((last - min(begun)).total_seconds()))


def when(text: str | None) -> datetime | None:
    """A moment as the server writes it; what has not come is the year 1970 there."""
    if not text:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment if moment.tzinfo is not None and moment.year > 1970 else None


def duration(seconds: int) -> str:
    """`45 s`, `3 min 20 s`, `2 h 5 min`."""
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60} min"
