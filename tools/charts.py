"""Writes and checks what is made of a chart's `values.yaml`: its schema, and its README's tables.

Called by `make generate` (`write`) and `make verify` (`check`). A value is described where it
stands, by the lines above it: prose, then lines that begin with `+`:

    ## +section Images           the values from here on, up to the next section
    # +type labels               a type of JSON, or one of SHAPES; else the default's own
    # +items name                a list without repetitions, of such a type or shape
    # +enum Always,Never         these words alone
    # +minimum 0, # +maximum 20  bounds of a number
    # +nullable                  may be left out as null

A mapping without `+type` holds the values below it, all of them and no others: a typo is refused,
and so is a default that somebody took away with null. The version of a chart is the package's.
It must not render anything: that is Helm's work.
"""

import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml

from tools.images import version

ROOT = Path(__file__).resolve().parent.parent
CHARTS = ROOT / "charts"

Schema = dict[str, Any]

_NAME: Final = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*"
_QUANTITY: Final = r"[0-9]{1,15}(\.[0-9]{1,9})?([numkMGTPE]|[KMGTPE]i|[eE][+-]?[0-9]{1,2})?"


def _text(pattern: str) -> Schema:
    return {"type": "string", "pattern": f"^{pattern}$"}


def _closed(**properties: Schema) -> Schema:
    return {"type": "object", "properties": properties, "additionalProperties": False}


def _counted(most: int) -> Schema:
    return {"type": "integer", "minimum": 1, "maximum": most}


def _words(*words: str) -> Schema:
    return {"type": "string", "enum": list(words)}


_QUANTITIES: Final[Schema] = {
    "type": "object",
    "additionalProperties": {**_text(_QUANTITY), "type": ["string", "integer"]},
}
# Of a Secret's or a ConfigMap's data.
_DATA_KEY: Final[Schema] = _text(r"[-._a-zA-Z0-9]+")
_KEY: Final[Schema] = _closed(
    kind=_words("Secret", "ConfigMap"), name=_text(f"({_NAME})?"), key=_DATA_KEY
)
_VERDICT: Final[Schema] = _words("Passed", "Emulated", "Unmeasured")


def _listed(items: Schema) -> Schema:
    return {"type": "array", "items": items, "uniqueItems": True}


_LABELS: Final[Schema] = {"type": "object", "additionalProperties": {"type": "string"}}
# Of a container's port; Kubernetes takes no number here.
_PORT_NAME: Final = "[a-z0-9]([-a-z0-9]{0,13}[a-z0-9])?"

# What values hold beside the types of JSON. Patterns are Go's, which have no look-ahead.
SHAPES: Final[dict[str, Schema]] = {
    "count": _counted(16_777_216),
    "dataKey": _DATA_KEY,
    "draftTokens": _counted(16),
    "duration": _text(r"([0-9]+(ms|s|m|h))+"),
    "endpoint": _text(r"https?://[^?#\s@]+"),
    "image": _text(
        r"[a-z0-9][a-z0-9._/-]*(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?(@sha256:[0-9a-f]{64})?"
    ),
    "labels": _LABELS,
    "metricFamily": _words(
        *("vllm", "ray", "halftone", "kubernetes", "dcgm", "prometheus", "rules", "alerts")
    ),
    "modelName": _text(r"([A-Za-z0-9][A-Za-z0-9._/-]{0,127})?"),
    "name": _text(_NAME),
    "optionalDigest": _text(r"([0-9a-f]{64})?"),
    "optionalEndpoint": _text(r"(https?://[^?#\s@]+)?"),
    "optionalName": _text(f"({_NAME})?"),
    "optionalQuantity": _text(f"({_QUANTITY})?"),
    "percent": _counted(100),
    "port": _counted(65_535),
    "quantity": _text(_QUANTITY),
    "resourceName": _text(r"[-.a-z0-9]+/[-._A-Za-z0-9]+"),
    "resources": _closed(requests=_QUANTITIES, limits=_QUANTITIES),
    "scrape": {
        **_closed(
            name=_text(_NAME),
            port=_text(_PORT_NAME),
            matchLabels={**_LABELS, "minProperties": 1},
            namespaces=_listed(_text(_NAME)),
        ),
        "required": ["name", "port", "matchLabels"],
    },
    "seconds": _counted(86_400),
    "servingMode": _words("text", "multimodal", "tools", "speculative", "longContext"),
    "tag": _text(r"([A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?"),
    "toleration": _closed(
        key={"type": "string"},
        operator={"enum": ["Exists", "Equal"]},
        value={"type": "string"},
        effect={"enum": ["NoSchedule", "PreferNoSchedule", "NoExecute"]},
        tolerationSeconds={"type": "integer"},
    ),
    "trust": _closed(
        signature=_words("Required", "NotRequired"),
        publicKeyRef=_KEY,
        verdicts=_listed(_VERDICT),
        platforms=_listed({"type": "string"}),
    ),
    "verdict": _VERDICT,
}
_JSON_TYPES: Final = frozenset({"string", "integer", "number", "boolean", "object"})
_OF_TAGS: Final = {"str": "string", "int": "integer", "float": "number", "bool": "boolean"}
_MARKS: Final = frozenset({"type", "items", "enum", "minimum", "maximum", "nullable"})
_SECTION: Final = re.compile(r"^## \+section (.+)$")
_BEGIN, _END = "<!-- values: written by `make generate` -->", "<!-- end of values -->"


class Undescribed(ValueError):
    """A value that the comments do not describe well; the message names it."""


@dataclass(frozen=True)
class Value:
    """One key of `values.yaml`, with what stands above it. `same_as` is where an alias points."""

    path: tuple[str, ...]
    prose: str
    marks: dict[str, str]
    section: str
    default: Any
    kind: str
    same_as: tuple[str, ...] | None = None
    below: list["Value"] = field(default_factory=list)

    @property
    def name(self) -> str:
        """As one gives it to `--set`."""
        return ".".join(self.path)


def read(text: str) -> list[Value]:
    """The values of a `values.yaml`, described. Raises Undescribed."""
    lines = text.splitlines()
    known: dict[int, tuple[str, ...]] = {}
    return list(_below(yaml.compose(text, yaml.SafeLoader), (), lines, known))


def _below(
    node: yaml.Node | None,
    path: tuple[str, ...],
    lines: list[str],
    known: dict[int, tuple[str, ...]],
) -> Iterator[Value]:
    """The keys of a mapping. `known` has the place of each mapping, by which an alias is seen."""
    assert isinstance(node, yaml.MappingNode)
    for key, value in node.value:
        here = (*path, key.value)
        prose, marks = _described(here, lines, key.start_mark.line)
        default = yaml.SafeLoader("").construct_document(value)
        kind = value.tag.rpartition(":")[2]
        section = _section(lines, key.start_mark.line)
        found = Value(here, prose, marks, section, default, kind, known.get(id(value)))
        is_open = kind == "map" and not marks
        if not is_open and not prose:
            raise Undescribed(f"`{found.name}` has no comment; say above it what it is")
        if is_open and found.same_as is None:
            known[id(value)] = here
            found.below.extend(_below(value, here, lines, known))
        yield found


def _described(path: tuple[str, ...], lines: list[str], line: int) -> tuple[str, dict[str, str]]:
    """Prose and marks above a line."""
    comment: list[str] = []
    while line and re.match(r"\s*# ", lines[line - 1]):
        line -= 1
        comment.insert(0, lines[line].strip().removeprefix("# "))
    told = [one for one in comment if not one.startswith("+")]
    marked = (one[1:].partition(" ") for one in comment if one.startswith("+"))
    marks = {mark: argument for mark, _, argument in marked}
    name = ".".join(path)
    for unknown in marks.keys() - _MARKS:
        raise Undescribed(f"`{name}` has `+{unknown}`; known are {', '.join(sorted(_MARKS))}")
    return " ".join(told), marks


def _section(lines: list[str], line: int) -> str:
    above = (_SECTION.match(lines[number]) for number in range(line, -1, -1))
    found = next((match for match in above if match), None)
    return found[1] if found else ""


def schema(values: list[Value]) -> Schema:
    """The JSON schema of all values. Raises Undescribed."""
    used: set[str] = set()
    properties = {one.path[-1]: _schema(one, used) for one in values}
    found = _closed(**properties) | {"required": _required(values)}
    # What Helm adds where this chart is part of another.
    found["properties"]["global"] = {"type": "object"}
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        **found,
        "definitions": {name: SHAPES[name] for name in sorted(used)},
    }


def _schema(value: Value, used: set[str]) -> Schema:
    if value.same_as is not None:
        place = "/".join(f"properties/{part}" for part in value.same_as)
        return {"description": value.prose, "$ref": f"#/{place}"}
    told: Schema = {"description": value.prose} if value.prose else {}
    if value.below:
        found = _closed(**{one.path[-1]: _schema(one, used) for one in value.below})
        return told | found | {"required": _required(value.below)}
    told |= {"default": value.default}
    found = _constraint(value, used)
    if "nullable" in value.marks:
        found = {"oneOf": [{"type": "null"}, found]} if "$ref" in found else found
        found |= {"type": [found["type"], "null"]} if "type" in found else {}
    return told | found


def _required(values: list[Value]) -> list[str]:
    return [one.path[-1] for one in values if "nullable" not in one.marks]


def _constraint(value: Value, used: set[str]) -> Schema:
    marks = value.marks
    if "enum" in marks:
        return {"type": "string", "enum": marks["enum"].split(",")}
    if "items" in marks:
        items = _type(value, marks["items"], used)
        return {"type": "array", "items": items, "uniqueItems": True}
    if "type" in marks:
        return _type(value, marks["type"], used)
    if value.kind not in _OF_TAGS:
        raise Undescribed(f"`{value.name}` has no `+type` and no `+items`")
    bounds: Schema = {
        bound: int(marks[bound]) for bound in ("minimum", "maximum") if bound in marks
    }
    return {"type": _OF_TAGS[value.kind], **bounds}


def _type(value: Value, name: str, used: set[str]) -> Schema:
    if name in SHAPES:
        used.add(name)
        return {"$ref": f"#/definitions/{name}"}
    if name not in _JSON_TYPES:
        raise Undescribed(f"`{value.name}` has the type '{name}', which is none of JSON or SHAPES")
    return {"type": name}


def tables(values: list[Value]) -> str:
    """The tables of a README, one a section, in Markdown."""
    sections: dict[str, list[Value]] = {}
    for one in values:
        sections.setdefault(one.section, []).append(one)
    parts = []
    for section, found in sections.items():
        rows = [_row(one) for value in found for one in _rows(value)]
        head = ["| value | default | what it is |", "|---|---|---|"]
        parts.append("\n".join([f"### {section}\n", *head, *rows]))
    return "\n\n".join(parts)


def _rows(value: Value) -> Iterator[Value]:
    """A value and those below it; a group of which nothing is said has no row."""
    if value.prose:
        yield value
    for one in value.below:
        yield from _rows(one)


def _row(value: Value) -> str:
    prose, default = value.prose, f"`{json.dumps(value.default)}`"
    if value.same_as is not None:
        prose = f"{prose} The same values as `{'.'.join(value.same_as)}`."
    if value.same_as is not None or value.below:
        default = ""
    if "enum" in value.marks:
        prose = f"{prose} {' or '.join(value.marks['enum'].replace(',', ', ').rsplit(', ', 1))}."
    return f"| `{value.name}` | {default} | {prose.replace('|', chr(92) + '|')} |"


def generated(chart: Path) -> dict[Path, str]:
    """The files of a chart as they should be, by path. Raises Undescribed."""
    values = read((chart / "values.yaml").read_text(encoding="utf-8"))
    wanted = json.dumps(schema(values), indent=2, ensure_ascii=False) + "\n"
    readme = (chart / "README.md").read_text(encoding="utf-8")
    if readme.count(_BEGIN) != 1 or readme.count(_END) != 1:
        raise Undescribed(f"its README.md must hold '{_BEGIN}' and '{_END}' once")
    before, _, rest = readme.partition(_BEGIN)
    after = rest.partition(_END)[2]
    manifest = (chart / "Chart.yaml").read_text(encoding="utf-8")
    return {
        chart / "values.schema.json": wanted,
        chart / "README.md": f"{before}{_BEGIN}\n\n{tables(values)}\n\n{_END}{after}",
        chart / "Chart.yaml": re.sub(
            r"(?m)^(version|appVersion): .*$", rf"\1: {version()}", manifest
        ),
    }


def write(chart: Path) -> None:
    """Write the generated files. Raises Undescribed, and has then written none."""
    for path, text in generated(chart).items():
        path.write_text(text, encoding="utf-8")


def check(chart: Path) -> list[str]:
    """What is wrong with the generated files of a chart, as sentences."""
    try:
        wanted = generated(chart)
    except Undescribed as error:
        return [f"charts/{chart.name}/values.yaml: {error}."]
    stale = (path for path, text in wanted.items() if not _holds(path, text))
    return [
        f"charts/{chart.name}/{path.name} does not fit its values or the version; "
        "run `make generate`."
        for path in stale
    ]


def _holds(path: Path, text: str) -> bool:
    return path.exists() and path.read_text(encoding="utf-8") == text


def main(arguments: list[str]) -> int:
    """`write` or `check`; returns the exit status."""
    charts = sorted(path.parent for path in CHARTS.glob("*/values.yaml"))
    if arguments == ["write"]:
        for chart in charts:
            write(chart)
        return 0
    if arguments != ["check"]:
        print("charts: `write` or `check`, and nothing else.", file=sys.stderr)
        return 2
    problems = [problem for chart in charts for problem in check(chart)]
    print("\n".join(problems) or f"charts: generated files of {len(charts)} fit their values")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
