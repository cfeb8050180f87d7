"""A canvas for the page's plots: matplotlib in, one piece of inline SVG out.

Plots are drawn as wide as a phone. Colours are names that the page's style defines, for light, dark
and print; text stays text, so that it can be read aloud, searched and set in the page's font. Equal
data give equal bytes. Called by `halftone.validate.page.plots`; the tables take `number` alone.
"""

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from math import isfinite
from typing import TYPE_CHECKING, Any, Final

from halftone.spec.presentation import PLOT_SETTINGS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Units of the SVG are points; on a phone one is about one CSS pixel.
WIDTH: Final = 360
_POINTS_PER_INCH: Final = 72
_FONT_SIZE: Final = 11

# Names of CSS variables. The page's style gives each a value by colour scheme; matplotlib only
# ever sees the stand-ins below, which nothing else uses.
_NAMES: Final = (
    "ink",
    "muted",
    "line",
    "card",
    "source",
    "quantized",
    "limit",
    *(f"series-{number}" for number in range(1, 9)),
)
_STAND_INS: Final = {name: f"#0102{number:02x}" for number, name in enumerate(_NAMES, 1)}
_FONT = re.compile(r"font: ([\d.]+)px [^;\"]*")
_IDENTIFIER = re.compile(r' id="([^"]*)"')
_REFERENCE = re.compile(r'(?:url\(|href=")#([^)"]+)')


def colour(name: str) -> str:
    """What to tell matplotlib for the page's colour `name`."""
    return _STAND_INS[name]


@contextmanager
def canvas(height: float) -> "Iterator[Figure]":
    """A figure `height` points high, with the page's settings in force."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(_settings()):
        yield Figure(
            figsize=(WIDTH / _POINTS_PER_INCH, height / _POINTS_PER_INCH), layout="constrained"
        )


def inline_svg(figure: "Figure", name: str, description: str) -> str:
    """`figure` as an `<svg>` element for HTML; `name` keeps its identifiers apart from others'."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    buffer = io.StringIO()
    nothing: Any = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    FigureCanvasSVG(figure).print_svg(buffer, metadata=nothing)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    used = set(_REFERENCE.findall(text))
    text = _IDENTIFIER.sub(lambda m: f' id="{name}-{m[1]}"' if m[1] in used else "", text)
    text = _REFERENCE.sub(lambda m: m[0].replace(f"#{m[1]}", f"#{name}-{m[1]}"), text)
    text = text.replace("xlink:href", "href")
    for stand_in, variable in zip(_STAND_INS.values(), _STAND_INS, strict=True):
        text = text.replace(stand_in, f"var(--{variable})")
    text = _FONT.sub(r"font-size: \1px", text)
    label = escape(description, quote=True)
    head = f'<svg viewBox="0 0 {WIDTH} {_height(figure)}" role="img" aria-label="{label}">'
    return head + re.sub(r"^<svg[^>]*>", "", text, count=1).strip()


def number(value: float, digits: int = 3) -> str:
    """Three significant digits, for labels: `0.00153`, `1,234`; `unbounded` for an infinity."""
    if not isfinite(value):
        return "unbounded"
    if abs(value) >= 10**digits:
        return f"{value:,.0f}"
    return f"{value:.{digits}g}"


def _height(figure: "Figure") -> str:
    return f"{figure.get_figheight() * _POINTS_PER_INCH:g}"


def _settings() -> dict[str, Any]:
    ink, muted, line = colour("ink"), colour("muted"), colour("line")
    return {
        **PLOT_SETTINGS,
        "font.family": ["DejaVu Sans"],
        "font.size": _FONT_SIZE,
        "text.color": ink,
        "axes.labelcolor": muted,
        "axes.edgecolor": line,
        "axes.facecolor": "none",
        "figure.facecolor": "none",
        "grid.color": line,
        "xtick.color": line,
        "ytick.color": line,
        "xtick.labelcolor": muted,
        "ytick.labelcolor": muted,
        "axes.titlesize": _FONT_SIZE,
        "legend.fontsize": _FONT_SIZE,
        "legend.labelcolor": ink,
        "legend.borderaxespad": 0.2,
        "legend.handlelength": 1.6,
        "legend.columnspacing": 1.2,
        "lines.linewidth": 1.6,
        "lines.markersize": 5,
        "patch.linewidth": 1.0,
    }
