"""Answers of Prometheus's HTTP interface, and the queries that they answer.

We test these aspects:
- a vector is read, with values that JSON has no numbers for;
- refusals, warnings, other kinds of results and what is no answer are told apart in words;
- a query asks for every series of its family, and labels are quoted in it.
"""

import json
import math

import pytest

from halftone.scaling.inputs import queries
from halftone.scaling.inputs.names import FAMILIES, NATIVE, RECORDED, Family
from halftone.scaling.inputs.parsing import UnusableAnswer, vector

SERIES = {"metric": {"__name__": "up", "job": "a"}, "value": [1700000000.5, "1"]}


def answer(**data: object) -> bytes:
    told = {"resultType": "vector", "result": [SERIES], **data}
    return json.dumps({"status": "success", "data": told}).encode()


def test_a_vector_is_read() -> None:
    (sample,) = vector(answer())
    assert (dict(sample.labels), sample.value) == ({"__name__": "up", "job": "a"}, 1.0)


@pytest.mark.parametrize(("said", "value"), [("NaN", math.nan), ("+Inf", math.inf)])
def test_values_that_are_no_numbers_are_read(said: str, value: float) -> None:
    (sample,) = vector(answer(result=[{"metric": {}, "value": [0, said]}]))
    assert sample.value == pytest.approx(value, nan_ok=True)


REFUSAL = {"status": "error", "errorType": "bad_data", "error": "parse error"}


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"<html>", "does not answer in JSON; is it Prometheus?"),
        pytest.param(b"[" * 100_000, "does not answer in JSON", id="deep"),
        (b"[]", "refuses the query: it does not say why"),
        (json.dumps(REFUSAL).encode(), "refuses the query: bad_data: parse error"),
        (answer(resultType="matrix"), "answers with something other than a vector"),
        (answer(result=[{"metric": {}}]), "answers with something other than a vector"),
        (answer(result=[{"metric": [], "value": [0, "1"]}]), "something other than a vector"),
        (answer(result=[{"metric": {}, "value": [0, "many"]}]), "other than a vector"),
        (answer(result=[{"metric": {}, "value": [0, 10**400]}]), "other than a vector"),
        (answer(result=None), "answers with something other than a vector"),
    ],
)
def test_what_is_no_answer_is_told(body: bytes, said: str) -> None:
    with pytest.raises(UnusableAnswer, match=said.replace("?", r"\?")):
        vector(body)


def test_an_answer_that_may_not_be_whole_is_none() -> None:
    body = json.dumps({**json.loads(answer()), "warnings": ["store 2 is gone"]})
    with pytest.raises(UnusableAnswer, match="may not be whole: store 2 is gone"):
        vector(body)
    assert vector(json.dumps({**json.loads(answer()), "infos": ["a hint"]}))


@pytest.mark.parametrize("family", FAMILIES, ids=lambda each: each.title)
def test_a_query_asks_for_every_series_of_the_model(family: Family) -> None:
    query = queries.read(family, "qwen", {"namespace": "models"})
    for series in family.series.values():
        assert f'{series}{{model_name="qwen", namespace="models"}}' in query
    assert ("timestamp(vllm:" in query) == (family is NATIVE)
    assert ("replica_sample_timestamp_seconds" in query) == (family is RECORDED)


def test_labels_are_quoted() -> None:
    query = queries.read(NATIVE, 'a"b\\c\nd', {})
    assert r'vllm:num_requests_running{model_name="a\"b\\c\nd"}' in query
