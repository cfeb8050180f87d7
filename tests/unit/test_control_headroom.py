"""How much room gates left.

We test these aspects:
- a score below a maximum and one above a minimum leave a share of the limit; beyond it, less than 0
- each metric of gates that has a limit is known by the field of its limit
- gates that did not run, have no limit, a limit of 0 or a score that is no number leave none, nor
  does one whose room is larger than any float
- a job without gates, or without a status, has none
"""

from typing import Any, get_args

import pytest

from halftone.control.headroom import _LIMITS, headrooms
from halftone.spec import gates


def of(gate: dict[str, Any], value: Any) -> list[tuple[str, float]]:
    """The rooms of a job with this gate and this score."""
    spec = {"validation": {"gates": [{"name": "g", **gate}]}}
    status = {"gates": [{"name": "g", "outcome": "Passed", "value": value}]}
    return list(headrooms(spec, status))


@pytest.mark.parametrize(
    ("gate", "value", "room"),
    [
        ({"metric": "KlDivergence", "maximum": "0.02"}, "0.015", 0.25),
        ({"metric": "KlDivergence", "maximum": "0.02"}, "0.03", -0.5),
        ({"metric": "WeightError", "maximum": "0.1"}, "0.1", 0.0),
        ({"metric": "Perplexity", "maxIncreasePercent": 4}, "-1.0000", 1.25),
        ({"metric": "TopOneAgreement", "minPercent": 80}, "88.0000", 0.1),
        ({"metric": "Task", "minRecoveryPercent": 100}, "98.5", -0.015),
        ({"metric": "Speed", "minRatioPercent": 150}, "225.0", 0.5),
        ({"metric": "AcceptanceLength", "minimum": "2"}, "2.5000", 0.25),
    ],
)
def test_a_score_leaves_a_share_of_the_limit(gate: dict[str, Any], value: str, room: float) -> None:
    ((metric, found),) = of(gate, value)
    assert metric == gate["metric"]
    assert found == pytest.approx(room)


def test_every_gate_with_a_limit_is_known() -> None:
    every = get_args(get_args(gates.Gate)[0])
    limits = {
        get_args(model.model_fields["metric"].annotation)[0]: field
        for model in every
        for field in model.model_fields
        if field.startswith(("max", "min"))
    }
    assert limits == {metric: field for metric, (field, _) in _LIMITS.items()}


@pytest.mark.parametrize("value", [None, "", "NaN", "Infinity", "seven", 3.5j, "1e999999"])
def test_a_score_that_is_no_number_leaves_none(value: Any) -> None:
    assert of({"metric": "KlDivergence", "maximum": "0.02"}, value) == []


def test_a_room_beyond_all_numbers_is_none() -> None:
    assert of({"metric": "KlDivergence", "maximum": "1e-300"}, "1e300") == []


@pytest.mark.parametrize(
    "gate",
    [
        {"metric": "EngineLoads"},
        {"metric": "Perplexity", "maxIncreasePercent": 0},
        {"metric": "KlDivergence"},
        {"metric": "OfTomorrow", "maximum": "1"},
        {},
    ],
)
def test_a_gate_without_a_limit_leaves_none(gate: dict[str, Any]) -> None:
    assert of(gate, "0.5") == []


def test_a_gate_that_did_not_run_leaves_none() -> None:
    spec = {"validation": {"gates": [{"name": "g", "metric": "KlDivergence", "maximum": "1"}]}}
    assert list(headrooms(spec, {"gates": [{"name": "other", "value": "0.1"}]})) == []
    assert list(headrooms(spec, {})) == []
    assert list(headrooms({}, {"gates": None})) == []
    assert list(headrooms({"validation": None}, {})) == []
