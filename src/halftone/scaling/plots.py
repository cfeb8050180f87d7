"""The plot of a replay: what each way to scale did over time, and what it cost for what it gave.

    svg, png = plot(world, load, outcomes)

Called by `halftone replay`; it decides nothing. Equal outcomes give equal bytes. Needs the extra
`report`. Colour never stands alone: lines have dashes, points have shapes of their own.
"""

import io
from collections.abc import Sequence
from itertools import cycle
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from halftone.scaling.figures import HOUR_S
from halftone.scaling.loads.load import Floats, Load
from halftone.scaling.replay import Outcome, World
from halftone.spec.extras import extra
from halftone.spec.presentation import PLOT_SETTINGS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MUTED: Final = "#5f6368"
_OURS: Final = "halftone"
_MINUTE_S: Final = 60.0
_PNG_DPI: Final = 120
# Queues of a policy that fails are a thousand times those of one that does not.
_LINEAR_QUEUE: Final = 10
_ROWS: Final = ("load", "replicas", "kv", "queue")
# Of a scale of shares: how far the best and the worst stay from its ends.
_MARGIN: Final = 2.0


class _Style(NamedTuple):
    colour: str
    dash: Any
    marker: str
    width: float = 1.1


_OWN: Final = {
    _OURS: _Style("#1f5fa8", "-", "*", 2.4),
    "oracle": _Style("#202124", (0, (1, 1)), "P", 1.4),
}
# Colours that stay apart for most who see few of them, after Okabe and Ito.
_OTHERS: Final = (
    _Style("#b3261e", (0, (6, 1.5)), "s"),
    _Style("#8a5a00", (0, (4, 1, 1, 1)), "D"),
    _Style("#009e73", "-", "^"),
    _Style("#cc79a7", (0, (2, 1)), "v"),
    _Style("#56b4e9", "-", "o"),
    _Style("#e69f00", (0, (8, 2, 2, 2)), "X"),
    _Style("#6a4c93", (0, (3, 1, 1, 1, 1, 1)), "<"),
)


def require_plotting() -> None:
    """Raise EnvironmentFault(MissingDependency) without matplotlib, before anything is run."""
    with extra("report", "The plot of a replay", ", or ask for `--json`"):
        import matplotlib as mpl  # noqa: F401


def plot(world: World, load: Load, outcomes: Sequence[Outcome]) -> tuple[bytes, bytes]:
    """The figure as SVG and as PNG."""
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    with mpl.rc_context(_settings()):
        figure = draw(world, load, outcomes)
        figure.draw_without_rendering()
        figure.set_layout_engine("none")  # places are found once, not for each format again
        text, image = io.StringIO(), io.BytesIO()
        nothing: Any = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        FigureCanvasSVG(figure).print_svg(text, metadata=nothing)
        FigureCanvasAgg(figure).print_png(image, metadata={"Software": ""})
    return text.getvalue().encode(), image.getvalue()


def draw(world: World, load: Load, outcomes: Sequence[Outcome]) -> "Figure":
    """The figure, for a canvas of the caller's choice."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 9), dpi=_PNG_DPI, layout="constrained")
    # Apart, so that names below one half leave no gap in the other.
    halves: Any = figure.subfigures(1, 2, width_ratios=(1.7, 1))
    left, right = halves
    heights = (0.8, 1.4, 1, 1)
    rows = left.subplots(len(heights), 1, sharex=True, height_ratios=heights)
    places: dict[str, Axes] = dict(zip(_ROWS, rows, strict=True))
    cost, names = right.subplots(2, 1, height_ratios=(1.1, 1))
    styles = _styles(outcomes)
    _draw_load(places["load"], load)
    _draw_lines(places, outcomes, styles)
    _draw_cost(cost, outcomes, styles)
    _draw_names(names, styles)
    places["queue"].set_xlabel("minutes since the load began")
    figure.suptitle(
        f"{load.name}: {len(load):,} requests; a replica is ready {world.lead_s:g} s after the "
        f"ask, {world.start} at first, at most {world.max_replicas}",
        x=0.01,
        ha="left",
        fontsize=11,
    )
    return figure


def _styles(outcomes: Sequence[Outcome]) -> dict[str, _Style]:
    others = cycle(_OTHERS)
    return {each.policy: _OWN.get(each.policy) or next(others) for each in outcomes}


def _draw_load(axes: "Axes", load: Load) -> None:
    """A step a minute: finer, and a Poisson process hides its own rate."""
    minutes = np.bincount((load.arrival_s // _MINUTE_S).astype(np.int64)) / _MINUTE_S
    edges = np.arange(len(minutes) + 1)
    axes.stairs(minutes, edges, fill=True, color="#c9d6e6")
    axes.stairs(minutes, edges, color=_MUTED, linewidth=0.8)
    axes.set_ylabel("requests\nper second")
    axes.set_ylim(bottom=0)


def _draw_lines(
    places: "dict[str, Axes]", outcomes: Sequence[Outcome], styles: dict[str, _Style]
) -> None:
    for outcome in outcomes:
        seen, style = outcome.timeline, styles[outcome.policy]
        rows: dict[str, Floats] = {
            "replicas": seen.ready,
            "kv": 100 * seen.kv_usage,
            "queue": seen.waiting,
        }
        for name, values in rows.items():
            places[name].plot(
                seen.time_s / _MINUTE_S,
                values,
                color=style.colour,
                linestyle=style.dash,
                linewidth=style.width,
                zorder=4 if outcome.policy == _OURS else 3,
                drawstyle="steps-post",
            )
    places["replicas"].set_ylabel("replicas that are ready")
    places["kv"].set_ylabel("KV blocks in use\n(%, mean of replicas)")
    places["queue"].set_ylabel("requests waiting\n(logarithmic above 10)")
    places["queue"].set_yscale("symlog", linthresh=_LINEAR_QUEUE)
    places["queue"].yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    for name in ("replicas", "kv", "queue"):
        places[name].set_ylim(bottom=0)
        places[name].margins(x=0.01)


def _draw_cost(axes: "Axes", outcomes: Sequence[Outcome], styles: dict[str, _Style]) -> None:
    for outcome in outcomes:
        style = styles[outcome.policy]
        own = outcome.policy in _OWN
        axes.plot(
            [outcome.replica_seconds / HOUR_S],
            [100 * outcome.attainment],
            marker=style.marker,
            color=style.colour,
            linestyle="none",
            markersize=15 if outcome.policy == _OURS else 9,
            markeredgecolor="white",
            zorder=5 if own else 4,
        )
    lowest = min((100 * each.attainment for each in outcomes), default=0.0)
    axes.set_ylim(max(-_MARGIN, lowest - _MARGIN), 100 + _MARGIN / 2)
    axes.set_xlim(left=0)
    axes.set_xlabel("replica-hours paid")
    axes.set_ylabel("requests that attained the objective (%)")
    axes.set_title("better is up and to the left", loc="right", color=_MUTED, fontsize=9)


def _draw_names(axes: "Axes", styles: dict[str, _Style]) -> None:
    """Every policy with its line and its point."""
    from matplotlib.lines import Line2D

    handles = [
        Line2D(
            [],
            [],
            color=style.colour,
            linestyle=style.dash,
            linewidth=style.width,
            marker=style.marker,
            markersize=12 if name == _OURS else 8,
            markeredgecolor="white",
            label=name,
        )
        for name, style in styles.items()
    ]
    axes.set_axis_off()
    axes.legend(handles=handles, loc="upper left", handlelength=5, labelspacing=0.9, fontsize=10)


def _settings() -> dict[str, Any]:
    return {
        **PLOT_SETTINGS,
        "font.family": ["DejaVu Sans", "sans-serif"],
        "font.size": 10,
        "axes.edgecolor": _MUTED,
        "grid.color": "#dadce0",
    }
