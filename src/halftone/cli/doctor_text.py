"""A diagnosis for people, and for programs: who exports what, what is missing, and the way out."""

from collections import defaultdict
from collections.abc import Iterable
from typing import Any, Final

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from halftone.cli.plan_text import plain_console
from halftone.doctor.fixes import fix
from halftone.doctor.judging import FAILING, Diagnosis, Finding, State
from halftone.telemetry.contract import Source

_NONE: Final = "–"
_SHOWN: Final = 3  # of those that need one metric
_MINUTE_S: Final = 60.0
_STYLES: Final = {State.There: "green", State.Absent: "dim", **dict.fromkeys(FAILING, "red")}


def print_diagnosis(
    diagnosis: Diagnosis, *, every: bool = False, console: Console | None = None
) -> None:
    """Print to standard output, or to `console`; each need too if `every`."""
    console = console or plain_console()
    if every:
        console.print(_needs(diagnosis.findings), soft_wrap=False)
        console.print()
    console.print(_sources(diagnosis), soft_wrap=False)
    failing = diagnosis.failing
    for way_out, findings in _by_fix(failing, diagnosis).items():
        console.print()
        for finding in findings:
            console.print(_problem(finding))
        console.print(f"  {escape(way_out)}")
    if failing:
        console.print(f"\n[red]{len(failing)} of {len(diagnosis.findings)} are not there[/red]")
    else:
        console.print("[green]nothing that is needed is missing[/green]")


def _sources(diagnosis: Diagnosis) -> Table:
    """A row for each exporter; 80 columns are enough."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("FAMILY", no_wrap=True)
    table.add_column("FROM", no_wrap=True)
    for heading in ("THERE", "ABSENT", "MISSING", "NEWEST"):
        table.add_column(heading, justify="right", no_wrap=True)
    for source in Source:
        findings = diagnosis.of(source)
        if not findings:
            continue
        states = [finding.state for finding in findings]
        failing = sum(finding.fails for finding in findings)
        table.add_row(
            findings[0].need.family,
            escape(source),
            str(states.count(State.There)),
            str(states.count(State.Absent)),
            str(failing),
            _age(_newest(findings)),
            style="red" if failing else None if source in diagnosis.live else "dim",
        )
    return table


def _needs(findings: Iterable[Finding]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("METRIC", overflow="fold")
    table.add_column("STATE", no_wrap=True)
    for heading in ("SERIES", "NEWEST"):
        table.add_column(heading, justify="right", no_wrap=True)
    for finding in findings:
        seen = finding.seen
        table.add_row(
            finding.need.name,
            finding.state,
            _NONE if seen is None else f"{seen.series:,}",
            _age(None if seen is None else seen.age_s),
            style=_STYLES[finding.state],
        )
    return table


def _by_fix(findings: Iterable[Finding], diagnosis: Diagnosis) -> dict[str, list[Finding]]:
    found: dict[str, list[Finding]] = defaultdict(list)
    for finding in findings:
        found[fix(finding, diagnosis)].append(finding)
    return found


def _problem(finding: Finding) -> str:
    """One line: what is wrong, of what, and who needs it."""
    need, seen = finding.need, finding.seen
    told = f"[red]{finding.state}[/red] `{need.name}`"
    if finding.state is State.LabelMissing and seen is not None:
        counts = (f"`{label}` in {seen.lacking[label]:,}" for label in finding.lacking)
        told += f" ({', '.join(counts)} of {seen.series:,} series)"
    elif finding.state is State.Old and seen is not None:
        told += f" (for {_age(seen.age_s)})"
    elif finding.lacking:
        more = f" and {len(finding.lacking) - _SHOWN} more" if len(finding.lacking) > _SHOWN else ""
        told += f" ({', '.join(f'`{escape(each)}`' for each in finding.lacking[:_SHOWN])}{more})"
    users = need.needed_by
    more = f" and {len(users) - _SHOWN} more" if len(users) > _SHOWN else ""
    return f"{told}: needed by {escape(', '.join(users[:_SHOWN]))}{more}"


def _newest(findings: Iterable[Finding]) -> float | None:
    seen = (finding.seen for finding in findings)
    ages = [each.age_s for each in seen if each is not None and each.age_s is not None]
    return min(ages, default=None)


def _age(seconds: float | None) -> str:
    if seconds is None:
        return _NONE
    return f"{seconds:.0f} s" if seconds < 2 * _MINUTE_S else f"{seconds / _MINUTE_S:.0f} min"


def as_document(diagnosis: Diagnosis) -> dict[str, Any]:
    """What `--json` prints."""
    return {
        "ok": diagnosis.ok,
        "missing": diagnosis.missing_by_family(),
        "sources": [
            {"source": source.name, "live": source in diagnosis.live}
            for source in Source
            if diagnosis.of(source)
        ],
        "metrics": [_row(finding, diagnosis) for finding in diagnosis.findings],
    }


def _row(finding: Finding, diagnosis: Diagnosis) -> dict[str, Any]:
    need, seen = finding.need, finding.seen
    return {
        "name": need.name,
        "family": need.family,
        "source": need.source.name,
        "exists": str(need.exists),
        "state": finding.state.name,
        "series": 0 if seen is None else seen.series,
        "ageSeconds": None if seen is None or seen.age_s is None else round(seen.age_s, 3),
        "missingLabels": _lacking(finding, State.LabelMissing),
        "missingModels": _lacking(finding, State.ModelMissing, State.NotRecorded),
        "wrongRules": _lacking(finding, State.RuleMissing, State.RuleFailing),
        "neededBy": list(need.needed_by),
        "fix": fix(finding, diagnosis),
    }


def _lacking(finding: Finding, *states: State) -> list[str]:
    return list(finding.lacking) if finding.state in states else []
