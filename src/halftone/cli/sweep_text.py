"""A sweep for people: the table, what is proposed, and what to do next."""

from collections.abc import Iterable
from pathlib import Path
from shlex import quote
from typing import Final

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from halftone.cli.plan_text import plain_console
from halftone.quantize.sweep.candidates import Standing
from halftone.quantize.sweep.document import Measure, Point, RoleFormat, SweepDocument
from halftone.spec.names import SWEEP_FILE, SWEEP_PLOT, SWEEP_RECIPE
from halftone.spec.presentation import short_size

_STANDINGS: Final = {
    Standing.Candidate: "",
    Standing.NeedsData: "needs data",
    Standing.NotLoadable: "not loadable",
    Standing.Refused: "not possible",
}
_LOSSES: Final = {
    Measure.WeightError: "mean squared relative error of the weights that a token meets; it does "
    "not see activations, so prefer a sweep with `--dataset`",
    Measure.OutputDivergence: "relative squared error of each layer's output, summed over layers",
}


def print_sweep(document: SweepDocument, output: Path) -> None:
    """Print what was measured and what is proposed to standard output."""
    console = plain_console()
    source = document.source
    revision = f" at {source.revision}" if source.revision else ""
    console.print(f"[bold]{escape(source.uri)}[/bold]{escape(revision)}")
    console.print(
        f"{document.architecture}, {source.parameters:,} parameters; {_measured(document)}"
    )
    for data in document.data:
        console.print(
            f"{data.modality}: {data.samples:,} of {data.usable:,} usable rows, "
            f"{data.tokens:,} tokens"
        )
    console.print(_formats(document), soft_wrap=False)
    console.print("ERROR: of the weights, ||W - W'|| / ||W||")
    console.print(f"LOSS: {_LOSSES[document.measure]}")
    if any(row.because for row in document.formats):
        console.print(f"not loadable, not possible: {SWEEP_FILE} says why")
    console.print()
    console.print(_points(document), soft_wrap=False)
    _print_next(console, document, output)


def _measured(document: SweepDocument) -> str:
    """How much was measured, in one clause; roles that were sampled are named."""
    some = [r for r in document.roles if len(r.measuredLayers) < r.layers]
    if not some:
        return "all layers measured"
    told = ", ".join(f"{len(r.measuredLayers)} of {r.layers} layers of {r.role}" for r in some)
    return f"measured {told}"


def _formats(document: SweepDocument) -> Table:
    proposed = {line.role: line.format for line in document.proposed.precision}
    table = Table(box=None, pad_edge=False)
    table.add_column("ROLE", no_wrap=True)
    table.add_column("FORMAT", no_wrap=True)
    for heading in ("SIZE", "ERROR", "LOSS"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    told = None
    for row in document.formats:
        chosen = row.format == proposed.get(row.role)
        table.add_row(
            row.role if row.role is not told else "",
            row.format or "kept",
            "-" if row.bytes is None else short_size(row.bytes),
            "-" if row.weightError is None else f"{float(row.weightError):.4f}",
            _loss(row),
            "proposed" if chosen else _STANDINGS[row.standing],
            style="bold" if chosen else None if row.standing is Standing.Candidate else "dim",
        )
        told = row.role
    return table


def _loss(row: RoleFormat) -> str:
    if row.format is None:
        return "0"
    return "-" if row.loss is None else f"{float(row.loss):.3g}"


def _points(document: SweepDocument) -> Table:
    """The proposal between the presets, the smallest first."""
    table = Table(box=None, pad_edge=False)
    table.add_column("", no_wrap=True)
    for heading in ("SIZE", "LOSS"):
        table.add_column(heading, justify="right", no_wrap=True)
    points: list[tuple[str, Point]] = [("proposed", document.proposed)]
    points += [(preset.name, preset) for preset in document.presets]
    kept = document.front[-1]
    if not kept.precision:
        points.append(("as it is", kept))
    for name, point in sorted(points, key=lambda item: item[1].bytes):
        loss = "not measured" if point.loss is None else f"{float(point.loss):.3g}"
        style = "bold" if point is document.proposed else None
        table.add_row(escape(name), short_size(point.bytes), loss, style=style)
    return table


def _print_next(console: Console, document: SweepDocument, output: Path) -> None:
    best = document.proposed
    size, budget = short_size(best.bytes), short_size(document.budgetBytes)
    console.print()
    console.print(
        f"proposed under {budget}, the best of {document.combinations:,} combinations: {size}"
    )
    console.print(f"  {_list(f'{line.role}: {line.format}' for line in best.precision)}")
    for name, what in (
        (SWEEP_RECIPE, "the recipe"),
        (SWEEP_FILE, "everything that was measured"),
        (SWEEP_PLOT, "loss against size"),
    ):
        console.print(f"{escape(str(output / name))}: {what}")
    for notice in document.warnings:
        console.print(f"[yellow]warning[/yellow] {escape(notice.message)}")
    recipe = quote(str(output / SWEEP_RECIPE))
    source = quote(document.source.uri)
    console.print("Nothing was applied. To see what it gives:")
    console.print(f"  halftone plan {escape(source)} --recipe {escape(recipe)}")


def _list(parts: Iterable[str]) -> str:
    return escape(", ".join(parts))
