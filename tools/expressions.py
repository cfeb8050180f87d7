"""Every PromQL expression of the rules and of the dashboards, and whose it is.

Called by `contract`. Grafana's variables are put in as a panel would have them: intervals as a
length, a list of words as each of its words, and everything that is looked up as some value.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Final

import yaml

ROOT: Final = Path(__file__).resolve().parent.parent
CHART: Final = ROOT / "charts" / "halftone-monitoring"

# Lengths of Grafana, and variables of its own.
_GIVEN: Final = {
    "__rate_interval": "5m",
    "__interval": "1m",
    "__range": "1h",
    "__range_s": "3600",
    "__interval_ms": "60000",
    "__from": "0",
    "__to": "0",
}
_LISTS: Final = ("custom", "constant", "textbox", "interval")
_VARIABLE: Final = re.compile(r"\$\{(\w+)(?::[^}]*)?\}|\$(\w+)|\[\[(\w+)\]\]")
_LABEL_VALUES: Final = re.compile(
    r"label_values\((?:(?P<of>.+),)?\s*(?P<label>\w+)\s*\)", re.DOTALL
)
_RESULT: Final = re.compile(r"query_result\((?P<of>.+)\)", re.DOTALL)


@dataclass(frozen=True)
class Expression:
    """`user` is blind without it; `record` is the series that it makes, of a recording rule."""

    user: str
    text: str
    record: str | None = None


def of_rules(folder: Path = CHART / "rules") -> Iterator[Expression]:
    """In the order of files and rules."""
    for path in sorted(folder.glob("*.yaml")):
        for group in yaml.safe_load(path.read_text(encoding="utf-8"))["groups"]:
            for rule in group["rules"]:
                record = rule.get("record")
                user = f"rule {record}" if record else f"alert {rule['alert']}"
                text = rule["expr"]
                for label, value in (rule.get("labels", {}) if record else {}).items():
                    text = f'label_replace({text}, "{label}", "{value}", "", "")'
                yield Expression(user, text, record)


@dataclass(frozen=True)
class Group:
    """A group of rules by its name: what they record, or the alerts that they are."""

    name: str
    family: str
    rules: tuple[str, ...]

    @property
    def users(self) -> tuple[str, ...]:
        """As `Expression.user` has them."""
        kind = "alert" if self.family == "alerts" else "rule"
        return tuple(f"{kind} {each}" for each in self.rules)


def groups_of_rules(folder: Path = CHART / "rules") -> Iterator[Group]:
    """In the order of files; no group has both kinds. Raises ValueError for one that has."""
    for path in sorted(folder.glob("*.yaml")):
        for group in yaml.safe_load(path.read_text(encoding="utf-8"))["groups"]:
            kinds = {"rules" if "record" in rule else "alerts" for rule in group["rules"]}
            (family,) = kinds
            names = tuple(rule.get("record") or rule["alert"] for rule in group["rules"])
            yield Group(group["name"], family, names)


def of_dashboards(folder: Path = CHART / "dashboards") -> Iterator[Expression]:
    """Of panels, variables and annotations, once for each value of a variable that is a list."""
    for path in sorted(folder.glob("*.json")):
        board = json.loads(path.read_text(encoding="utf-8"))
        variables = board.get("templating", {}).get("list", [])
        for user, text in _written(board, variables):
            for filled in _filled(text, variables):
                yield Expression(f"panel {board['title']}: {user}", filled)


def _written(board: dict[str, Any], variables: list[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    for panel in _panels(board.get("panels", [])):
        for target in panel.get("targets", []):
            if target.get("expr"):
                yield panel.get("title") or "untitled", target["expr"]
    for variable in variables:
        if variable.get("type") == "query" and (text := _asked(variable.get("query"))):
            yield f"variable {variable['name']}", text
    for annotation in board.get("annotations", {}).get("list", []):
        expression = annotation.get("expr") or (annotation.get("target") or {}).get("expr")
        if expression:
            yield f"annotation {annotation['name']}", expression


def _panels(panels: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Those of folded rows too."""
    for panel in panels:
        yield panel
        yield from _panels(panel.get("panels") or [])


def _asked(query: Any) -> str:
    """The expression of a variable's query; nothing where it only lists labels."""
    text = str(query.get("query", "") if isinstance(query, dict) else query or "").strip()
    if (found := _LABEL_VALUES.fullmatch(text)) is not None:
        return f"group by ({found['label']}) ({found['of']})" if found["of"] else ""
    if (found := _RESULT.fullmatch(text)) is not None:
        return found["of"]
    return ""


def _filled(text: str, variables: list[dict[str, Any]]) -> Iterator[str]:
    """The expression with each value of its lists, and some value of whatever else it names."""
    by_name = {variable["name"]: variable for variable in variables}
    named = dict.fromkeys(next(filter(None, found.groups())) for found in _VARIABLE.finditer(text))
    choices = [
        _words(by_name[name]) if name in by_name else [_GIVEN.get(name, "any")] for name in named
    ]
    for chosen in product(*choices):
        values = _GIVEN | dict(zip(named, chosen, strict=True))
        # A variable's value may name another one.
        yield _replaced(_replaced(text, values), values)


def _replaced(text: str, values: Mapping[str, str]) -> str:
    return _VARIABLE.sub(lambda found: values.get(next(filter(None, found.groups())), "any"), text)


def _words(variable: dict[str, Any]) -> list[str]:
    if variable.get("type") not in _LISTS:
        return ["any"]
    options = [str(each["value"]) for each in variable.get("options") or [] if "value" in each]
    query = str(variable.get("query") or "")
    # `Shown : value`, as custom variables are written.
    written = [word.rsplit(" : ", 1)[-1].strip() for word in query.split(",") if word.strip()]
    words = [word for word in options or written if not word.startswith("$__")]
    return words or ["any"]
