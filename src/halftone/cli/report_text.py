"""A report for people: the table of gates, the verdict, and where the page lies."""

from pathlib import Path
from typing import Final

from rich.markup import escape
from rich.table import Table

from halftone.cli.plan_text import plain_console
from halftone.spec.names import REPORT_PAGE
from halftone.spec.reports import GateResult, Outcome, Report, Verdict

_COLOURS: Final = {
    Outcome.Passed: "green",
    Outcome.Failed: "red",
    Outcome.Inconclusive: "yellow",
    Outcome.NotRun: "dim",
}
_VERDICT_COLOURS: Final = {
    Verdict.Passed: "green",
    Verdict.Emulated: "green",
    Verdict.Unmeasured: "yellow",
    Verdict.Inconclusive: "yellow",
    Verdict.Failed: "red",
}


def print_report(report: Report, workdir: Path) -> None:
    """Print to standard output."""
    console = plain_console()
    console.print(_gates(report), soft_wrap=False)
    for gate in report.gates:
        if gate.outcome is not Outcome.Passed:
            colour = _COLOURS[gate.outcome]
            console.print(f"[{colour}]{gate.name}[/{colour}] {escape(gate.message)}")
    colour = _VERDICT_COLOURS[report.verdict]
    console.print(f"verdict [bold {colour}]{report.verdict}[/]: {escape(report.message)}")
    console.print(f"report {escape(str(workdir / REPORT_PAGE))}")
    console.print(f"report digest {report.digest}")


def _gates(report: Report) -> Table:
    table = Table(box=None, pad_edge=False)
    for heading in ("GATE", "METRIC"):
        table.add_column(heading)
    for heading in ("SCORE", "LIMIT", "SOURCE", "QUANTIZED"):
        table.add_column(heading, justify="right")
    table.add_column("OUTCOME")
    for gate in report.gates:
        outcome = f"[{_COLOURS[gate.outcome]}]{gate.outcome}[/]"
        row = (_score(gate), gate.limit, gate.sourceScore, gate.quantizedScore)
        cells = (escape(value) if value else "" for value in row)
        table.add_row(gate.name, gate.metric, *cells, outcome)
    return table


def _score(gate: GateResult) -> str | None:
    """The score with its standard error, where it has one."""
    if gate.score is None or gate.standardError is None:
        return gate.score
    return f"{gate.score} ± {gate.standardError}"
