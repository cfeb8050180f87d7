"""The plots of the page, each a function from evidence or plan to inline SVG.

Colour never stands alone: what it says is also said by a marker, an outline or a label. Every
function takes only what is to be drawn; whether there is anything is decided by its caller.
"""

from collections.abc import Sequence
from itertools import cycle
from math import log10, nan
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from halftone.spec.documents import RoleSummary
from halftone.spec.presentation import short_size
from halftone.validate.page.drawing import canvas, colour, inline_svg, number
from halftone.validate.page.evidence import (
    Divergence,
    GroupError,
    Histogram,
    RoleError,
    Speeds,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


class Recovery(NamedTuple):
    """A task's row: percent of the source's score that is kept, its interval, and the limit."""

    name: str
    percent: float
    lower: float
    upper: float
    limit: float


_MARKERS: Final = ("o", "s", "^", "D", "v", "P", "X", "*")
_SUPERSCRIPT: Final = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_ROW: Final = 26  # points for one row of a chart with rows
_MARGIN: Final = 74  # points for its legend and its axis
# Where the largest value is this many times the limit, a linear axis would hide all others.
_LOGARITHMIC_FROM: Final = 6.0


def error_by_layer(groups: Sequence[GroupError], roles: Sequence[RoleError], alt: str) -> str:
    """The worst group of each layer and role as served, and the same group on its own."""
    worst = _worst_of_layers(groups)
    with canvas(270) as figure:
        axes = figure.add_subplot()
        names = sorted({role for role, _ in worst})
        aside = min(0.12, 0.5 / max(1, len(names)))  # equal errors of two roles are both seen
        for place, (role, marker) in enumerate(zip(names, cycle(_MARKERS), strict=False)):
            rows = [worst[key] for key in sorted(worst) if key[0] == role]
            ink = colour(f"series-{place % len(_MARKERS) + 1}")
            shift = (place - (len(names) - 1) / 2) * aside
            layers = [(row.layer or 0) + shift for row in rows]
            served = _drawn([row.relativeErrorServing for row in rows])
            own = _drawn([row.relativeError for row in rows])
            axes.plot(layers, own, "_", color=ink, markersize=9, markeredgewidth=1.6)
            axes.plot(layers, served, marker=marker, color=ink, label=role, linewidth=1)
        _limits(axes, [(role.limit, role.format) for role in roles])
        top = max((v for g in groups for v in _errors(g)), default=0.0)
        _error_scale(axes, top, [role.limit for role in roles])
        _whole_numbers(axes)
        axes.set_xlabel("layer")
        _legend(figure, axes)
        return inline_svg(figure, "layers", alt)


def error_by_role(roles: Sequence[RoleError], alt: str) -> str:
    """Own error hollow, as served filled, the limit as a bar across."""
    with canvas(_MARGIN + 1.35 * _ROW * len(roles)) as figure:
        axes = figure.add_subplot()
        places = range(len(roles))
        served = _drawn([role.relativeErrorServing for role in roles])
        own = _drawn([role.relativeError for role in roles])
        limits = [role.limit for role in roles]
        top = max((v for v in (role.relativeErrorServing for role in roles) if v), default=0.0)
        axes.plot(served, places, "o", color=colour("quantized"), markersize=6, label="as served")
        axes.plot(
            own,
            places,
            "o",
            color=colour("ink"),
            markerfacecolor="none",
            markersize=10,
            label="on its own",
        )
        axes.plot(
            _drawn(limits),
            places,
            "|",
            color=colour("limit"),
            markersize=13,
            markeredgewidth=2,
            label="limit",
        )
        _rows(axes, [f"{role.role}\n{role.format}" for role in roles])
        _error_scale(axes, top, limits, "x")
        _legend(figure, axes)
        return inline_svg(figure, "roles", alt)


def divergence_histogram(measured: Divergence, histogram: Histogram, alt: str) -> str:
    """Tokens by their KL divergence, on a logarithmic axis, with mean, p99 and the noise floor."""
    edges, marks = _positive(histogram.edges), _marks(measured)
    low, high = _range(edges, histogram.counts, [value for value, *_ in marks])
    with canvas(260) as figure:
        axes = figure.add_subplot()
        axes.stairs(histogram.counts, edges, fill=True, color=colour("quantized"), alpha=0.35)
        axes.stairs(histogram.counts, edges, color=colour("quantized"), linewidth=1.2)
        axes.set_xscale("log")
        axes.set_xlim(low, high)
        for value, label, ink, style in marks:
            axes.axvline(
                max(value, low),
                color=colour(ink),
                linestyle=style,
                linewidth=1.8,
                label=f"{label} {number(value)}",
            )
        _plain_decades(axes)
        axes.set_xlabel("KL divergence of a token, nats")
        axes.set_ylabel("tokens")
        _legend(figure, axes, 2)
        return inline_svg(figure, "divergence", alt)


def sizes(rows: Sequence[RoleSummary], alt: str) -> str:
    """One row for each role and format: its name and sizes, and below them before and after."""
    from matplotlib.patches import Patch

    with canvas(_MARGIN / 2 + 1.25 * _ROW * len(rows)) as figure:
        axes = figure.add_subplot()
        largest = max(row.bytesBefore for row in rows) or 1
        for place, row in enumerate(rows):
            after = colour("quantized" if row.format else "source")
            axes.barh(place, row.bytesBefore, 0.34, facecolor="none", edgecolor=colour("source"))
            axes.barh(place, row.bytesAfter, 0.20, facecolor=after)
            name = f"{row.role}, {row.format}" if row.format else row.role
            axes.text(0, place - 0.28, name, va="bottom")
            axes.text(largest, place - 0.28, _size_label(row), va="bottom", ha="right")
        axes.set_xlim(0, largest * 1.005)
        axes.set_ylim(len(rows) - 0.7, -0.85)
        axes.set_axis_off()
        shown = (
            ("before", "none", "source"),
            ("after, quantized", colour("quantized"), "quantized"),
            ("after, kept", colour("source"), "source"),
        )
        handles = [
            Patch(label=label, facecolor=face, edgecolor=colour(edge))
            for label, face, edge in shown
        ]
        figure.legend(handles=handles, loc="outside upper left", ncols=3, borderaxespad=0)
        return inline_svg(figure, "sizes", alt)


def recoveries(rows: Sequence[Recovery], alt: str) -> str:
    """The quantized model's score in percent of the source's, with its interval and its limit."""
    with canvas(_MARGIN + 16 + (_ROW + 4) * len(rows)) as figure:
        axes = figure.add_subplot()
        axes.axvline(100, color=colour("source"), linestyle="--", label="source")
        for place, row in enumerate(rows):
            first = place == 0
            axes.errorbar(
                row.percent,
                place,
                xerr=[[row.percent - row.lower], [row.upper - row.percent]],
                fmt="o",
                color=colour("quantized"),
                capsize=4,
                label="quantized, with interval" if first else None,
            )
            axes.plot(
                row.limit,
                place,
                "|",
                color=colour("limit"),
                markersize=13,
                markeredgewidth=2,
                linestyle="none",
                label="limit" if first else None,
            )
        _rows(axes, [row.name for row in rows])
        axes.set_xlabel("percent of the source's score")
        _legend(figure, axes)
        return inline_svg(figure, "recovery", alt)


def speed_by_load(speeds: Speeds, alt: str) -> str:
    """Throughput, time to the first token and between tokens: p50 as points, up to p95 as lines."""
    measures = (
        ("tokensPerSecond", "tokens a second"),
        ("ttftMs", "to the first token, ms"),
        ("itlMs", "between tokens, ms"),
    )
    with canvas(480) as figure:
        panels: Any = figure.subplots(len(measures), 1, sharex=True)
        for axes, (field, label) in zip(panels, measures, strict=True):
            _lines_of_load(axes, speeds, field)
            axes.set_title(label, loc="left")
            axes.set_ylim(bottom=0)
        panels[-1].set_xticks(
            range(len(speeds.loads)), [str(load.concurrency) for load in speeds.loads]
        )
        panels[-1].set_xlabel("requests at once")
        panels[-1].set_xlim(-0.4, len(speeds.loads) - 0.6)
        _legend(figure, panels[0])
        return inline_svg(figure, "speed", alt)


def _lines_of_load(axes: "Axes", speeds: Speeds, field: str) -> None:
    models = (("source", "o", "--", -0.06), ("quantized", "s", "-", 0.06))
    for model, marker, style, aside in models:
        found = [getattr(getattr(load, model), field) for load in speeds.loads]
        places = [place + aside for place in range(len(found))]
        face = "none" if model == "source" else colour(model)
        axes.plot(
            places,
            [values.p50 for values in found],
            marker=marker,
            linestyle=style,
            color=colour(model),
            markerfacecolor=face,
            label=model,
        )
        for place, values in zip(places, found, strict=True):
            if values.p95 is not None:
                axes.plot([place, place], [values.p50, values.p95], color=colour(model))


def _worst_of_layers(groups: Sequence[GroupError]) -> dict[tuple[str, int], GroupError]:
    """By role and layer the group with the largest error as served."""
    worst: dict[tuple[str, int], GroupError] = {}
    for group in groups:
        if group.layer is None or group.relativeErrorServing is None:
            continue
        known = worst.get((group.role, group.layer))
        if known is None or group.relativeErrorServing > (known.relativeErrorServing or 0.0):
            worst[group.role, group.layer] = group
    return worst


def _drawn(values: Sequence[float | None]) -> list[float]:
    """What has no bound is left out by matplotlib, and told in the caption."""
    return [nan if value is None else value for value in values]


def _errors(group: GroupError) -> list[float]:
    return [v for v in (group.relativeError, group.relativeErrorServing) if v is not None]


def _limits(axes: "Axes", limits: Sequence[tuple[float | None, str]]) -> None:
    """One line for each limit, once, whatever the number of roles that have it."""
    for limit in sorted({value for value, _ in limits if value is not None}):
        formats = sorted({fmt for value, fmt in limits if value == limit})
        axes.axhline(
            limit, color=colour("limit"), linestyle=":", label=f"limit of {', '.join(formats)}"
        )


def _error_scale(
    axes: "Axes", top: float, limits: Sequence[float | None], which: str = "y"
) -> None:
    """From zero; logarithmic where an error is far beyond every limit."""
    known = [limit for limit in limits if limit is not None]
    if known and top > _LOGARITHMIC_FROM * max(known):
        axes.set(**{f"{which}scale": "log"})
        _plain_decades(axes, which, (1, 2, 5))
    else:
        axes.set(**{f"{which}lim": (0, 1.12 * max([top, *known], default=1.0))})
    axes.set(**{f"{which}label": "relative error"})


def _plain_decades(axes: "Axes", which: str = "x", steps: tuple[float, ...] = (1,)) -> None:
    """`0.001` rather than a power of ten in mathematics, which the page does not set."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_major_locator(LogLocator(base=10, subs=steps, numticks=6))
    axis.set_major_formatter(FuncFormatter(lambda value, _: _decade(value)))
    axis.set_minor_formatter(NullFormatter())


def _decade(value: float) -> str:
    """`0.01`, and powers of ten where zeros would have to be counted."""
    if 0.001 <= value <= 1000:
        return f"{value:g}"
    return f"10{str(round(log10(value))).translate(_SUPERSCRIPT)}"


def _whole_numbers(axes: "Axes") -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))


def _positive(edges: Sequence[float]) -> list[float]:
    """Edges for a logarithmic axis: a first edge at zero moves a decade below the second."""
    first = edges[0] if edges[0] > 0 else edges[1] / 10
    return [first, *edges[1:]]


def _range(
    edges: Sequence[float], counts: Sequence[int], marks: Sequence[float]
) -> tuple[float, float]:
    """From the first bin with a token, or the first mark, to the last; a mark at zero is no end."""
    taken = [place for place, count in enumerate(counts) if count] or [0]
    ends = [edges[taken[0]], edges[taken[-1] + 1], *(mark for mark in marks if mark > 0)]
    return min(ends) / 1.5, max(ends) * 1.5


def _marks(measured: Divergence) -> list[tuple[float, str, str, str]]:
    floor = measured.noiseFloor
    marks = [
        (measured.mean, "mean", "ink", "-"),
        (measured.p99, "p99", "ink", "--"),
        (floor.mean if floor else None, "noise floor, mean", "limit", "-"),
        (floor.p99 if floor else None, "noise floor, p99", "limit", "--"),
    ]
    return [(value, label, ink, style) for value, label, ink, style in marks if value is not None]


def _size_label(row: RoleSummary) -> str:
    if row.format is None:
        return f"{short_size(row.bytesAfter)}, kept"
    ratio = row.bytesBefore / row.bytesAfter if row.bytesAfter else 0.0
    return f"{short_size(row.bytesBefore)} → {short_size(row.bytesAfter)} ({ratio:.2f}×)"


def _rows(axes: "Axes", labels: Sequence[str]) -> None:
    """Names on the left, the first one on top, guides across only."""
    axes.set_yticks(range(len(labels)), labels)
    axes.tick_params(axis="y", length=0, labelcolor=colour("ink"))
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")
    axes.spines["left"].set_visible(False)


def _legend(figure: "Figure", axes: "Axes", columns: int = 3) -> None:
    """Above the axes and at the left edge, whatever the width of the names there."""
    handles = axes.get_legend_handles_labels()
    figure.legend(*handles, loc="outside upper left", ncols=columns, borderaxespad=0)
