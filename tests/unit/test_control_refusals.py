"""Every refusal that Halftone knows has its place in a condition, word for word.

We test these aspects:
- each reason, given by any stage, stands in the condition of that stage with its message unchanged,
  in the summary and in an event; the stages after it are not reached;
- a message that is too long is cut at a sentence and says where the rest is;
- the exit codes of Halftone's errors end a Job, or have it try again, as they should;
- a stage that says well what is not good enough is refused as well;
- what a report says beyond the bounds of the API is cut to them, whatever number it writes.
"""

from typing import Any

import pytest

from halftone.control.conditions import shortened
from halftone.control.decision import Decision
from halftone.control.reconciling import reconcile
from halftone.spec.cluster import ChildStage, Condition, Ended, EventReason
from halftone.spec.documents import Method
from halftone.spec.errors import CheckFailed, EnvironmentFault, RefusedInput
from halftone.spec.names import Reason
from halftone.spec.reports import PUBLISHABLE, Outcome, Verdict
from halftone.spec.stage_results import CheckpointFacts, GateFacts, OccupantFacts, StageResult
from halftone.spec.status import JobStatus
from tests.cluster.answers import PLAN, result
from tests.control_cases import (
    SETTINGS,
    World,
    bad_pod,
    broken,
    done,
    good_pod,
    pod,
    row,
    seen,
    told,
)
from tests.control_laws import MAKES, check, jobs_of

MESSAGE = "`spec.source` is not what it should be; name another one."
STAGES = tuple(MAKES)


def failing(stage: ChildStage, reason: str, message: str = MESSAGE) -> Decision:
    """What is decided when `stage` fails after all before it succeeded."""
    method = Method.Calibrated if stage is ChildStage.Calibrate else Method.DataFree
    world = World(blocks={"parallelism": 2}, method=method)
    for _ in range(20):
        world.settle()
        live = {one.stage: one for one in world.live()}
        if stage in live:
            ended = bad_pod(stage, reason, message=message)
            live[stage].pods, live[stage].failure = [ended], ("PodFailurePolicy", "")
            return world.visit()
        for one in live.values():
            world.succeed(one)
    raise AssertionError(f"there is never a {stage}")


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("reason", [Reason.UnknownArchitecture, Reason.OutOfSpace, "GateFailed"])
def test_a_refusal_is_a_condition(stage: ChildStage, reason: str) -> None:
    decision = failing(stage, reason)
    found = row(decision.status, MAKES[stage])
    assert (found.status.value, found.reason, found.message) == ("False", reason, MESSAGE)
    summary = row(decision.status, Condition.Succeeded)
    assert (summary.reason, summary.message) == (reason, MESSAGE)
    rows = told(decision.status)
    after = list(rows)[list(rows).index(MAKES[stage]) + 1 : -1]
    assert [rows[kind] for kind in after] == [("False", "NotReached")] * len(after)
    (warning,) = [event for event in decision.events if event.warning]
    assert warning.message == f"{reason}: {MESSAGE}"
    assert not decision.creations
    assert decision.status is not None
    assert decision.status.completionTime


@pytest.mark.parametrize("reason", list(Reason))
def test_every_reason_of_planning_is_not_accepted(reason: Reason) -> None:
    children = (
        broken(ChildStage.Plan, bad_pod(ChildStage.Plan, reason, message=MESSAGE)),
        done(ChildStage.Target, pods=(good_pod(ChildStage.Target),)),
    )
    decision = reconcile(seen(*children), SETTINGS)
    found = row(decision.status, Condition.Accepted)
    assert (found.status.value, found.reason, found.message) == ("False", reason, MESSAGE)
    (warning,) = decision.events[-1:]
    assert warning.reason is EventReason.JobRefused


EVENTS = {
    (ChildStage.Validate, "GateFailed"): EventReason.GateFailed,
    (ChildStage.Validate, "EngineFailed"): EventReason.StageFailed,
    (ChildStage.Quantize, "OutOfSpace"): EventReason.StageFailed,
    (ChildStage.Target, "AccessDenied"): EventReason.JobRefused,
}


@pytest.mark.parametrize("case", EVENTS)
def test_an_event_says_what_kind_of_failure(case: tuple[ChildStage, str]) -> None:
    assert [event.reason for event in failing(*case).events if event.warning] == [EVENTS[case]]


def test_a_failed_validation_shows_its_gates() -> None:
    report = result(ChildStage.Validate).report
    assert report is not None
    shut = report.model_copy(update={"verdict": Verdict.Failed})
    said = bad_pod(ChildStage.Validate, "GateFailed").result
    assert said is not None
    ended = pod(phase="Failed", exit_code=1, result=said.model_copy(update={"report": shut}))
    before = [done(stage) for stage in (ChildStage.Plan, ChildStage.Target, ChildStage.Quantize)]
    decision = reconcile(seen(*before, broken(ChildStage.Validate, ended)), SETTINGS)
    assert decision.status is not None
    assert decision.status.report is not None
    assert decision.status.report.verdict is Verdict.Failed
    assert decision.status.recoveryPercent == 99
    assert [gate.name for gate in decision.status.gates] == ["weights"]


@pytest.mark.parametrize("verdict", list(Verdict))
def test_only_a_verdict_that_opens_publishing_leads_there(verdict: Verdict) -> None:
    said = result(ChildStage.Validate)
    assert said.report is not None
    report = said.report.model_copy(update={"verdict": verdict})
    ended = good_pod(ChildStage.Validate, result=said.model_copy(update={"report": report}))
    before = [done(stage) for stage in (ChildStage.Plan, ChildStage.Target, ChildStage.Quantize)]
    decision = reconcile(seen(*before, done(ChildStage.Validate, pods=(ended,))), SETTINGS)
    opened = verdict in PUBLISHABLE
    assert [stage for stage, _ in jobs_of(decision)] == [ChildStage.Publish] * opened
    reason = "Validated" if opened else "VerdictNotPassed"
    assert row(decision.status, Condition.Validated).reason == reason


OTHER = OccupantFacts(planDigest="f" * 64, checkpointDigest="b" * 64)
SAME = OccupantFacts(planDigest=PLAN, checkpointDigest="b" * 64)


@pytest.mark.parametrize(
    ("occupant", "existing", "refused"),
    [
        (None, "Refuse", False),
        (OTHER, "Refuse", True),
        (OTHER, "Replace", False),
        (SAME, "Refuse", False),
    ],
)
def test_another_artifact_in_the_target_is_seen_before_the_work(
    occupant: OccupantFacts | None, existing: str, refused: bool
) -> None:
    target = StageResult(stage="target", occupant=occupant)
    publish = {"s3": {"uri": "s3://models/out"}, "existing": existing}
    children = (
        done(ChildStage.Plan),
        done(ChildStage.Target, pods=(good_pod(ChildStage.Target, result=target),)),
    )
    decision = reconcile(seen(*children, blocks={"publish": publish}), SETTINGS)
    assert row(decision.status, Condition.Accepted).reason == (
        Reason.TargetOccupied if refused else Ended.Accepted
    )


@pytest.mark.parametrize("suspend", [False, True])
def test_nothing_is_made_beside_what_has_failed(suspend: bool) -> None:
    refused = broken(ChildStage.Plan, bad_pod(ChildStage.Plan, "UnknownArchitecture"))
    decision = check(seen(refused, blocks={"suspend": suspend}))
    assert told(decision.status)["Succeeded"] == ("False", "UnknownArchitecture")
    assert not decision.creations


def test_an_occupied_target_is_asked_again() -> None:
    world = World()
    world.settle()
    for one in world.live():
        world.succeed(one)
        if one.stage is ChildStage.Target:
            told_by = StageResult(stage="target", occupant=OTHER)
            one.pods = [good_pod(ChildStage.Target, result=told_by)]
    world.settle()
    assert told(world.read)["Succeeded"] == ("False", "TargetOccupied")
    for one in world.jobs.values():
        one.pods = []
    world.settle()
    assert told(world.read)["Succeeded"] == ("False", "TargetOccupied")
    world.ask_again("1")
    world.run_to_rest()
    assert told(world.read)["Succeeded"] == ("True", "Published")
    assert world.made.count(ChildStage.Target) == 2


HOSTILE: dict[str, Any] = {
    "nothing": None,
    "of another stage": result(ChildStage.Publish),
    "no facts": StageResult(stage="quantize"),
    "a digest that is none": StageResult(
        stage="quantize", checkpoint=CheckpointFacts(digest="/etc", sizeBytes=1)
    ),
}


@pytest.mark.parametrize("said", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_stage_that_says_nonsense_has_failed(said: StageResult | None) -> None:
    children = (done(ChildStage.Plan), done(ChildStage.Target))
    ended = pod(phase="Succeeded", exit_code=0, result=said)
    decision = reconcile(seen(*children, done(ChildStage.Quantize, pods=(ended,))), SETTINGS)
    found = row(decision.status, Condition.Quantized)
    assert (found.status.value, found.reason) == ("False", "StageFailed")
    assert "images of one version" in found.message
    assert not decision.deletions


def _reported(**changes: object) -> JobStatus:
    """The status of a job whose report says something else than when all went well."""
    said = result(ChildStage.Validate)
    assert said.report is not None
    report = said.report.model_copy(update=changes)
    ended = good_pod(ChildStage.Validate, result=said.model_copy(update={"report": report}))
    before = [done(stage) for stage in (ChildStage.Plan, ChildStage.Target, ChildStage.Quantize)]
    decision = reconcile(seen(*before, done(ChildStage.Validate, pods=(ended,))), SETTINGS)
    assert decision.status is not None
    return decision.status


def test_gates_beyond_the_bounds_of_the_api_are_left_out() -> None:
    gate = GateFacts(name="one", outcome=Outcome.Passed)
    gates = tuple(gate.model_copy(update={"name": f"gate-{n // 2}"}) for n in range(100))
    assert [gate.name for gate in _reported(gates=gates).gates] == [f"gate-{n}" for n in range(40)]


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("99.99", 99),
        ("-0.5", 0),
        ("123456.7", 1000),
        # As an integer these have more digits than fit into memory.
        ("1e999999999", 1000),
        ("-1e999999999", 0),
        ("1e-999999999", 0),
        ("NaN", None),
        ("-Infinity", None),
        ("most", None),
        ("", None),
        (None, None),
    ],
)
def test_a_recovery_is_a_whole_percent_within_the_bounds(
    said: str | None, shown: int | None
) -> None:
    assert _reported(recoveryPercent=said).recoveryPercent == shown


def test_what_is_too_long_is_cut_at_a_sentence() -> None:
    sentence = "The tensor `model.layers.0` is not finite. "
    decision = failing(ChildStage.Quantize, "NonFiniteWeight", sentence * 200)
    message = row(decision.status, Condition.Quantized).message
    assert len(message.encode()) <= 4096
    assert message.endswith("is not finite. (Cut here; `halftone logs` has the rest.)")
    (event,) = [event for event in decision.events if event.warning]
    assert len(event.message.encode()) <= 1024
    assert event.message.endswith("is not finite. (Cut here; the condition says more.)")


@pytest.mark.parametrize("text", ["word " * 50, "x" * 300, "ü" * 150, "A. " + "word " * 60])
def test_what_has_no_sentence_is_cut_at_a_word(text: str) -> None:
    cut = shortened(text, 100, "(More.)")
    assert len(cut.encode()) <= 100
    assert cut.endswith("… (More.)")
    assert len(cut) > 40


def test_what_fits_is_not_cut() -> None:
    assert shortened("A sentence.", 11, "(More.)") == "A sentence."


def test_exit_codes_end_a_job_or_have_it_try_again() -> None:
    world = World()
    world.visit()
    rules = next(iter(world.jobs.values())).manifest["spec"]["podFailurePolicy"]["rules"]
    ignored, final = rules
    assert ignored["onPodConditions"] == [{"type": "DisruptionTarget", "status": "True"}]
    assert ignored["action"] == "Ignore"
    assert final["action"] == "FailJob"
    codes = final["onExitCodes"]
    assert (codes["operator"], codes["containerName"]) == ("In", "stage")
    assert {RefusedInput.exit_code, CheckFailed.exit_code, 137} == set(codes["values"])
    assert EnvironmentFault.exit_code not in codes["values"]
