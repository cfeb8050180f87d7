"""What fits on a device, for people."""

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from halftone.plan.fit import Fit, Verdict
from halftone.spec.presentation import short_size, size_text


def print_fit(console: Console, fit: Fit) -> None:
    """Print one line for each tensor-parallel size (figures of one GPU), and what was assumed."""
    console.print(
        f"on {fit.device} ({size_text(fit.memoryBytes)}), requests of {fit.context:,} tokens:"
    )
    table = Table(box=None, pad_edge=False)
    table.add_column("GPUS", justify="right")
    for heading in ("WEIGHTS", "CACHE", "KV BLOCKS", "OF TOKENS", "PER REQUEST", "REQUESTS"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("")
    for size in fit.tensorParallelSizes:
        if size.verdict is Verdict.Illegal:
            table.add_row(
                str(size.size), *["-"] * 6, f"illegal: {escape(str(size.reason))}", style="dim"
            )
            continue
        table.add_row(
            str(size.size),
            short_size(size.weightBytes),
            short_size(size.cacheBytes),
            f"{size.blocks:,}",
            f"{size.blockTokens:,}",
            f"{size.blocksPerRequest:,}",
            f"{size.concurrentRequests:,}",
            "" if size.verdict is Verdict.Fits else f"does not fit: {escape(str(size.reason))}",
        )
    console.print(table, soft_wrap=False)
    for note in fit.notes:
        console.print(f"[dim]note[/dim] {escape(note)}")
