"""A plan for people: what is quantized, what is kept, how large, how long, what fits."""

from typing import TYPE_CHECKING, Final

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from halftone.plan.resources import WORKERS
from halftone.spec.documents import (
    Method,
    Plan,
    PlanOutput,
    PlanSizes,
    PlanSource,
    Ratio,
    Resources,
)
from halftone.spec.presentation import short_size, size_text

if TYPE_CHECKING:
    from halftone.plan.fit import Fit

_NO_WIDTH: Final = 100_000


def print_plan(plan: Plan, fit: "Fit | None" = None, console: Console | None = None) -> None:
    """Print an accepted plan to standard output, or to `console`."""
    console = console or plain_console()
    if plan.source is None or plan.output is None or plan.sizes is None or plan.resources is None:
        raise AssertionError("an accepted plan is complete. This is a bug. Please report.")
    _print_head(console, plan, plan.source)
    console.print(_roles(plan), soft_wrap=False)
    _print_sizes(console, plan.output, plan.sizes, plan.resources, plan.method)
    if fit is not None:
        from halftone.cli.fit_text import print_fit

        print_fit(console, fit)
    for notice in plan.warnings:
        console.print(f"[yellow]warning[/yellow] {escape(notice.message)}")
    console.print(f"plan {plan.digest}")


def plain_console() -> Console:
    """Standard output that never breaks a line into two, so that `| grep` finds what is said.

    On a terminal only a table is fitted to its width (print it with `soft_wrap=False`); elsewhere
    nothing is, for nobody there has a width.
    """
    console = Console(highlight=False, soft_wrap=True)
    if not console.is_terminal:
        console.width = _NO_WIDTH
    return console


def _print_head(console: Console, plan: Plan, source: PlanSource) -> None:
    revision = f" at {source.revision}" if source.revision else ""
    console.print(f"[bold]{escape(source.uri)}[/bold]{escape(revision)}")
    console.print(
        f"{plan.architecture}, {source.parameters:,} parameters in {source.tensors:,} tensors, "
        f"{len(source.files)} shards, licence "
        f"{escape(source.licence or 'unknown')}",
    )
    recipe = plan.recipe.name if plan.recipe else "?"
    console.print(
        f"recipe {escape(recipe)}, method {plan.method}, {len(plan.groups):,} fused groups"
    )


def _roles(plan: Plan) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("ROLE", no_wrap=True)
    table.add_column("FORMAT", no_wrap=True)
    for heading in ("TENSORS", "PARAMETERS", "BEFORE", "AFTER"):
        table.add_column(heading, justify="right", no_wrap=True)
    for line in plan.roles:
        table.add_row(
            line.role,
            line.format or "kept",
            f"{line.tensors:,}",
            f"{line.parameters:,}",
            short_size(line.bytesBefore),
            short_size(line.bytesAfter),
            style=None if line.format else "dim",
        )
    return table


def _print_sizes(
    console: Console, output: PlanOutput, sizes: PlanSizes, resources: Resources, method: Method
) -> None:
    console.print(_ratio("quantized part", sizes.quantized))
    console.print(_ratio("whole checkpoint", sizes.whole))
    if output.kvScaleBytes:
        console.print(f"KV scales: {output.kvScaleBytes:,} bytes beside it")
    seconds = resources.expectedSeconds
    duration = f"{seconds} s" if seconds < 100 else f"{round(seconds / 60)} min"
    beside = " beside calibration" if method is Method.Calibrated else ""
    shards = "1 shard" if len(output.files) == 1 else f"{len(output.files)} shards"
    console.print(
        f"{shards}, {size_text(resources.diskBytes)} of disk; with {WORKERS} workers peak memory "
        f"{size_text(resources.peakMemoryBytes)}, about {duration}{beside}"
    )


def _ratio(label: str, ratio: Ratio) -> str:
    before, after = size_text(ratio.bytesBefore), size_text(ratio.bytesAfter)
    return f"{label}: {before} -> {after}, {ratio.ratio}x smaller"
