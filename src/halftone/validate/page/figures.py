"""The figures of the page: each a drawing, what it shows in words, and the same in numbers.

A figure is there only if its gate left evidence. Called by `halftone.validate.page.page`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from halftone.spec.documents import Plan
from halftone.spec.presentation import DIVERGENCE_CAVEAT
from halftone.spec.reports import Report
from halftone.validate.page import plots, sections, tables
from halftone.validate.page.evidence import (
    Divergence,
    Gathered,
    Speeds,
    TaskScores,
    WeightErrors,
)
from halftone.validate.page.sections import Fact
from halftone.validate.page.tables import Table

if TYPE_CHECKING:
    from markupsafe import Markup

_NUMBERS: Final = "In numbers"
_READ_ALOUD: Final = 16  # rows of a table that describe its drawing; the table itself has all


@dataclass(frozen=True)
class Figure:
    """`tables` are folded away, each under its label."""

    title: str
    caption: str
    drawing: "Markup | None" = None
    tables: tuple[tuple[str, Table], ...] = ()
    facts: tuple[Fact, ...] = ()
    caveat: str = ""


def figures(report: Report, plan: Plan, found: Gathered) -> Iterator[Figure]:
    """Every figure for which there is something to show, in the order of the gates."""
    if found.weights is not None and found.weights.roles:
        yield _by_role(found.weights)
        if any(group.layer is not None for group in found.weights.groups):
            yield _by_layer(found.weights)
    if found.divergence is not None:
        yield _divergence(found.divergence)
    if plan.roles:
        yield _sizes(plan)
    if found.tasks:
        yield _tasks(report, found.tasks)
    if found.speeds is not None and found.speeds.loads:
        yield _speeds(found.speeds)


def _by_role(weights: WeightErrors) -> Figure:
    title, table = "Weight error by role", tables.role_error_table(weights.roles)
    return Figure(
        title,
        "Relative error ‖W − W′‖ / ‖W‖ of each role: as a server decodes it (filled) and with each "
        "tensor's own scale (ring). The bar is the limit.",
        _safe(plots.error_by_role(weights.roles, _aloud(title, table))),
        ((_NUMBERS, table),),
    )


def _by_layer(weights: WeightErrors) -> Figure:
    title = "Weight error by layer"
    layered = [group for group in weights.groups if group.layer is not None]
    table = tables.worst_group_table(layered)
    outside = len(weights.groups) - len(layered)
    more = f" {outside:,} groups lie outside of the layers." if outside else ""
    unbounded = [group.name for group in layered if group.relativeErrorServing is None]
    if unbounded:
        more += f" Without bound, and so not drawn: {', '.join(unbounded[:3])}."
    return Figure(
        title,
        "The worst fused group of each layer and role, as served. A dash is the same group with "
        f"its own scales; it lies on the marker where serving costs nothing.{more}",
        _safe(plots.error_by_layer(layered, weights.roles, _aloud(title, table))),
        (("The worst groups", table),),
    )


def _divergence(measured: Divergence) -> Figure:
    title, facts = "KL divergence from the source", tuple(sections.divergence_facts(measured))
    candidates = (
        ("By kind of prompt", tables.prompt_table(measured)),
        ("Tokens that differ most", tables.worst_table(measured.worst)),
    )
    drawing, caption = None, "Both models read the same prompts."
    if measured.histogram is not None:
        aloud = ". ".join([title, *(f"{fact.name}: {fact.value}" for fact in facts)])
        drawing = _safe(plots.divergence_histogram(measured, measured.histogram, aloud))
        caption = (
            "Tokens of the prompt set by the divergence of the next token's distribution. The "
            "noise floor is the source against itself: what lies left of it is noise."
        )
    kept = tuple((label, table) for label, table in candidates if table is not None)
    return Figure(title, caption, drawing, kept, facts, DIVERGENCE_CAVEAT)


def _sizes(plan: Plan) -> Figure:
    title, table = "Size before and after", tables.size_table(plan)
    return Figure(
        title,
        "Bytes of tensor data by role: the outline is the source, the bar what was written.",
        _safe(plots.sizes(plan.roles, _aloud(title, table))),
        ((_NUMBERS, table),),
    )


def _tasks(report: Report, tasks: dict[str, TaskScores]) -> Figure:
    title, table = "Task recovery", tables.task_table(tasks)
    rows = [
        plots.Recovery(
            gate.name,
            float(gate.score),
            float(gate.interval.lower),
            float(gate.interval.upper),
            100 - tasks[gate.name].marginPercent,
        )
        for gate in report.gates
        if gate.name in tasks and gate.score is not None and gate.interval is not None
    ]
    return Figure(
        title,
        "The quantized model's score in percent of the source's, from raw scores paired item by "
        "item, with the interval of the difference. A gate passes where the whole interval lies "
        "right of its limit.",
        _safe(plots.recoveries(rows, _aloud(title, table))) if rows else None,
        ((_NUMBERS, table),),
    )


def _speeds(speeds: Speeds) -> Figure:
    title, table = "Speed by load", tables.speed_table(speeds)
    return Figure(
        title,
        f"{sections.slower_loads(speeds.loads)} Points are p50, lines reach to p95; both models on "
        "the same device under the same load.",
        _safe(plots.speed_by_load(speeds, _aloud(title, table))),
        ((_NUMBERS, table),),
    )


def _aloud(title: str, table: Table) -> str:
    """What a drawing shows, for who cannot see it."""
    rows = []
    for row in table.rows[:_READ_ALOUD]:
        cells = zip(table.headings[1:], row[1:], strict=True)
        rows.append(f"{row[0]}: " + ", ".join(f"{name} {cell}" for name, cell in cells if cell))
    return ". ".join([title, *rows])


def _safe(svg: str) -> "Markup":
    """A drawing of ours: matplotlib has escaped the text in it."""
    from markupsafe import Markup

    return Markup(svg)  # noqa: S704
