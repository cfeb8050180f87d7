"""Links from each dashboard to the others: they keep the time, and what means the same over there.

Called by `boards`. The namespace of endpoints is where models run; that of the other two is where
their operator runs, and a link between kinds would choose what is not there.
"""

from collections.abc import Iterator
from typing import Final, NamedTuple

from grafana_foundation_sdk.builders import dashboard
from grafana_foundation_sdk.models import dashboard as models


class _Board(NamedTuple):
    """`alike` are variables that mean the same on every board that names them here."""

    title: str
    alike: tuple[str, ...]


_BOARDS: Final = {
    "halftone-endpoint": _Board("Endpoint", ("datasource",)),
    "halftone-quantization": _Board("Quantization", ("datasource", "namespace")),
    "halftone-operator": _Board("Operator", ("datasource", "namespace")),
}


def to_others(uid: str) -> Iterator[dashboard.DashboardLink]:
    """A link to each other board. Raises KeyError for a board that is not listed here."""
    here = _BOARDS[uid]
    for other, there in _BOARDS.items():
        if other != uid:
            # Grafana's own "include variables" would carry all of them.
            kept = "&".join(f"${{{name}:queryparam}}" for name in there.alike if name in here.alike)
            yield (
                dashboard.DashboardLink(there.title)
                .type(models.DashboardLinkType.LINK)
                .url(f"/d/{other}?{kept}")
                .icon("dashboard")
                .tooltip("")
                .keep_time(True)
                .include_vars(False)
            )
