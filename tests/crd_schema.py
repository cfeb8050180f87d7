"""The CRD's schema and those of the models as flat tables: a path, and what is said of its value.

Called by the contract test of the CRD and by the tests of the API tier, which derive from it what
has to be tried. A path is as a user types it: `spec.stages[].name`; `{}` is any key of a map.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

import yaml
from pydantic import BaseModel

from tests.cluster.chart import CRD

Schema = Mapping[str, Any]

# What a schema demands of a value, whatever it is called elsewhere.
BOUNDS: Final = (
    "enum",
    "maxItems",
    "maxLength",
    "maxProperties",
    "maximum",
    "minItems",
    "minLength",
    "minimum",
    "pattern",
    "required",
    "type",
)


class Rule(NamedTuple):
    """A CEL rule and where it stands. `is_transition` if it compares with the former object."""

    path: str
    rule: str
    message: str

    @property
    def is_transition(self) -> bool:
        """Whether it is evaluated in updates only."""
        return "oldSelf" in self.rule


def read_crd() -> dict[str, Any]:
    """The file as it lies in the chart."""
    found: dict[str, Any] = yaml.safe_load(CRD.read_text())
    return found


def version_of(crd: Mapping[str, Any]) -> dict[str, Any]:
    """Its one version."""
    (version,) = crd["spec"]["versions"]
    found: dict[str, Any] = version
    return found


def crd_schema() -> dict[str, Any]:
    """The schema of a QuantizationJob."""
    found: dict[str, Any] = version_of(read_crd())["schema"]["openAPIV3Schema"]
    return found


def nodes(schema: Schema, path: str = "") -> Iterator[tuple[str, Schema]]:
    """Every value below `schema`, itself first; items of lists as `[]`, values of maps as `{}`."""
    yield path, schema
    for name, child in schema.get("properties", {}).items():
        yield from nodes(child, f"{path}.{name}".lstrip("."))
    if "items" in schema:
        yield from nodes(schema["items"], f"{path}[]")
    if isinstance(schema.get("additionalProperties"), Mapping):
        yield from nodes(schema["additionalProperties"], f"{path}{{}}")


def rules(schema: Schema) -> list[Rule]:
    """Every CEL rule."""
    return [
        Rule(path, row["rule"], row["message"])
        for path, node in nodes(schema)
        for row in node.get("x-kubernetes-validations", ())
    ]


def is_field(path: str) -> bool:
    """Whether a path is that of a named field, not of an item or the root."""
    return bool(path) and not path.endswith(("[]", "{}"))


def model_schema(model: type[BaseModel]) -> dict[str, Any]:
    """The schema of `model` in the words of a CRD: no references, alternatives or nulls."""
    schema = model.model_json_schema()
    return _plain(schema, schema.get("$defs", {}))


def _plain(schema: Schema, known: Mapping[str, Schema]) -> dict[str, Any]:
    found = dict(schema)
    if "$ref" in found:
        target = known[found.pop("$ref").rpartition("/")[2]]
        found = {**target, **found}
    if "anyOf" in found:
        choices = [one for one in found.pop("anyOf") if one.get("type") != "null"]
        for choice in choices:
            found = {**found, **choice}
        if len(choices) > 1:  # a quantity
            found["x-kubernetes-int-or-string"] = bool(found.pop("type"))
        return _plain(found, known)
    if "oneOf" in found:
        return _united([_plain(one, known) for one in found["oneOf"]])
    if "const" in found:
        found["enum"] = [found.pop("const")]
    if "properties" in found:
        found["properties"] = {k: _plain(v, known) for k, v in found["properties"].items()}
    if "items" in found:
        found["items"] = _plain(found["items"], known)
    if "patternProperties" in found:
        ((_, values),) = found.pop("patternProperties").items()
        found["additionalProperties"] = _plain(values, known)
    return found


def _united(choices: list[dict[str, Any]]) -> dict[str, Any]:
    """One object that has the fields of all `choices`; only what all require is required."""
    properties: dict[str, Any] = {}
    for choice in choices:
        for name, schema in choice["properties"].items():
            former = properties.get(name, {})
            enum = [*former.get("enum", []), *schema.get("enum", [])]
            properties[name] = schema | ({"enum": enum} if enum else {})
    required = set.intersection(*(set(choice["required"]) for choice in choices))
    return {"type": "object", "properties": properties, "required": sorted(required)}
