"""An inspection for people: roles, what was read, defects."""

from collections import Counter
from typing import Final

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from halftone.cli.plan_text import plain_console
from halftone.spec.presentation import size_text
from halftone.validate.findings import Coverage, Extent, Inspection

_SHOWN_OF_A_KIND: Final = 6


def print_inspection(inspection: Inspection) -> None:
    """Print to standard output."""
    console = plain_console()
    revision = f" at {inspection.revision}" if inspection.revision else ""
    console.print(f"[bold]{escape(inspection.checkpoint)}[/bold]{escape(revision)}")
    console.print(
        f"{inspection.architecture}, {inspection.quantMethod}, {inspection.tensors:,} tensors, "
        f"{size_text(inspection.bytes)}, {len(inspection.groups):,} quantized groups"
    )
    console.print(_roles(inspection), soft_wrap=False)
    console.print(_reading(inspection))
    for remark in inspection.warnings:
        console.print(f"[yellow]warning[/yellow] {escape(remark.message)}")
    _print_defects(console, inspection)


def _roles(inspection: Inspection) -> Table:
    compared = inspection.source is not None
    table = Table(box=None, pad_edge=False)
    table.add_column("ROLE")
    table.add_column("FORMAT")
    for heading in ("TENSORS", "PARAMETERS", "BYTES", *(["ERROR", "SERVED"] if compared else [])):
        table.add_column(heading, justify="right")
    for line in inspection.roles:
        errors = (_error(line.relativeError), _error(line.relativeErrorServing)) if compared else ()
        table.add_row(
            line.role,
            line.format,
            f"{line.tensors:,}",
            f"{line.parameters:,}",
            f"{line.bytes:,}",
            *errors,
        )
    return table


def _error(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _reading(inspection: Inspection) -> str:
    read = inspection.read
    parts = [
        f"index {_EXTENTS[read.index]}",
        _coverage("global scales", read.globalScales),
        _coverage("bytes searched for NaN", read.values),
    ]
    if inspection.source is not None:
        parts.append(_coverage("matrices compared with the source", read.weights))
    return f"read {size_text(read.bytes)} in {read.requests:,} requests: {', '.join(parts)}"


_EXTENTS: Final = {
    Extent.Complete: "compared",
    Extent.Sampled: "compared in part",
    Extent.NotRead: "not read",
    Extent.Absent: "absent",
}


def _coverage(what: str, coverage: Coverage) -> str:
    if coverage.extent is Extent.Absent:
        return f"no {what}"
    if coverage.extent is Extent.Complete:
        return f"all {coverage.total:,} {what}"
    return f"{coverage.read:,} of {coverage.total:,} {what}"


def _print_defects(console: Console, inspection: Inspection) -> None:
    defects = inspection.defects
    if not defects:
        console.print("[green]no defects found[/green]")
        return
    shown: Counter[str] = Counter()
    for defect in defects:
        shown[defect.kind] += 1
        if shown[defect.kind] <= _SHOWN_OF_A_KIND:
            console.print(f"[red]{defect.kind}[/red] {escape(defect.message)}")
    for kind, number in shown.most_common():
        more = ", --json prints all" if number > _SHOWN_OF_A_KIND else ""
        console.print(f"{number:,} {kind}{more}")
