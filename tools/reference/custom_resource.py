"""The reference of a QuantizationJob: every field, bound and rule that the API server knows.

Called by `tools.reference`. The CRD is written by hand and is the source; descriptions are taken
as they stand there. A section is an object, a row one of its fields.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import yaml

from tools.reference.markdown import anchor, choice, code, page, table

ROOT: Final = Path(__file__).resolve().parents[2]
CRD: Final = ROOT / "charts" / "halftone-operator" / "files" / "quantizationjob.yaml"

Schema = Mapping[str, Any]

_RULES: Final = "x-kubernetes-validations"
_TOLD: Final = """\
Every field of `apiVersion: halftone.dev/v1alpha1`, `kind: QuantizationJob`, as the API server
knows it: `kubectl explain qj.spec` says the same. `spec` is what is wanted, `status` what was
observed. How a job is run is in [In a cluster](../cluster.md), what conditions and reasons mean
in [Words of a status](../cluster-reference.md)."""


def written() -> str:
    """The page."""
    crd = yaml.safe_load(CRD.read_text(encoding="utf-8"))["spec"]
    (version,) = crd["versions"]
    schema = version["schema"]["openAPIV3Schema"]
    parts = ["## Of the object", _rules(schema), _columns(version["additionalPrinterColumns"])]
    for name in ("spec", "status"):
        parts += [
            part
            for path, node in _objects(schema["properties"][name], name)
            for part in _section(path, node)
        ]
    return page("Every field of a QuantizationJob", _TOLD, *(part for part in parts if part))


def _columns(columns: list[Schema]) -> str:
    rows = [
        [code(one["name"].upper()), one["description"], "`-o wide`" if "priority" in one else ""]
        for one in columns
    ]
    return "What `kubectl get qj` shows:\n\n" + table(["column", "what it is", "shown with"], rows)


def _objects(node: Schema, path: str) -> Iterator[tuple[str, Schema]]:
    """Every object with fields of its own, those of lists too, outer ones first."""
    if "properties" in node:
        yield path, node
    for name, child in node.get("properties", {}).items():
        yield from _objects(child, f"{path}.{name}")
    if "items" in node:
        yield from _objects(node["items"], f"{path}[]")


def _section(path: str, node: Schema) -> Iterator[str]:
    yield f"## {path}"
    yield node["description"][0].upper() + node["description"][1:]
    needed = node.get("required", ())
    rows = [
        [code(name), _kind(child, f"{path}.{name}"), "yes" if name in needed else "", _what(child)]
        for name, child in node["properties"].items()
    ]
    yield table(["field", "type", "required", "what it is"], rows)
    yield _rules(node)


def _what(node: Schema) -> str:
    """The description, and rules of the value that is no object of its own."""
    if "properties" in node:
        return str(node["description"])
    messages = [_sentence(rule["message"]) for rule in node.get(_RULES, ())]
    default = [f"Default {code(_json(node['default']))}."] if "default" in node else []
    return " ".join([node["description"], *default, *messages])


def _rules(node: Schema) -> str:
    lines = [f"- {_sentence(rule['message'])}" for rule in node.get(_RULES, ())]
    return (
        "\n".join(["The API server refuses what breaks one of these:", "", *lines]) if lines else ""
    )


def _sentence(message: str) -> str:
    return message[0].upper() + message[1:] + "."


def _kind(node: Schema, path: str) -> str:
    """The type with its bounds, in words."""
    null = ", or null" if node.get("nullable") else ""
    if "enum" in node:
        return choice(node["enum"]) + null
    if node.get("x-kubernetes-int-or-string"):
        return "quantity"
    match node["type"]:
        case "object" if "properties" in node:
            return f"[object](#{anchor(path)}){null}"
        case "object":
            values = _plural(_kind(node["additionalProperties"], path))
            return f"map of {values}, at most {node['maxProperties']}"
        case "array":
            return f"list of {_items(node, path)}, {_between(node, 'minItems', 'maxItems')}"
        case "integer":
            return f"integer, {_between(node, 'minimum', 'maximum')}"
        case "string" if node.get("format") == "date-time":
            return "time"
        case "string":
            bounds = _between(node, "minLength", "maxLength")
            pattern = f", matches {code(node['pattern'])}" if "pattern" in node else ""
            return f"text, {bounds} characters{pattern}"
        case plain:
            return str(plain)


def _items(node: Schema, path: str) -> str:
    items = node["items"]
    return f"[objects](#{anchor(path)})" if "properties" in items else _kind(items, path)


def _plural(word: str) -> str:
    return f"{word[:-1]}ies" if word.endswith("y") else f"{word}s"


def _between(node: Schema, least: str, most: str) -> str:
    low, high = node.get(least), node.get(most)
    if high is None:
        return f"at least {low}"
    return f"at most {high}" if low is None else f"{low} to {high}"


def _json(value: Any) -> str:
    return (
        {True: "true", False: "false"}.get(value, str(value))
        if isinstance(value, bool)
        else str(value)
    )
