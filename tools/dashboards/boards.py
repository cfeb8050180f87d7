"""A dashboard of its panels, and the JSON that Grafana imports.

Called by the dashboards and by the command. Panels flow into lines of 24 columns; rows are
collapsed but for what stands above them. Ids follow the order, so each run writes the same.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import count
from typing import Any, Final

from grafana_foundation_sdk.builders import dashboard
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import dashboard as models

from tools.dashboards.links import to_others
from tools.dashboards.panels import Panel
from tools.dashboards.variables import SOURCE, Variable

TAG: Final = "halftone"
_REFRESH: Final = "30s"


def board(
    uid: str,
    title: str,
    says: str,
    variables: Iterable[Variable],
    overview: Iterable[Panel],
    rows: Mapping[str, Sequence[Panel]],
    since: str,
) -> dict[str, Any]:
    """A dashboard as Grafana's JSON has it. `since` is how far back it looks at first."""
    numbers = count(1)
    built = (
        dashboard.Dashboard(title)
        .uid(uid)
        .description(says)
        .tags([TAG])
        .editable()
        .timezone("browser")
        .refresh(_REFRESH)
        .time(f"now-{since}", "now")
        .tooltip(models.DashboardCursorSync.CROSSHAIR)
    )
    for link in to_others(uid):
        built.link(link)
    for variable in variables:
        built.with_variable(variable)
    for panel in overview:
        built.with_panel(panel.id(next(numbers)))
    for name, panels in rows.items():
        row = dashboard.Row(name).collapsed(True).id(next(numbers))
        for panel in panels:
            row.with_panel(panel.id(next(numbers)))
        built.with_row(row)
    plain: dict[str, Any] = json.loads(json.dumps(built.build(), cls=JSONEncoder))
    found: dict[str, Any] = _without_nothing(plain)
    for listed in found["templating"]["list"]:
        for name in ("auto", "auto_min", "auto_count"):  # of variables that are intervals alone
            listed.pop(name, None)
    return found


def annotate(board: dict[str, Any], name: str, expression: str, title: str) -> None:
    """Mark the times at which `expression` begins to be true. The SDK knows no titles of marks."""
    mark = {
        "name": name,
        "datasource": {"type": SOURCE.type_val, "uid": SOURCE.uid},
        "enable": True,
        "hide": False,
        "iconColor": "blue",
        "expr": expression,
        "step": "60s",
        "titleFormat": title,
    }
    board.setdefault("annotations", {}).setdefault("list", []).append(mark)


def _without_nothing(value: Any) -> Any:
    """Without the SDK's nulls for what is not set; that of a first threshold has a meaning."""
    if isinstance(value, list):
        return [_without_nothing(one) for one in value]
    if not isinstance(value, dict):
        return value
    kept = {name: _without_nothing(one) for name, one in value.items() if one is not None}
    return {"value": None, **kept} if value.keys() == {"value", "color"} else kept


def written(board: Mapping[str, Any]) -> str:
    """The file."""
    return json.dumps(board, indent=2, ensure_ascii=False) + "\n"
