"""The plot of a sweep: predicted loss against size, as an SVG that stands alone.

Called by `halftone sweep` with the finished document; it decides nothing. Equal documents give
equal bytes. Needs the extra `report`.
"""

import io
from itertools import cycle
from math import inf
from textwrap import wrap
from typing import TYPE_CHECKING, Any, Final

from halftone.quantize.sweep.document import Measure, Point, SweepDocument
from halftone.spec.extras import extra
from halftone.spec.presentation import PLOT_SETTINGS, short_size

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# The largest that is no larger than the model: figures of the axis have few digits then.
_UNITS: Final = (("GB", 9, "⁹"), ("MB", 6, "⁶"), ("kB", 3, "³"))
_AXIS: Final = {
    Measure.WeightError: "predicted loss:\nmean squared relative error of weights",
    Measure.OutputDivergence: "predicted loss: relative squared error\nof layer outputs, summed",
}
# Each preset has a shape of its own; colour never stands alone.
_MARKERS: Final = ("s", "D", "^", "v", "P", "X", "<", ">", "p", "h")
_TITLE_COLUMNS: Final = 95
_PRESET_INK: Final = "#8a5a00"
_FRONT_INK: Final = "#1f5fa8"
_PROPOSED_INK: Final = "#b3261e"
_MUTED: Final = "#5f6368"


def require_plotting() -> None:
    """Raise EnvironmentFault(MissingDependency) without matplotlib, before anything is measured."""
    with extra("report", "The plot of a sweep"):
        import matplotlib as mpl  # noqa: F401


def plot(document: SweepDocument) -> bytes:
    """The SVG of `document`: front, presets, budget and what is proposed."""
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    with mpl.rc_context(_settings()):
        figure = draw(document)
        buffer = io.StringIO()
        nothing: Any = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        FigureCanvasSVG(figure).print_svg(buffer, metadata=nothing)
    return buffer.getvalue().encode()


def draw(document: SweepDocument) -> "Figure":
    """The figure, for a canvas of the caller's choice."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 6), layout="constrained")
    axes = figure.add_subplot()
    unit, power, raised = _unit(document)
    scale = 10**power
    _draw_front(axes, document, scale)
    _draw_proposed(axes, document.proposed, scale)
    _draw_presets(axes, document, scale)
    _draw_limits(axes, document, scale)
    if any(_is_drawn(point) for point in (*document.front, *document.presets)):
        _scale_losses(axes)
    axes.set_xlabel(f"size of all tensors ({unit}, 10{raised} bytes)")
    axes.set_ylabel(_AXIS[document.measure])
    axes.set_title(_title(document), loc="left")
    figure.legend(loc="outside lower center", ncols=3)
    return figure


def _unit(document: SweepDocument) -> tuple[str, int, str]:
    """A unit's name, its power of ten, and that as raised digits."""
    largest = max(point.bytes for point in (*document.front, *document.presets))
    return next((unit for unit in _UNITS if largest >= 10 ** unit[1]), _UNITS[-1])


def _draw_front(axes: "Axes", document: SweepDocument, scale: int) -> None:
    points = [point for point in document.front if _is_drawn(point)]
    axes.plot(
        [point.bytes / scale for point in points],
        [_loss(point) for point in points],
        marker="o",
        drawstyle="steps-post",
        color=_FRONT_INK,
        label=f"best of {document.combinations:,} combinations",
    )


def _draw_presets(axes: "Axes", document: SweepDocument, scale: int) -> None:
    """The legend has them from left to right, as the plot."""
    ordered = sorted(document.presets, key=lambda preset: preset.bytes)
    for preset, marker in zip(ordered, cycle(_MARKERS), strict=False):
        if not _is_drawn(preset):
            continue
        axes.plot(
            [preset.bytes / scale],
            [_loss(preset)],
            marker=marker,
            linestyle="none",
            color=_PRESET_INK,
            markerfacecolor="none",
            markersize=9,
            zorder=6,  # hollow, around whatever lies there too
            label=f"preset {preset.name}",
        )


def _draw_limits(axes: "Axes", document: SweepDocument, scale: int) -> None:
    budget = document.budgetBytes
    label = f"budget, {short_size(budget)}"
    axes.axvline(budget / scale, color=_PROPOSED_INK, linestyle="--", label=label)
    kept = document.front[-1]
    if not kept.precision:
        label = f"as it is, {short_size(kept.bytes)} (no loss)"
        axes.axvline(kept.bytes / scale, color=_MUTED, linestyle=":", label=label)


def _draw_proposed(axes: "Axes", point: Point, scale: int) -> None:
    if not _is_drawn(point):
        return
    axes.plot(
        [point.bytes / scale],
        [_loss(point)],
        marker="*",
        linestyle="none",
        markersize=17,
        color=_PROPOSED_INK,
        markeredgecolor="white",
        label=f"proposed, {short_size(point.bytes)}",
        zorder=5,
    )


def _scale_losses(axes: "Axes") -> None:
    """A logarithmic axis with plain numbers: losses of formats are decades apart."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, place: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _title(document: SweepDocument) -> str:
    model = "/".join(document.source.uri.rstrip("/").split("/")[-2:])
    lines = ", ".join(f"{x.role}: {x.format}" for x in document.proposed.precision)
    return "\n".join([model, *wrap(f"proposed: {lines}", _TITLE_COLUMNS)])


def _is_drawn(point: Point) -> bool:
    """Whether a logarithmic axis has a place for `point`."""
    return 0.0 < _loss(point) < inf


def _loss(point: Point) -> float:
    return 0.0 if point.loss is None else float(point.loss)


def _settings() -> dict[str, Any]:
    return {
        **PLOT_SETTINGS,
        "font.family": ["DejaVu Sans", "sans-serif"],
        "font.size": 10,
        "axes.titlesize": 10,
        "axes.edgecolor": _MUTED,
        "grid.color": "#dadce0",
        "legend.fontsize": 9,
        "lines.linewidth": 1.4,
        "lines.markersize": 5,
    }
