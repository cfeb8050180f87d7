"""Every bound of the CRD on the real API server, and whether the model agrees.

We test these aspects:
- the objects that the tests are made of are accepted, and between them they have every field;
- each type, enum, pattern, length, range, required field and list key accepts what it must and
  refuses what it must not, and says why; an unknown field is refused anywhere;
- `halftone run` refuses, in a sentence, what the API server refuses, and takes what it takes;
- defaults are filled in, and a null of a field that cannot be null is as good as none.
"""

import random

import pytest

from tests.api.crd_asking import Said, create, model_refusal, store, update
from tests.api.crd_cases import PATTERNS, Case, cases
from tests.api.crd_objects import REMOVED, WHOLE, Object, base_with, value_at, with_edits
from tests.cluster.client import Client
from tests.crd_schema import crd_schema, nodes

NODES = {path: node for path, node in nodes(crd_schema()) if path.startswith(("spec", "status"))}


@pytest.fixture(scope="module")
def place(client: Client) -> str:
    """One namespace for all of them: nothing is stored but what statuses are tried on."""
    return client.namespace("crd-bounds")


@pytest.fixture(scope="module")
def stored(client: Client, place: str) -> Object:
    """A QuantizationJob, for its status."""
    return store(client, place, "stored", WHOLE["observed"])


def ask(client: Client, place: str, stored: Object, job: Object) -> Said:
    """What the server says to `job`: to its status if it has one, else to all of it."""
    if "status" in job:
        return update(client, stored, job, "/status")
    return create(client, place, job)


def test_every_pattern_that_is_tried_exists() -> None:
    assert set(PATTERNS) == {node["pattern"] for node in NODES.values() if "pattern" in node}


@pytest.mark.parametrize("name", sorted(WHOLE))
def test_a_whole_object_is_accepted(client: Client, place: str, stored: Object, name: str) -> None:
    answer = ask(client, place, stored, WHOLE[name])
    assert answer.accepted is not None, answer.message
    assert model_refusal(WHOLE[name]) is None


@pytest.mark.parametrize("path", sorted(NODES))
def test_a_bound_holds(client: Client, place: str, stored: Object, path: str) -> None:
    wrong = [
        (case, found)
        for case in cases(path, NODES[path])
        if (found := complaint(ask(client, place, stored, edited(case)), case)) is not None
    ]
    assert wrong == []


def edited(case: Case) -> Object:
    return with_edits(WHOLE[case.base], case.edits)


def complaint(answer: Said, case: Case) -> str | None:
    """How an answer is another than the case wants; None if it is not."""
    if case.says is None:
        verdict = None if answer.accepted is not None else answer.message
    elif answer.accepted is not None:
        verdict = "accepted"
    else:
        verdict = None if case.says in answer.message else answer.message
    if verdict is not None or case.base == "observed":
        return verdict
    model = model_refusal(edited(case))
    return None if (model is None) is (answer.accepted is not None) else f"model: {model}"


def test_every_bound_is_tried_on_both_sides() -> None:
    for path, node in NODES.items():
        tried = {(case.keyword, case.says is None) for case in cases(path, node)}
        for keyword in node.keys() & {"maximum", "minimum", "maxItems", "maxProperties", "pattern"}:
            assert {(keyword, True), (keyword, False)} <= tried, f"{path}: {keyword}"
        for keyword in node.keys() & {"maxLength", "minLength", "type", "required", "enum"}:
            if keyword == "maxLength" and "enum" in node:
                continue
            assert (keyword, False) in tried, f"{path}: {keyword}"


def test_server_and_model_agree_on_objects_with_several_edits(
    client: Client, place: str, stored: Object
) -> None:
    seeded = random.Random(6)
    found = [
        case
        for path, node in NODES.items()
        if path.startswith("spec.")
        for case in cases(path, node)
    ]
    for _ in range(200):
        base = seeded.choice(["claim", "bucket", "made"])
        chosen = seeded.sample([case for case in found if case.base == base], 3)
        edits = {path: value for case in chosen for path, value in case.edits.items()}
        try:
            job = with_edits(WHOLE[base], edits)
        except (LookupError, TypeError):
            continue  # one edit took the place of another away
        answer = create(client, place, job)
        assert (model_refusal(job) is None) is (answer.accepted is not None), (edits, answer)


def test_defaults_are_filled_in(client: Client, place: str) -> None:
    fields = {path: node["default"] for path, node in NODES.items() if "default" in node}
    bare = with_edits(WHOLE["claim"], dict.fromkeys(fields, REMOVED))
    empty = with_edits(WHOLE["claim"], dict.fromkeys(fields))
    for job in (bare, empty):
        answer = create(client, place, job)
        assert answer.accepted is not None, answer.message
        assert {path: value_at(answer.accepted, path) for path in fields} == fields


@pytest.mark.parametrize("value", [True, "2", 2.5])
def test_what_is_no_whole_number_is_none_to_both(client: Client, place: str, value: object) -> None:
    job = with_edits(WHOLE["claim"], {"spec.parallelism": value})
    answer = create(client, place, job)
    assert "spec.parallelism in body must be of type integer" in answer.message
    assert "`spec.parallelism`: Input should be a valid integer" in str(model_refusal(job))


def test_the_server_stores_a_whole_float_as_an_integer(client: Client, place: str) -> None:
    job = with_edits(WHOLE["claim"], {"spec.parallelism": 2.0})
    answer = create(client, place, job)
    assert answer.accepted is not None
    assert repr(value_at(answer.accepted, "spec.parallelism")) == "2"
    assert "Input should be a valid integer" in str(model_refusal(job))  # of a file on a laptop


def test_a_null_clears_where_it_may_and_is_nothing_elsewhere(client: Client, place: str) -> None:
    cleared = "spec.quantization.kvCache"
    job = with_edits(WHOLE["claim"], {cleared: None, "spec.quantization.blockScale": None})
    answer = create(client, place, job)
    assert answer.accepted is not None, answer.message
    assert value_at(answer.accepted, cleared) is None
    assert "blockScale" not in value_at(answer.accepted, "spec.quantization")


def test_every_field_stands_in_an_object() -> None:
    for path in NODES:
        assert base_with(path) in WHOLE
