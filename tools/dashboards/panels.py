"""The kinds of panels, each with a title, a sentence on what good looks like, and a unit.

Called by the dashboards. A grid has 24 columns. Colours are names of Grafana's palette, which has
one for light and one for dark; nothing here sets the colour of text. Limits are (from this value
on, colour), above a first colour that is green.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from grafana_foundation_sdk.builders import (
    bargauge,
    common,
    dashboard,
    prometheus,
    stat,
    statetimeline,
    timeseries,
)
from grafana_foundation_sdk.models import common as look
from grafana_foundation_sdk.models import dashboard as models

from tools.dashboards.queries import Query
from tools.dashboards.variables import SOURCE

Panel = timeseries.Panel | stat.Panel | statetimeline.Panel | bargauge.Panel
Limits = Sequence[tuple[float, str]]

THIRD: Final = 8
HALF: Final = 12
TWO_THIRDS: Final = 16
SIXTH: Final = 4
_TALL: Final = 8
_LOW: Final = 4
_WARN, _BAD = "orange", "red"
# Of states that are none of good and bad.
PALETTE: Final = (
    *("blue", "purple", "orange", "yellow", "light-blue", "green"),
    *("light-green", "light-orange", "light-purple", "red"),
)
WARN: Final = _WARN
BAD: Final = _BAD


@dataclass(frozen=True)
class Told:
    """What a panel says of itself. `empty` is shown in place of no data."""

    title: str
    says: str
    unit: str
    empty: str | None = None


def _begun(panel: Any, told: Told, width: int, height: int, limits: Limits) -> Any:
    steps = [models.Threshold(None, "green"), *(models.Threshold(*limit) for limit in limits)]
    panel.title(told.title).description(told.says).unit(told.unit).datasource(SOURCE)
    panel.span(width).height(height)
    panel.thresholds(dashboard.ThresholdsConfig().mode(models.ThresholdsMode.ABSOLUTE).steps(steps))
    return panel if told.empty is None else panel.no_value(told.empty)


def _asked(panel: Any, queries: Iterable[Query], *, instant: bool = False) -> Any:
    for letter, query in zip("ABCDEFGH", queries, strict=False):
        target = prometheus.Dataquery().ref_id(letter).expr(query.expression).datasource(SOURCE)
        target = target.instant() if instant else target.range()
        panel.with_target(target.legend_format(query.legend or "__auto"))
    return panel


def _legend(*, table: bool) -> common.VizLegendOptions:
    legend = common.VizLegendOptions().show_legend(True).placement(look.LegendPlacement.BOTTOM)
    if not table:
        return legend.display_mode(look.LegendDisplayMode.LIST).calcs([])
    return legend.display_mode(look.LegendDisplayMode.TABLE).calcs(["lastNotNull", "max"])


def graph(
    told: Told,
    *queries: Query,
    limits: Limits = (),
    width: int = THIRD,
    most: float | None = None,
    stacked: bool = False,
    table: bool = False,
) -> timeseries.Panel:
    """Lines over time; limits are dashed. `most` is the end of the axis, `stacked` adds lines up,
    and `table` gives the legend last and highest values, where there are many lines."""
    panel = _asked(_begun(timeseries.Panel(), told, width, _TALL, limits), queries)
    style = look.GraphThresholdsStyleMode.DASHED if limits else look.GraphThresholdsStyleMode.OFF
    panel.thresholds_style(common.GraphThresholdsStyleConfig().mode(style))
    panel.color_scheme(dashboard.FieldColor().mode(models.FieldColorModeId.PALETTE_CLASSIC))
    panel.legend(_legend(table=table)).min(0).line_width(1).fill_opacity(30 if stacked else 8)
    panel.tooltip(
        common.VizTooltipOptions()
        .mode(look.TooltipDisplayMode.MULTI)
        .sort(look.SortOrder.DESCENDING)
    )
    panel.show_points(look.VisibilityMode.NEVER)
    if stacked:
        panel.stacking(common.StackingConfig().mode(look.StackingMode.NORMAL).group("A"))
    if most is not None:
        panel.max(most)
    found: timeseries.Panel = panel
    return found


def number(told: Told, query: Query, limits: Limits = (), width: int = SIXTH) -> stat.Panel:
    """The last value, with its course behind it."""
    panel = _asked(_begun(stat.Panel(), told, width, _LOW, limits), [query])
    panel.color_scheme(dashboard.FieldColor().mode(models.FieldColorModeId.THRESHOLDS))
    panel.color_mode(look.BigValueColorMode.VALUE).graph_mode(look.BigValueGraphMode.AREA)
    panel.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
    found: stat.Panel = panel
    return found


def states(
    told: Told, *queries: Query, names: Mapping[int, tuple[str, str]], width: int = HALF
) -> statetimeline.Panel:
    """A band for each series, in the colour of its state; `names` has text and colour of each."""
    panel = _asked(_begun(statetimeline.Panel(), told, width, _TALL, ()), queries)
    results = {
        str(value): models.ValueMappingResult(text=text, color=colour, index=place)
        for place, (value, (text, colour)) in enumerate(names.items())
    }
    panel.mappings([models.ValueMap(results)])
    panel.color_scheme(dashboard.FieldColor().mode(models.FieldColorModeId.THRESHOLDS))
    panel.legend(_legend(table=False)).merge_values(True).row_height(0.8)
    panel.show_value(look.VisibilityMode.AUTO).fill_opacity(70).line_width(0)
    found: statetimeline.Panel = panel
    return found


def bars(told: Told, *queries: Query, limits: Limits = (), width: int = THIRD) -> bargauge.Panel:
    """One bar for each series, of its value over the time that is shown."""
    panel = _asked(_begun(bargauge.Panel(), told, width, _TALL, limits), queries, instant=True)
    panel.color_scheme(dashboard.FieldColor().mode(models.FieldColorModeId.THRESHOLDS))
    panel.orientation(look.VizOrientation.HORIZONTAL).min(0)
    panel.display_mode(look.BarGaugeDisplayMode.BASIC)
    panel.value_mode(look.BarGaugeValueMode.TEXT)
    panel.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
    found: bargauge.Panel = panel
    return found
