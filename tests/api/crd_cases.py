"""For every bound of the CRD's schema, values that must be accepted and values that must not.

    for case in cases(path, node): …

Called by the test of bounds. Derived from the schema; what cannot be derived, strings of a pattern
and items of a list, stands in the tables here, and a pattern or list without a row is an error.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from tests.api.crd_objects import DIGEST, REMOVED, TIME, WHOLE, base_with, value_at
from tests.crd_schema import Schema, crd_schema, nodes

_NAME: Final = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"
_OBJECT: Final = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"
_QUANTITY: Final = r"^[0-9]{1,15}(\.[0-9]{1,9})?([numkMGTPE]|[KMGTPE]i|[eE][+-]?[0-9]{1,2})?$"
_HUB: Final = r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?"
_LONG_NUMBER: Final = f"{'1' * 15}.{'1' * 9}"
# By pattern: strings that match, strings that do not.
PATTERNS: Final[dict[str, tuple[tuple[str, ...], tuple[str, ...]]]] = {
    _NAME: (("a", "a-1", "0"), ("-a", "a-", "A", "a.b")),
    _OBJECT: (("a", "a.b-1", "0.0"), ("-a", "a-", "A", "a..b", ".a", "a/b", "a_b")),
    r"^\.?[-_a-zA-Z0-9][-._a-zA-Z0-9]*$": (("a", ".a", "a..", "-"), (".", "..", "..a", "a b")),
    r"^s3://[^/]+/?.*$": (("s3://b", "s3://b/", "s3://b/a c"), ("s3://", "s3:///a", "S3://b")),
    r"^https?://": (("http://h", "https://h:1/p"), ("ftp://h", "h", "HTTP://h")),
    r"^[^\x00]+$": (("a", "../a b", "é\n"), ("\0", "a\0b")),
    r"^[0-9]{1,6}(\.[0-9]{1,12})?$": (
        ("0", "999999.999999999999"),
        ("-1", ".5", "1.", "1e3", "1234567", "0.1234567890123", "NaN"),
    ),
    rf"^{_HUB}/{_HUB}$": (
        ("a/b", "A_/b.c-1", f"a/{'b' * 96}"),
        ("a", "a/", "/b", "a/b/c", "a/-b", "a/b.", f"a/{'b' * 97}"),
    ),
    _QUANTITY: (
        ("1", "500m", "1.5Gi", "1e3", "2E+10", f"{_LONG_NUMBER}Gi"),
        ("-1", "1.", "1 Gi", "1GiB", "Gi", f"{'1' * 16}", "1e100"),
    ),
    r"^[0-9a-f]{64}$": (("0" * 64,), ("0" * 63, "A" * 64)),
    r"^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$": (("A", "GateFailed", "a:b"), ("a b", "1a", "a:")),
}
# By pattern, as long a string as is wanted, where that can match.
_STRETCHED: Final[dict[str, Callable[[int], str]]] = {
    r"^s3://[^/]+/?.*$": lambda size: "s3://bucket/".ljust(size, "a"),
    r"^https?://": lambda size: "https://storage.example/".ljust(size, "a"),
}
# By pattern, the place where all its strings are tried; elsewhere one of each kind will do.
_TRIED_AT: Final = {
    str(node["pattern"]): path for path, node in nodes(crd_schema()) if "pattern" in node
}
# By list or map, its n-th item.
_ITEMS: Final[dict[str, Callable[[int], Any]]] = {
    "spec.quantization.precision": lambda n: {"role": "Mlp", "format": "FP8"},
    "spec.quantization.calibration.modalities": lambda n: ("Text", "Image", "Text")[n],
    "spec.validation.gates": lambda n: {"name": f"gate-{n}", "metric": "EngineLoads"},
    "spec.stages": lambda n: {
        "name": ("Plan", "Calibrate", "Quantize", "Validate", "Publish", "Plan")[n]
    },
    "spec.stages[].resources.requests": lambda n: (f"example.com/r{n}", 1),
    "spec.stages[].resources.limits": lambda n: (f"example.com/r{n}", "1"),
    "status.conditions": lambda n: WHOLE["observed"]["status"]["conditions"][0],
    "status.gates": lambda n: {"name": f"gate-{n}", "outcome": "Passed"},
}
# Lists whose keys are of an enum that is smaller than the bound: as many as there are.
_FEWER: Final = {"spec.quantization.precision": 1, "status.conditions": 1}
# Every other value is of another type.
_OTHER_TYPE: Final = {
    "string": 7,
    "integer": "7",
    "boolean": "true",
    "object": "text",
    "array": "text",
}


@dataclass(frozen=True)
class Case:
    """`edits` of the object `base`; refused with `says`, or accepted where that is None."""

    keyword: str
    base: str
    edits: dict[str, Any]
    says: str | None


def cases(path: str, node: Schema) -> Iterator[Case]:
    """One case at least on either side of every demand of the schema at `path`."""
    base = base_with(path)

    def case(keyword: str, value: Any, says: str | None = None, below: str = "") -> Case:
        return Case(keyword, base, {f"{path}{below}": value}, says)

    yield from _of_every_node(path, node, case)
    if node.get("type") in ("string", None) and "enum" not in node:
        yield from _of_strings(path, node, case)
    for keyword, step, says in (
        ("minimum", -1, "should be greater than or equal to"),
        ("maximum", 1, "should be less than or equal to"),
    ):
        if keyword in node:
            yield case(keyword, node[keyword])
            yield case(keyword, node[keyword] + step, says)
    if node.get("type") == "array":
        yield from _of_lists(path, node, case)
    if "maxProperties" in node:
        item, most = _ITEMS[path], node["maxProperties"]
        yield case("maxProperties", dict(item(n) for n in range(most)))
        yield case("maxProperties", dict(item(n) for n in range(most + 1)), "Too many")


def _of_every_node(path: str, node: Schema, case: Callable[..., Case]) -> Iterator[Case]:
    if "type" in node:
        yield case("type", _OTHER_TYPE[node["type"]], "must be of type")
    else:
        yield case("type", 1.5, "must be of type")
    if node.get("nullable"):
        yield case("nullable", None)
    for name in node.get("required", ()):
        yield case("required", REMOVED, "Required value", f".{name}")
    if "properties" in node:
        yield case("properties", "text", "unknown field", ".misspelt")
    if "enum" in node:
        there = str(value_at(WHOLE[base_with(path)], path.rpartition("[]")[0] or path))
        yield from (case("enum", value) for value in node["enum"] if repr(value) not in there)
        yield case("enum", "Nonsense", "Unsupported value")


def _of_strings(path: str, node: Schema, case: Callable[..., Case]) -> Iterator[Case]:
    pattern = node.get("pattern")
    if node.get("format") == "date-time":
        yield from (case("format", TIME), case("format", "yesterday", "must be of type date-time"))
        yield case("maxLength", f"2026-01-01T00:00:00.{'0' * 64}Z", "Too long")
        return
    good, bad = PATTERNS[pattern] if pattern else ((), ())
    if path != _TRIED_AT.get(str(pattern)):  # the pattern is tried in full elsewhere
        good, bad = good[:1], bad[:1]
    yield from (case("pattern", text) for text in good)
    yield from (case("pattern", text, "should match") for text in bad)
    most = node["maxLength"]
    stretched: Callable[[int], str] = _STRETCHED.get(str(pattern), "1".__mul__)
    if pattern not in (_QUANTITY, f"^{_HUB}/{_HUB}$", r"^[0-9]{1,6}(\.[0-9]{1,12})?$"):
        yield case("maxLength", DIGEST if most == 64 else stretched(most))
    yield case("maxLength", stretched(most + 1), "Too long")
    if "minLength" in node:
        yield case("minLength", "", "should be at least 1 chars long")
        if pattern in (None, *(p for p, (texts, _) in PATTERNS.items() if "a" in texts)):
            yield case("minLength", "a")


def _of_lists(path: str, node: Schema, case: Callable[..., Case]) -> Iterator[Case]:
    item, most = _ITEMS[path], int(node["maxItems"])
    yield case("maxItems", [item(n) for n in range(_FEWER.get(path, most))])
    yield case("maxItems", [item(n) for n in range(most + 1)], "Too many")
    if "minItems" in node:
        yield case("minItems", [item(0)])
        yield case("minItems", [], "should have at least 1 items")
    if node.get("x-kubernetes-list-type") in ("map", "set"):
        yield case("x-kubernetes-list-type", [item(0), item(0)], "Duplicate value")
