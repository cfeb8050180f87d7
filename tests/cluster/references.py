"""What a QuantizationJob may name of a cluster: the fields of the CRD's schema that refer to it.

Called by the tests of the chart's policy. They are derived, so that a new field is not forgotten.
"""

import re
from collections.abc import Iterator
from typing import Any, Final

import yaml

from tests.cluster.chart import CRD

Schema = dict[str, Any]

# What makes a field one of them: its name, or that of the block around it.
KINDS: Final = {
    "secrets": re.compile(r"(SecretRef|\.secret)\.name$"),
    "endpoints": re.compile(r"(?i)(endpoint|url)[a-z]*$"),
    "accounts": re.compile(r"(?i)serviceaccount[a-z]*$"),
}


def spec_schema() -> Schema:
    """The schema of `spec`, as it lies in the chart."""
    (version,) = yaml.safe_load(CRD.read_text())["spec"]["versions"]
    found: Schema = version["schema"]["openAPIV3Schema"]["properties"]["spec"]
    return found


def leaves(schema: Schema, path: str = "") -> Iterator[tuple[str, Schema]]:
    """Every field that has no fields below it, by its path; `[]` stands for entries of a list."""
    for name, below in schema.get("properties", {}).items():
        yield from leaves(below, f"{path}.{name}" if path else name)
    if "items" in schema:
        yield from leaves(schema["items"], f"{path}[]")
    if not schema.get("properties") and "items" not in schema:
        yield path, schema


def places(kind: str, schema: Schema | None = None) -> set[str]:
    """The paths below `spec` where a job may name one of `kind`."""
    found = leaves(spec_schema() if schema is None else schema)
    return {path for path, _ in found if KINDS[kind].search(path)}
