"""The CRD: the document of the API, and its mirror in the package.

We test these aspects:
- it has the fields of the models and no others; types, enums, patterns, bounds and required fields
  are equal, and so are defaults where the CRD has one;
- every string, list, map and number is bounded; there are no floats, and one switch;
- every field has a description that begins with its name; every rule has a message that names a
  field and says what to do;
- columns are those of the design; its words and the package's vocabulary are the same, and so are
  the words that documents and the chart use.
"""

import re
from enum import StrEnum
from typing import Any

import pytest

from halftone.scaling.acting.leading import NOTE
from halftone.spec import cluster as words
from halftone.spec import pipelines
from halftone.spec.formats import Format
from halftone.spec.job import JobSpec, KvCacheFormat
from halftone.spec.names import API_VERSION, JOB_KIND, Reason
from halftone.spec.roles import QUANTIZABLE_ROLES
from halftone.spec.status import JobStatus
from tests.cluster.chart import CHART
from tests.conftest import ROOT
from tests.crd_schema import (
    BOUNDS,
    Rule,
    Schema,
    crd_schema,
    is_field,
    model_schema,
    nodes,
    read_crd,
    rules,
    version_of,
)

SCHEMA = crd_schema()
NODES = dict(nodes(SCHEMA))
RULES = rules(SCHEMA)
MIRROR = {
    **dict(nodes(model_schema(JobSpec), "spec")),
    **dict(nodes(model_schema(JobStatus), "status")),
}
# A role may stand in a plan and not in a recipe; the model says so in a sentence of its own.
MIRROR["spec.quantization.precision[].role"] = {"type": "string", "enum": sorted(QUANTIZABLE_ROLES)}
MIRRORED = sorted(path for path in NODES if path.startswith(("spec", "status")))


def demands(schema: Schema) -> dict[str, Any]:
    """What a schema demands, in an order that does not matter."""
    found = {name: schema[name] for name in BOUNDS if name in schema}
    for name in {"enum", "required"} & found.keys():
        found[name] = sorted(found[name])
    return found


def test_the_crd_has_the_models_fields_and_no_others() -> None:
    assert sorted(MIRROR) == MIRRORED
    assert SCHEMA["required"] == ["spec"]


@pytest.mark.parametrize("path", MIRRORED)
def test_a_field_demands_the_same_in_both(path: str) -> None:
    assert demands(NODES[path]) == demands(MIRROR[path])


@pytest.mark.parametrize("path", [path for path in MIRRORED if "default" in NODES[path]])
def test_a_default_is_the_models(path: str) -> None:
    assert NODES[path]["default"] == MIRROR[path]["default"]


def test_null_is_a_value_where_it_clears_a_presets_own() -> None:
    nullable = {path for path, node in NODES.items() if node.get("nullable")}
    assert nullable == {"spec.quantization.kvCache", "spec.quantization.calibration"}


# An enum bounds a string; the items of a set of enums are bounded by it.
LIMITS = {
    "string": ({"maxLength"}, {"enum"}),
    "integer": ({"minimum", "maximum"}, {"minimum", "format"}),
    "array": ({"maxItems"},),
    "object": ({"properties"}, {"additionalProperties", "maxProperties"}),
    "boolean": ({"type"},),
}


@pytest.mark.parametrize("path", sorted(NODES.keys() - {"metadata"}))
def test_every_value_is_bounded(path: str) -> None:
    node = NODES[path]
    if node.get("x-kubernetes-int-or-string"):
        assert {"maxLength", "minimum"} <= node.keys()
    else:
        assert any(names <= node.keys() for names in LIMITS[node["type"]])


def test_there_are_no_floats_and_one_switch() -> None:
    types = {path: node.get("type") for path, node in NODES.items()}
    assert "number" not in types.values()
    assert [path for path, kind in types.items() if kind == "boolean"] == ["spec.suspend"]


def test_nothing_is_open() -> None:
    for node in NODES.values():
        assert "x-kubernetes-preserve-unknown-fields" not in node
        assert "x-kubernetes-embedded-resource" not in node


@pytest.mark.parametrize("path", sorted(path for path in NODES if is_field(path)))
def test_a_field_is_named_and_described(path: str) -> None:
    name = path.rpartition(".")[2]
    assert re.fullmatch(r"[a-z][a-zA-Z0-9]*", name)
    if path != "metadata":  # the API server's own, of which a CRD may say nothing
        description = NODES[path]["description"]
        assert description.startswith(f"{name} ")
        assert description.endswith(".")
        assert len(description.split()) >= 3


def test_enums_are_camel_case_but_for_names_of_libraries() -> None:
    values = {value for node in NODES.values() for value in node.get("enum", ())}
    odd = {value for value in values if not re.fullmatch(r"([A-Z][a-z0-9]+)+", value)}
    assert odd <= {*Format, *KvCacheFormat}


def test_lists_of_objects_have_a_key() -> None:
    for path, node in NODES.items():
        if node.get("type") == "array" and node["items"]["type"] == "object":
            assert node["x-kubernetes-list-type"] == "map", path
            (key,) = node["x-kubernetes-list-map-keys"]
            assert key in node["items"]["required"], path


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: f"{rule.path}: {rule.message[:40]}")
def test_a_rule_says_which_field_and_what_to_do(rule: Rule) -> None:
    message = rule.message
    assert re.search(r"\b(must|may)\b", message)
    assert not message.endswith(".")
    # What must be is a way out by itself; of what may not be, it is said after a semicolon.
    assert "must" in message or "; " in message
    named = re.findall(r"`([^`]+)`", message)
    assert named
    for text in named:
        field = text.partition(":")[0]
        assert is_known(rule.path, field), f"`{field}` is not near {rule.path}"


def is_known(path: str, field: str) -> bool:
    """Whether `field` lies at `path`, beside it, or one list further up."""
    if field == "metadata.name":
        return path == ""
    parent = path.rpartition(".")[0]
    around = {path, f"{path}[]", parent, parent.removesuffix("[]").rpartition(".")[0]}
    return any(f"{place}.{field}".lstrip(".") in NODES for place in around)


def test_a_message_is_said_once_at_a_place() -> None:
    said = [(rule.path, rule.message) for rule in RULES]
    assert len(said) == len(set(said))


def test_what_may_not_change_is_said_of_the_block_and_of_its_absence() -> None:
    blocks = {rule.path for rule in RULES if rule.rule == "self == oldSelf"}
    optional = {path for path in blocks if path.rpartition(".")[2] not in NODES["spec"]["required"]}
    # A rule of a block is not evaluated when the block comes or goes; a default always is there.
    absent = {path for path in optional if "default" not in NODES[path]}
    watched = {f"spec.{found[1]}" for rule in RULES if (found := _has_rule(rule))}
    assert watched == absent
    fixed = ("source", "quantization", "validation", "publish", "workVolume", "runner")
    assert blocks == {f"spec.{name}" for name in fixed}


def _has_rule(rule: Rule) -> re.Match[str] | None:
    return re.fullmatch(r"has\(self\.(\w+)\) == has\(oldSelf\.\1\)", rule.rule)


def test_the_columns_are_those_of_the_design() -> None:
    columns = version_of(read_crd())["additionalPrinterColumns"]
    near = [column["name"] for column in columns if not column.get("priority")]
    wide = [column["name"] for column in columns if column.get("priority")]
    assert near == ["Source", "Recipe", "State", "Recovery", "Age"]
    assert wide == ["Message", "Artifact"]
    state = '.status.conditions[?(@.type=="Succeeded")].reason'
    assert next(c for c in columns if c["name"] == "State")["jsonPath"] == state
    for column in columns:
        assert column["description"].startswith(f"{column['name']} is ")
        path = re.sub(r"\[\?[^]]*]", "[]", column["jsonPath"]).lstrip(".")
        assert path in NODES or path == "metadata.creationTimestamp"


def test_the_names_are_those_of_the_package() -> None:
    crd = read_crd()["spec"]
    assert (crd["group"], crd["names"]["plural"]) == (words.GROUP, words.PLURAL)
    assert crd["names"]["kind"] == JOB_KIND
    assert f"{crd['group']}/{version_of(read_crd())['name']}" == API_VERSION
    assert (crd["names"]["shortNames"], crd["names"]["categories"]) == (["qj"], ["halftone"])
    assert version_of(read_crd())["subresources"] == {"status": {}}


@pytest.mark.parametrize("vocabulary", [words.Doing, words.Waiting, words.Ended, Reason])
def test_every_reason_may_stand_in_a_condition(vocabulary: type[StrEnum]) -> None:
    node = NODES["status.conditions[].reason"]
    for word in vocabulary:
        assert re.fullmatch(node["pattern"], word)
        assert len(word) <= node["maxLength"]


def prose() -> dict[str, str]:
    """What people read about the API: documents, examples and the chart's texts."""
    found = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/*.yaml")]
    found += [path for path in CHART.rglob("*") if path.suffix in {".txt", ".yaml", ".tpl", ".md"}]
    return {str(path.relative_to(ROOT)): path.read_text() for path in sorted(found)}


def test_documents_name_conditions_and_annotations_that_exist() -> None:
    known = {
        value.partition("/")[2]
        for value in [*vars(words).values(), *vars(pipelines).values()]
        if isinstance(value, str) and value.startswith(f"{words.GROUP}/")
    } | {words.VERSION, NOTE.partition("/")[2]}
    for where, text in prose().items():
        conditions = re.findall(r"condition=([A-Za-z]+)", text)
        conditions += re.findall(r"`([A-Z][a-z]+)=(?:True|False|Unknown)", text)
        assert set(conditions) <= {*words.Condition, "Established"}, where
        named = re.findall(r"(?<![.\w/])halftone\.dev/([\w-]+)", text)
        # `kubectl annotate` takes a name with a hyphen behind it away.
        assert {name.removesuffix("-") for name in named} <= known, where
