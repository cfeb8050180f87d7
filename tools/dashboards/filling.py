"""What a dashboard's file asks Prometheus, with its variables replaced as Grafana replaces them.

Called by tests, and by whatever holds dashboards to a Prometheus. It reads the JSON that was
written and needs neither Grafana nor its SDK. "All" is chosen where a variable offers it.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Final

# What Grafana knows without being told; some scrapes long, as its browser would choose.
_BUILT_IN: Final = {"__rate_interval": "2m", "__range": "1h", "__interval": "15s"}
_VARIABLE: Final = re.compile(r"\$\{(\w+)\}|\$([a-zA-Z_]\w*)")
_VALUES_OF: Final = re.compile(r"label_values\((.+), *(\w+)\)")


@dataclass(frozen=True)
class Asked:
    """One query: the dashboard, the panel (or variable, or mark), and the expression as written."""

    uid: str
    panel: str
    expression: str


def panels(board: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Every panel that shows something, those in collapsed rows included."""
    for panel in board["panels"]:
        if panel["type"] == "row":
            yield from panel["panels"]
        else:
            yield panel


def asked(board: Mapping[str, Any]) -> Iterator[Asked]:
    """Every query of panels, variables and marks. Of a variable it is the series that it lists."""
    uid = board["uid"]
    for panel in panels(board):
        for target in panel["targets"]:
            yield Asked(uid, panel["title"], target["expr"])
    for variable in board["templating"]["list"]:
        if variable["type"] == "query":
            found = _VALUES_OF.fullmatch(variable["query"])
            assert found is not None, variable["query"]
            yield Asked(uid, variable["label"], found[1])
    for mark in board.get("annotations", {}).get("list", []):
        yield Asked(uid, mark["name"], mark["expr"])


def filled(board: Mapping[str, Any], expression: str) -> list[str]:
    """The expression for each choice of the variables in it: one, but where choices name series.

    Raises KeyError with the name of a variable that there is not.
    """
    choices = _choices(board) | {name: [value] for name, value in _BUILT_IN.items()}
    used = sorted({first or second for first, second in _VARIABLE.findall(expression)})
    every = product(*(choices[name] for name in used))
    return [_replaced(expression, dict(zip(used, chosen, strict=True))) for chosen in every]


def _replaced(expression: str, values: Mapping[str, str]) -> str:
    return _VARIABLE.sub(lambda match: values[match[1] or match[2]], expression)


def _choices(board: Mapping[str, Any]) -> dict[str, list[str]]:
    """The values of each variable; of a choice by text every one of its options."""
    found: dict[str, list[str]] = {}
    for variable in board["templating"]["list"]:
        if variable["type"] == "custom":
            found[variable["name"]] = [option["value"] for option in variable["options"]]
        elif variable["type"] == "query":
            found[variable["name"]] = [variable["allValue"]]
        elif variable["type"] == "textbox":
            found[variable["name"]] = [variable["query"]]
    return found


def read(folder: Path) -> list[dict[str, Any]]:
    """The dashboards of a folder."""
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]
