"""The reference of a chart: every value with its type, its default and what it is.

Called by `tools.reference`. `values.yaml` is the source, read by `tools.charts`, which writes the
chart's schema and README from it too; so the three cannot differ.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from tools.charts import CHARTS, SHAPES, Value, read
from tools.reference.markdown import choice, code, page, table

_TYPES: Final = {"str": "text", "int": "integer", "float": "number", "bool": "boolean"}


def charts() -> list[Path]:
    """The folders of all charts."""
    return sorted(path.parent for path in CHARTS.glob("*/values.yaml"))


def written(chart: Path) -> str:
    """The page of one chart."""
    values = read((chart / "values.yaml").read_text(encoding="utf-8"))
    rows: dict[str, list[list[str]]] = {}
    for value in _all(values):
        if value.prose:
            rows.setdefault(value.section, []).append(_row(value))
    head = ["value", "type", "default", "what it is"]
    parts = [f"## {section}\n\n{table(head, found)}" for section, found in rows.items()]
    told = (
        f"Every value of [the chart](../../charts/{chart.name}/README.md), as `values.yaml` has "
        "it. `helm install` refuses a value that is not listed, and one of another type."
    )
    return page(f"Every value of {chart.name}", told, *parts, _shapes(values))


def _all(values: list[Value]) -> Iterator[Value]:
    for value in values:
        yield value
        yield from _all(value.below)


def _row(value: Value) -> list[str]:
    prose = value.prose
    if value.same_as is not None:
        prose = f"{prose} The same values as `{'.'.join(value.same_as)}`."
    grouped = value.same_as is not None or bool(value.below)
    default = "" if grouped else code(json.dumps(value.default, ensure_ascii=False))
    return [code(value.name), "group" if grouped else _type(value), default, prose]


def _type(value: Value) -> str:
    marks = value.marks
    null = " or null" if "nullable" in marks else ""
    if "enum" in marks:
        return choice(marks["enum"].split(",")) + null
    if "items" in marks:
        return f"list of {_named(marks['items'])}{null}"
    if "type" in marks:
        return f"{_named(marks['type'])}{null}"
    bounds = " to ".join(marks[one] for one in ("minimum", "maximum") if one in marks)
    word = _TYPES[value.kind]
    return f"{word}, {'at least ' if 'to' not in bounds else ''}{bounds}" if bounds else word + null


def _named(name: str) -> str:
    """A type by its name; shapes are explained at the end of the page."""
    return f"[{name}](#types)" if name in SHAPES else name


def _shapes(values: list[Value]) -> str:
    """What the types mean that JSON does not have, of those that the chart uses."""
    used = {value.marks.get(mark, "") for value in _all(values) for mark in ("type", "items")}
    rows = [[code(name), _told(SHAPES[name])] for name in sorted(used & SHAPES.keys())]
    return f"## Types\n\n{table(['type', 'what it takes'], rows)}"


def _told(shape: dict[str, Any]) -> str:
    match shape:
        case {"enum": words}:
            return choice(words)
        case {"type": "string", "pattern": pattern}:
            return f"text that matches {code(pattern)}"
        case {"type": "integer", "minimum": least, "maximum": most}:
            return f"integer, {least} to {most}"
        case {"properties": fields}:
            return f"an object with {', '.join(code(name) for name in fields)}"
        case {"additionalProperties": {"pattern": pattern}}:
            return f"a map whose values match {code(pattern)}"
        case _:
            return "a map of text"
