"""How far a long stage is: a bar on a terminal, else one JSON line every few seconds, on stderr."""

import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import click

_LINE_SECONDS: Final = 5.0


@contextmanager
def progress(label: str, total_bytes: int) -> Iterator[Callable[[int], None]]:
    """Yield `advance(nbytes)`, safe from any thread, and show bytes, rate and time left."""
    if sys.stderr.isatty():
        yield from _bar(label, total_bytes)
    else:
        lines = _JsonLines(label, total_bytes)
        yield lines.advance
        lines.tell()


def _bar(label: str, total_bytes: int) -> Iterator[Callable[[int], None]]:
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
        task = bar.add_task(label, total=total_bytes)
        yield lambda nbytes: bar.advance(task, nbytes)


class _JsonLines:
    """A line when enough time has passed; logs of pods are read by people and by programs."""

    def __init__(self, label: str, total_bytes: int) -> None:
        self._label = label
        self._total = total_bytes
        self._done = 0
        self._begin = self._last = time.monotonic()
        self._guard = threading.Lock()

    def advance(self, nbytes: int) -> None:
        """Count `nbytes` and print a line if it is time."""
        with self._guard:
            self._done += nbytes
            if time.monotonic() - self._last >= _LINE_SECONDS:
                self.tell()

    def tell(self) -> None:
        """Print a line now; the last one is due when all is done."""
        self._last = time.monotonic()
        rate = self._done / max(self._last - self._begin, 1e-6)
        line = {
            "stage": self._label,
            "bytesDone": self._done,
            "bytesTotal": self._total,
            "bytesPerSecond": round(rate),
            "secondsLeft": round((self._total - self._done) / rate) if rate else None,
        }
        click.echo(json.dumps(line), err=True)
