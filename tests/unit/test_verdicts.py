"""From outcomes to a verdict, and what opens publishing."""

from typing import Any

import pytest

from halftone.spec.gates import EngineLoads, Metric, Validation, WeightError
from halftone.spec.reports import PUBLISHABLE, GateResult, Outcome, Platform, Verdict
from halftone.validate.verdicts import judge, lowest_recovery

CPU = Platform(device="x86-64 CPU", emulated=True, engine="vllm 0.32.0+cpu")
GPU = Platform(device="NVIDIA B200", emulated=False, engine="vllm 0.32.0")
ENGINE = EngineLoads(name="loads", metric=Metric.EngineLoads)
WEIGHTS = WeightError(name="weights", metric=Metric.WeightError, maximum="0.1")


def result(metric: Metric, outcome: Outcome = Outcome.Passed, **more: Any) -> GateResult:
    return GateResult(name=metric.lower(), metric=metric, outcome=outcome, message="why", **more)


UNASKED = (result(Metric.Structure), result(Metric.WeightError))


def verdict(
    gates: tuple[Any, ...], results: tuple[GateResult, ...], platform: Platform | None = None
) -> Verdict:
    return judge(Validation(gates=gates), results, platform)[0]


def test_engine_gates_on_the_target_gpu_pass() -> None:
    assert verdict((ENGINE,), (*UNASKED, result(Metric.EngineLoads)), GPU) is Verdict.Passed


def test_engine_gates_without_the_target_gpu_are_emulated() -> None:
    found = judge(Validation(gates=(ENGINE,)), (*UNASKED, result(Metric.EngineLoads)), CPU)
    assert found[0] is Verdict.Emulated
    assert "x86-64 CPU" in found[1]


def test_gates_on_files_alone_need_no_gpu_to_pass() -> None:
    assert verdict((WEIGHTS,), UNASKED) is Verdict.Passed


def test_a_job_without_gates_is_unmeasured_although_two_gates_ran() -> None:
    assert verdict((), UNASKED) is Verdict.Unmeasured


def test_a_failure_outweighs_an_empty_list_and_everything_else() -> None:
    failed = result(Metric.Structure, Outcome.Failed)
    skipped = result(Metric.WeightError, Outcome.NotRun)
    assert verdict((), (failed, skipped)) is Verdict.Failed
    assert verdict((ENGINE,), (failed, skipped), GPU) is Verdict.Failed


@pytest.mark.parametrize("outcome", [Outcome.Inconclusive, Outcome.NotRun])
def test_a_gate_that_decides_nothing_keeps_publishing_shut(outcome: Outcome) -> None:
    found = verdict((ENGINE,), (*UNASKED, result(Metric.EngineLoads, outcome)), GPU)
    assert found is Verdict.Inconclusive
    assert found not in PUBLISHABLE


def test_three_verdicts_open_publishing() -> None:
    assert {Verdict.Passed, Verdict.Emulated, Verdict.Unmeasured} == PUBLISHABLE


def test_recovery_is_the_lowest_of_the_tasks() -> None:
    tasks = [result(Metric.Task, score=score) for score in ("99.50", "100.10", "98.7")]
    assert lowest_recovery([*UNASKED, *tasks]) == "98.7"
    assert lowest_recovery(UNASKED) == ""
