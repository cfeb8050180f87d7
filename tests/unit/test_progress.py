"""What was done by an earlier run counts as done, however many shards it was."""

import io

from rich.console import Console
from rich.progress import Progress

from halftone.cli.progress import BarShown


def test_skipped_bytes_add_up_on_the_bar() -> None:
    with Progress(console=Console(file=io.StringIO())) as bar:
        task = bar.add_task("quantize", total=100)
        shown = BarShown(bar, task)
        shown.skip(40)
        shown.skip(30)
        shown.advance(30)
        assert bar.tasks[task].completed == 100
