"""From the outcomes of gates to one verdict; pure, and the only place where it is decided."""

from collections.abc import Sequence

from halftone.spec.gates import ENGINE_METRICS, Gate, Metric, Validation
from halftone.spec.reports import GateResult, Outcome, Platform, Verdict


def judge(
    validation: Validation, results: Sequence[GateResult], platform: Platform | None
) -> tuple[Verdict, str]:
    """The verdict, and one sentence that says what it rests on.

    In this order: a failure, a gate that decided nothing or did not run, no gates at all, engine
    gates without the target GPU, all passed.
    """
    failed = [result for result in results if result.outcome is Outcome.Failed]
    if failed:
        return Verdict.Failed, f"Gate '{failed[0].name}' failed: {failed[0].message}"
    open_gates = [result for result in results if result.outcome is not Outcome.Passed]
    if open_gates:
        first = open_gates[0]
        return Verdict.Inconclusive, f"Gate '{first.name}' decides nothing: {first.message}"
    if not validation.gates:
        return (
            Verdict.Unmeasured,
            "The job lists no gates: structure and weight error are in order, and nothing was "
            "measured of what the model says.",
        )
    engine = any(result.metric in ENGINE_METRICS for result in results)
    if engine and (platform is None or platform.emulated):
        where = "" if platform is None else f" on {platform.device}"
        return (
            Verdict.Emulated,
            f"All {len(results)} gates passed; engine gates ran{where} with the target's number "
            "formats emulated, not on the target GPU, so kernels and speed are not proven.",
        )
    return Verdict.Passed, f"All {len(results)} gates passed."


def lowest_recovery(results: Sequence[GateResult]) -> str:
    """The lowest recovery of the tasks, in percent; "" where no task was scored."""
    tasks = [r for r in results if r.metric is Metric.Task and r.score is not None]
    return min((r.score for r in tasks if r.score is not None), key=float, default="")


def not_run(gate: Gate, why: str) -> GateResult:
    """A gate that an earlier failure stopped."""
    return GateResult(
        name=gate.name, metric=Metric(gate.metric), outcome=Outcome.NotRun, message=why
    )
