"""The figures of the page in numbers: one table beside each drawing.

Called by `halftone.validate.page.figures`; the template sets them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import Any, Final

from halftone.spec.documents import Plan
from halftone.spec.presentation import short_size
from halftone.spec.reports import Report
from halftone.validate.page.drawing import number
from halftone.validate.page.evidence import Divergence, GroupError, RoleError, Speeds, TaskScores

_SHOWN_WORST: Final = 10  # tokens or groups; the evidence has them all


@dataclass(frozen=True)
class Table:
    """Headings and rows of text; `numeric` are the columns that are set to the right."""

    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numeric: frozenset[int] = frozenset()


def size_table(plan: Plan) -> Table:
    """Every role and format, and both sums."""
    rows = [
        (
            str(row.role),
            str(row.format or "kept"),
            f"{row.tensors:,}",
            f"{row.parameters:,}",
            short_size(row.bytesBefore),
            short_size(row.bytesAfter),
            f"{row.bytesBefore / row.bytesAfter:.2f}" if row.bytesAfter else "",
        )
        for row in plan.roles
    ]
    sums = plan.sizes
    if sums is not None:
        for name, ratio in (("Quantized part", sums.quantized), ("Whole", sums.whole)):
            before, after = short_size(ratio.bytesBefore), short_size(ratio.bytesAfter)
            rows.append((name, "", "", "", before, after, ratio.ratio))
    headings = ("Role", "Format", "Tensors", "Parameters", "Before", "After", "Ratio")
    return Table(headings, tuple(rows), frozenset(range(2, 7)))


def role_error_table(roles: Sequence[RoleError]) -> Table:
    """Every role's weight error, as served and on its own, beside its limit."""
    rows = tuple(
        (
            role.role,
            role.format,
            _error(role.relativeErrorServing),
            _error(role.relativeError),
            "" if role.limit is None else f"{role.limit:g}",
        )
        for role in roles
    )
    headings = ("Role", "Format", "As served", "On its own", "Limit")
    return Table(headings, rows, frozenset({2, 3, 4}))


def worst_group_table(groups: Sequence[GroupError]) -> Table:
    """The groups with the largest errors as served, the worst first."""
    largest = sorted(groups, key=lambda g: (-_bounded(g.relativeErrorServing), g.name))
    rows = tuple(
        (g.name, g.role, g.format, _error(g.relativeErrorServing), _error(g.relativeError))
        for g in largest[:_SHOWN_WORST]
    )
    headings = ("Group", "Role", "Format", "As served", "On its own")
    return Table(headings, rows, frozenset({3, 4}))


def prompt_table(measured: Divergence) -> Table | None:
    """Prompts by kind: how many, how many tokens, and their divergence weighted by tokens."""
    kinds = sorted({prompt.kind for prompt in measured.prompts})
    rows = []
    for kind in kinds:
        chosen = [prompt for prompt in measured.prompts if prompt.kind == kind]
        tokens = sum(prompt.tokens for prompt in chosen)
        mean = sum(_bounded(p.meanKl) * p.tokens for p in chosen) / (tokens or 1)
        worst = max(chosen, key=lambda prompt: _bounded(prompt.meanKl))
        rows.append(
            (
                kind or "text",
                f"{len(chosen):,}",
                f"{tokens:,}",
                number(mean),
                f"{number(_bounded(worst.meanKl))} ({worst.id})",
            )
        )
    headings = ("Prompts", "Number", "Tokens", "Mean KL, nats", "Worst prompt")
    return Table(headings, tuple(rows), frozenset({1, 2, 3})) if rows else None


def worst_table(worst: Sequence[Any]) -> Table | None:
    """The tokens that diverge most, with whatever the gate wrote of them."""
    rows = [row for row in worst if isinstance(row, dict)][:_SHOWN_WORST]
    if not rows:
        return None
    columns = tuple(dict.fromkeys(key for row in rows for key in row))
    cells = tuple(tuple(plain_text(row.get(column)) for column in columns) for row in rows)
    return Table(tuple(str(column) for column in columns), cells)


def task_table(tasks: dict[str, TaskScores]) -> Table:
    """Every task from its raw scores: both means, what changed item by item, and the difference."""
    rows = []
    for name, task in tasks.items():
        count = len(task.items) or 1
        rows.append(
            (
                f"{name}: {task.task}, {task.metric}",
                f"{len(task.items):,}" + _of_needed(task),
                number(sum(item.source for item in task.items) / count),
                number(sum(item.quantized for item in task.items) / count),
                f"{sum(1 for item in task.items if item.quantized > item.source):,} / "
                f"{sum(1 for item in task.items if item.quantized < item.source):,}",
                f"{task.difference:+.4f} [{task.interval.lower:+.4f}, {task.interval.upper:+.4f}]",
                "" if task.recoveryPercent is None else f"{task.recoveryPercent:.2f} %",
            )
        )
    headings = ("Task", "Items", "Source", "Quantized", "Better / worse", "Difference", "Recovery")
    return Table(headings, tuple(rows), frozenset(range(1, 7)))


def speed_table(speeds: Speeds) -> Table:
    """p50 of both models under every load."""
    rows = tuple(
        (
            f"{load.concurrency:,}",
            _pair(load.source.tokensPerSecond.p50, load.quantized.tokensPerSecond.p50),
            _pair(load.source.ttftMs.p50, load.quantized.ttftMs.p50),
            _pair(load.source.itlMs.p50, load.quantized.itlMs.p50),
            f"{number(load.ratioPercent)} %",
        )
        for load in speeds.loads
    )
    headings = (
        "Requests at once",
        "Tokens a second",
        "First token, ms",
        "Between tokens, ms",
        "Quantized to source",
    )
    return Table(headings, rows, frozenset(range(5)))


def evidence_table(report: Report) -> Table | None:
    """The evidence files, so that a reader can check what lies beside the page."""
    rows = tuple((file.path, short_size(file.sizeBytes), file.sha256) for file in report.evidence)
    return Table(("Evidence", "Size", "SHA-256"), rows, frozenset({1})) if rows else None


def _error(value: float | None) -> str:
    return "unbounded" if value is None else f"{value:.4f}"


def _bounded(value: float | None) -> float:
    """For sorting and summing: None stands for a value without bound."""
    return inf if value is None else value


def _of_needed(task: TaskScores) -> str:
    return f" ({task.neededItems:,} needed)" if task.neededItems else ""


def _pair(source: float, quantized: float) -> str:
    return f"{number(source)} → {number(quantized)}"


def plain_text(value: Any) -> str:
    """A value of the evidence as text."""
    if value is None:
        return ""
    if isinstance(value, float):
        return number(value)
    if isinstance(value, dict):
        return ", ".join(
            f"{key}: {plain_text(one)}" for key, one in value.items() if one is not None
        )
    if isinstance(value, list | tuple):
        return ", ".join(plain_text(one) for one in value)
    return str(value)
