"""The `Task` gate: pairing, recovery from raw scores, three-way judgement, and its error rates.

The simulated runs draw models whose true loss is known and put them through the whole gate; seeds
are fixed. The larger simulation is marked soak.
"""

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from halftone.spec.errors import RefusedInput
from halftone.spec.gates import Metric, Task
from halftone.spec.names import Reason
from halftone.spec.reports import GateResult, Outcome
from halftone.validate.gates.task import judge_tasks

SOURCE_SCORE = 0.884  # the pocket model's arithmetic


def gate(recovery: int = 98, name: str = "arithmetic") -> Task:
    return Task(name=name, metric=Metric.Task, task="arithmetic.yaml", minRecoveryPercent=recovery)


def answer(scores: Any, **changes: Any) -> dict[str, Any]:
    """What `serving/tasks.py` gives for these scores."""
    items = [{"id": str(i), "score": float(s), "prompt": f"{i}+1="} for i, s in enumerate(scores)]
    return {
        "task": "pocket-arithmetic",
        "metric": "exact_match",
        "higherIsBetter": True,
        "fewShot": 0,
        "dataSha256": "d" * 64,
        "items": items,
    } | changes


def judged(source: Any, quantized: Any, recovery: int = 98) -> tuple[GateResult, dict[str, Any]]:
    [found] = judge_tasks([gate(recovery)], [answer(source)], [answer(quantized)])
    return found


def right(items: int, wrong: Any = ()) -> list[int]:
    return [0 if i in wrong else 1 for i in range(items)]


def test_an_equal_model_passes_and_says_so() -> None:
    result, evidence = judged(right(1000, range(100)), right(1000, range(100)))
    assert result.outcome is Outcome.Passed
    assert (result.score, result.limit) == ("100.00", "≥ 98 %")
    assert (result.sourceScore, result.quantizedScore) == ("0.9000", "0.9000")
    assert result.culprit is None
    assert result.items == 1000
    assert evidence["recoveryPercent"] == 100
    assert evidence["marginPercent"] == 2
    assert evidence["items"][0] == {"id": "0", "source": 0.0, "quantized": 0.0}
    assert len(evidence["items"]) == 1000
    json.dumps(evidence, allow_nan=False)


def test_recovery_is_computed_from_the_scores_of_items() -> None:
    """Reference model S4's card prints 99.3 % where its own scores give 95.7 %."""
    source, quantized = right(10_000, range(1707)), right(10_000, range(2067))
    result, _ = judged(source, quantized, recovery=99)
    assert (result.sourceScore, result.quantizedScore) == ("0.8293", "0.7933")
    assert result.score == "95.66"
    assert result.outcome is Outcome.Failed


def test_a_damaged_model_fails_and_names_what_it_lost() -> None:
    result, evidence = judged(right(1000), right(1000, {7, 30, 31, *range(100, 160)}))
    assert result.outcome is Outcome.Failed
    assert result.culprit == "7 ('7+1='), 30 ('30+1='), 31 ('31+1=')"
    assert "63 items were lost and 0 gained" in result.message
    assert evidence["interval"]["upper"] < -0.02


def test_what_the_data_do_not_decide_is_inconclusive_and_says_how_many_items_would() -> None:
    result, evidence = judged(right(300), right(300, range(6)))
    assert result.outcome is Outcome.Inconclusive
    assert evidence["neededItems"] > 300
    assert f"about {evidence['neededItems']:,} items" in result.message
    assert result.interval is not None
    assert float(result.interval.lower) < 98 < float(result.interval.upper)


def test_a_loss_at_the_limit_is_not_blamed_on_the_number_of_items() -> None:
    result, _ = judged(right(5000), right(5000, range(100)))
    assert result.outcome is Outcome.Inconclusive
    assert "the loss itself lies near the limit" in result.message


def test_the_interval_says_how_sure_it_is() -> None:
    alone, evidence = judged(right(1000), right(1000, range(3)))
    assert alone.interval is not None
    assert alone.interval.confidencePercent == 90  # two one-sided bounds at 95 %
    assert evidence["alpha"] == {"recovered": 0.05, "damaged": 0.05}
    gates = [gate(name=f"task-{i}") for i in range(7)]
    answers = [answer(right(1000, range(3)))] * 7
    first = judge_tasks(gates, [answer(right(1000))] * 7, answers)[0]
    assert first[1]["alpha"]["recovered"] == pytest.approx(0.05 / 7)
    assert first[0].interval is not None
    assert float(first[0].interval.lower) < float(alone.interval.lower)


def test_a_score_that_counts_errors_is_turned_round() -> None:
    """100 errors in 1,000 became 101: 99.01 % of the source's score, and 200 are 50 %."""

    def errors(count: int) -> dict[str, Any]:
        return answer([1] * count + [0] * (1000 - count), higherIsBetter=False)

    [(good, evidence)] = judge_tasks([gate(80)], [errors(100)], [errors(101)])
    assert (good.outcome, good.score) == (Outcome.Passed, "99.01")
    assert evidence["difference"] == pytest.approx(-0.001)
    [(bad, _)] = judge_tasks([gate(80)], [errors(100)], [errors(200)])
    assert (bad.outcome, bad.score) == (Outcome.Failed, "50.00")


def test_scores_between_right_and_wrong_are_judged_too() -> None:
    rng = np.random.default_rng(3)
    source = rng.random(800)
    same, _ = judged(source, source + rng.normal(0, 0.03, 800))
    worse, _ = judged(source, source - 0.1)
    assert same.outcome is Outcome.Passed
    assert worse.outcome is Outcome.Failed


def test_a_source_that_knows_nothing_proves_nothing() -> None:
    result, evidence = judged([0] * 500, [0] * 500)
    assert result.outcome is Outcome.Inconclusive
    assert result.score is None
    assert evidence["recoveryPercent"] is None
    assert "tells nothing" in result.message


@pytest.mark.parametrize(
    "changed",
    [
        answer(right(99)),
        answer(right(100), dataSha256="e" * 64),
        answer(right(100), metric="acc"),
        answer(right(100), fewShot=5),
        answer([]),
    ],
)
def test_models_that_were_not_asked_the_same_are_not_compared(changed: dict[str, Any]) -> None:
    with pytest.raises(RefusedInput, match="cannot pair its items") as caught:
        judge_tasks([gate()], [answer(right(100))], [changed])
    assert caught.value.reason is Reason.WorkdirInconsistent
    assert caught.value.subject == "arithmetic"


def runs(
    seed: int, count: int, items: int, losses: list[float], gained: float = 0.02
) -> Iterator[list[Outcome]]:
    """Outcomes of `count` simulated gate runs of as many tasks as `losses` has, one each.

    A loss is a share of the source's score; the tasks ask for a recovery of 98 %.
    """
    rng = np.random.default_rng(seed)
    gates = [gate(name=f"task-{i}") for i in range(len(losses))]
    for _ in range(count):
        pairs = [drawn(rng, items, loss * SOURCE_SCORE, gained) for loss in losses]
        results = judge_tasks(gates, [answer(s) for s, _ in pairs], [answer(q) for _, q in pairs])
        yield [result.outcome for result, _ in results]


def drawn(
    rng: np.random.Generator, items: int, loss: float, gained: float
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Scores of both models: the true difference is -loss, `gained` are right only afterwards."""
    lost = loss + gained
    chances = [SOURCE_SCORE - lost, lost, gained, 1 - SOURCE_SCORE - gained]
    kinds = rng.choice(4, size=items, p=chances)
    return np.isin(kinds, (0, 1)), np.isin(kinds, (0, 2))


def at_most(count: int, rate: float) -> float:
    """More than this many of `count` would be seen once in a thousand, were `rate` true."""
    return float(count * rate + 3.1 * (count * rate * (1 - rate)) ** 0.5)


def test_simulated_models_at_the_margin_rarely_pass_and_rarely_fail() -> None:
    outcomes = [outcome for [outcome] in runs(11, 150, 700, [0.02])]
    assert outcomes.count(Outcome.Passed) <= at_most(150, 0.05)
    assert outcomes.count(Outcome.Failed) <= at_most(150, 0.05)


def test_simulated_undamaged_models_pass_as_often_as_the_power_says() -> None:
    outcomes = [outcome for [outcome] in runs(12, 100, 1000, [0.0])]
    assert outcomes.count(Outcome.Passed) >= 75  # 85 % by enumeration
    assert outcomes.count(Outcome.Failed) == 0


def test_simulated_ruins_never_pass() -> None:
    outcomes = [outcome for [outcome] in runs(13, 50, 700, [0.3])]
    assert set(outcomes) == {Outcome.Failed}


@pytest.mark.soak
@pytest.mark.parametrize("gained", [0.0, 0.005, 0.02, 0.08])
@pytest.mark.parametrize("items", [300, 700, 1319])
def test_many_simulated_gates_keep_the_stated_error_rates(items: int, gained: float) -> None:
    count = 2000
    outcomes = [outcome for [outcome] in runs(21, count, items, [0.02], gained)]
    assert outcomes.count(Outcome.Passed) <= at_most(count, 0.05)
    assert outcomes.count(Outcome.Failed) <= at_most(count, 0.05)


@pytest.mark.soak
@pytest.mark.parametrize("losses", [[0.02] * 7, [0.02] * 3 + [0.0] * 4, [0.02] + [0.3] * 6])
def test_many_simulated_families_keep_the_family_wise_rate(losses: list[float]) -> None:
    """Of seven tasks, those at the margin are wrongly passed, or wrongly failed, in 5 % of runs."""
    count, damaged = 1000, [i for i, loss in enumerate(losses) if loss == 0.02]
    found = list(runs(22, count, 1000, losses))
    wrong_pass = sum(any(o[i] is Outcome.Passed for i in damaged) for o in found)
    wrong_fail = sum(any(o[i] is Outcome.Failed for i in damaged) for o in found)
    assert wrong_pass <= at_most(count, 0.05)
    assert wrong_fail <= at_most(count, 0.05)
