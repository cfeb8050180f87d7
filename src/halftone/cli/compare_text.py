"""A comparison for people: both endpoints beside each other, the verdict and its reasons."""

from typing import Final

from rich.markup import escape
from rich.table import Table

from halftone.cli.plan_text import plain_console
from halftone.serve.comparing.document import Comparison, Timing, Verdict

_COLOURS: Final = {Verdict.Same: "green", Verdict.Worse: "red", Verdict.Undecided: "yellow"}

_SHOWN: Final = 5  # failures; --json has all


def print_comparison(found: Comparison) -> None:
    """Print to standard output."""
    console = plain_console()
    console.print(f"old {escape(found.old.url)} {escape(found.old.model)}")
    console.print(f"new {escape(found.new.url)} {escape(found.new.model)}")
    console.print(_table(found), soft_wrap=False)
    if found.methodBecause is not None:
        console.print(f"answers were not scored by both, because {escape(found.methodBecause)}")
    for failure in found.failures[:_SHOWN]:
        told = f"prompt {failure.line} on the {failure.endpoint} endpoint {failure.message}"
        console.print(f"[red]failed[/red] {escape(told)}")
    if len(found.failures) > _SHOWN:
        console.print(f"and {len(found.failures) - _SHOWN} more failures; see --json")
    colour = _COLOURS[found.verdict]
    console.print(f"verdict [bold {colour}]{found.verdict}[/]")
    for reason in found.reasons:
        console.print(f"- {escape(reason)}")


def _table(found: Comparison) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("MEASURE")
    for heading in ("OLD", "NEW", "NEW / OLD", "95 % BOUNDS"):
        table.add_column(heading, justify="right")
    for name, timings in (("TTFT", found.ttft), ("ITL", found.itl)):
        for percent, timing in timings.items():
            table.add_row(f"{name} {percent} (ms)", *_cells(timing))
    failed = [f"{side.failed} of {side.requests}" for side in (found.old, found.new)]
    table.add_row("failed requests", *failed, "", "")
    divergence = next(each for each in found.measures if each.name == "divergence")
    if divergence.value is not None:
        bounds = divergence.bounds
        between = f"{bounds.lower:.4f} to {bounds.upper:.4f}" if bounds else ""
        table.add_row("divergence (nats a token)", "", f"{divergence.value:.4f}", "", between)
    answers = found.answers
    if answers.topOneAgreementPercent is not None:
        agreement = f"{answers.topOneAgreementPercent:.1f} %"
        table.add_row("same likeliest token", "", agreement, "", "")
    if answers.equalPercent is not None:
        equal = f"{answers.equal} of {answers.compared}"
        table.add_row("equal answers", "", equal, f"{answers.equalPercent:.1f} %", "")
    if answers.firstDifference is not None:
        first = f"token {answers.firstDifference:g}"
        table.add_row("first difference (median)", "", first, "", "")
    return table


def _cells(timing: Timing) -> tuple[str, ...]:
    bounds = timing.bounds
    between = f"{bounds.lower:.2f} to {bounds.upper:.2f}" if bounds.upper is not None else ""
    return (f"{timing.oldMs:.2f}", f"{timing.newMs:.2f}", f"{timing.ratio:.2f}", between)
