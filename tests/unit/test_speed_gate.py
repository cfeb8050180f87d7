"""The `Speed` gate: three-way on the ratio of rates, and which model wins at which load."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from halftone.spec.capacity import CapacityCard
from halftone.spec.errors import RefusedInput
from halftone.spec.gates import Metric, Speed
from halftone.spec.reports import GateResult, Outcome
from halftone.validate.gates.speed import judge, parameters, ratio
from tests.measured import facts, steps


def gate(percent: int = 100, concurrency: int = 32) -> Speed:
    return Speed(
        name="speed", metric=Metric.Speed, concurrency=concurrency, minRatioPercent=percent
    )


def answer(rates: dict[int, list[float]], **changes: Any) -> dict[str, Any]:
    """What `serving/speed.py` gives for these rates, by concurrency."""
    points = {"p50": 1.0, "p95": 2.0}
    loads = [
        {
            "concurrency": n,
            "ttftMs": points,
            "itlMs": points,
            "tokensPerSecond": {"p50": sorted(given)[len(given) // 2], "p95": max(given)},
            "repetitions": given,
        }
        for n, given in rates.items()
    ]
    return {
        "promptTokens": 256,
        "outputTokens": 64,
        "warmUpSeconds": 1.5,
        "loads": loads,
        "steps": [list(step) for step in steps(0.02)],
    } | changes


def around(rate: float, spread: float = 0.01) -> list[float]:
    return [rate * (1 + spread * z) for z in (-1.0, -0.5, 0.0, 0.5, 1.0)]


def judged(
    source: dict[str, Any], quantized: dict[str, Any], workdir: Path, percent: int = 100
) -> tuple[GateResult, dict[str, Any]]:
    return judge(gate(percent), source, quantized, facts(), "c" * 64, workdir)


# Reference model S2, as its card states it: it wins alone and loses in company.
SOURCE = answer({1: around(154.6), 32: around(3250.0)})
QUANTIZED = answer({1: around(188.0), 32: around(2701.0)})


def test_a_model_that_loses_under_load_fails_and_the_report_says_where(tmp_path: Path) -> None:
    result, evidence = judged(SOURCE, QUANTIZED, tmp_path)
    assert result.outcome is Outcome.Failed
    assert result.score == "83.1"
    assert (result.sourceScore, result.quantizedScore) == ("3250.0", "2701.0")
    assert result.culprit == "32 concurrent"
    assert "slower at 32 concurrent, faster at 1 concurrent" in result.message
    assert [load["concurrency"] for load in evidence["loads"]] == [1, 32]
    assert evidence["loads"][0]["ratioPercent"] == pytest.approx(121.6, abs=0.1)
    assert evidence["loads"][1]["source"]["tokensPerSecond"]["p50"] == 3250.0
    json.dumps(evidence, allow_nan=False)


@pytest.mark.parametrize(
    ("percent", "outcome"),
    [(80, Outcome.Passed), (83, Outcome.Inconclusive), (90, Outcome.Failed), (0, Outcome.Passed)],
)
def test_the_ratio_is_judged_three_ways(percent: int, outcome: Outcome, tmp_path: Path) -> None:
    result, evidence = judged(SOURCE, QUANTIZED, tmp_path, percent)
    assert result.outcome is outcome
    interval = evidence["loads"][1]["interval"]
    assert (interval["lower"] >= percent) == (outcome is Outcome.Passed)
    assert (interval["upper"] < percent) == (outcome is Outcome.Failed)
    assert (result.culprit is not None) == (outcome is Outcome.Failed)


def test_a_noisy_machine_decides_nothing(tmp_path: Path) -> None:
    source, quantized = answer({32: around(100, 0.6)}), answer({32: around(95, 0.6)})
    result, _ = judged(source, quantized, tmp_path)
    assert result.outcome is Outcome.Inconclusive
    assert "no different at 32 concurrent" in result.message


def test_a_single_repetition_decides_nothing(tmp_path: Path) -> None:
    result, evidence = judged(answer({32: [100.0]}), answer({32: [10.0]}), tmp_path)
    assert result.outcome is Outcome.Inconclusive
    assert result.interval is None
    json.dumps(evidence, allow_nan=False)


def test_the_interval_is_welchs() -> None:
    # Worked by hand on logarithms 1, 2, 3 against 0, 0, 3: difference 1, variances 1 and 3, spread
    # 1.1547, 3.2 degrees of freedom, taken for 3; t at 5 % is 2.3534.
    found = ratio(np.exp([1.0, 2.0, 3.0]).tolist(), np.exp([0.0, 0.0, 3.0]).tolist())
    assert np.log(found) == pytest.approx([1.0, 1 - 2.7175, 1 + 2.7175], abs=1e-3)


def test_the_interval_keeps_its_promise() -> None:
    """Five repetitions of two equal models, 400 times: each bound is wrong in about 5 %."""
    rng = np.random.default_rng(2)
    found = [ratio(*np.exp(rng.normal(0, 0.1, (2, 5))).tolist()) for _ in range(400)]
    assert 6 <= sum(each.lower > 1 for each in found) <= 34
    assert 6 <= sum(each.upper < 1 for each in found) <= 34


def test_equal_rates_leave_no_doubt() -> None:
    assert ratio([50.0, 50.0], [100.0, 100.0]) == pytest.approx((0.5, 0.5, 0.5))


def test_the_card_of_the_quantized_model_is_left_in_the_work_directory(tmp_path: Path) -> None:
    _, evidence = judged(SOURCE, QUANTIZED, tmp_path)
    [path] = (tmp_path / "capacity").iterdir()
    assert evidence["cardFile"] == f"capacity/{path.name}"
    assert evidence["card"] == CapacityCard.load(path).model_dump(mode="json")
    assert evidence["card"]["checkpointDigest"] == "c" * 64


def test_without_enough_steps_there_is_no_card_and_the_gate_stands(tmp_path: Path) -> None:
    result, evidence = judged(SOURCE, QUANTIZED | {"steps": []}, tmp_path, 50)
    assert result.outcome is Outcome.Passed
    assert evidence["card"] is None
    assert "cannot tell" in evidence["noCardBecause"]
    assert not (tmp_path / "capacity").exists()


@pytest.mark.parametrize(
    "other", [answer({1: [1.0]}), QUANTIZED | {"promptTokens": 32}, QUANTIZED | {"outputTokens": 8}]
)
def test_models_under_different_loads_are_not_compared(
    other: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(RefusedInput, match="the same load"):
        judged(SOURCE, other, tmp_path)


def test_both_models_are_asked_for_a_single_stream_too() -> None:
    assert parameters(gate())["concurrencies"] == [1, 32]
    assert parameters(gate(concurrency=1))["concurrencies"] == [1]
