"""What opens publishing, and what it says when it stays shut."""

from dataclasses import replace
from pathlib import Path

import pytest

from halftone.publish.permission import first_disagreement, require_publishable
from halftone.spec.documents import CheckpointDocument, Plan
from halftone.spec.errors import CheckFailed, RefusedInput
from halftone.spec.gates import Metric
from halftone.spec.names import Reason
from halftone.spec.reports import Outcome, Platform, Report, Verdict, report_digest
from tests.artifacts import EMULATED, Work, work_directory, write_report


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Work:
    return work_directory(tmp_path_factory.mktemp("made"))


@pytest.fixture
def work(made: Work, tmp_path: Path) -> Work:
    """The documents of `made` beside a report that a test may change."""
    report = write_report(tmp_path, made.made.planned.plan.digest, made.made.document)
    return replace(made, directory=tmp_path, report=report)


def asked(work: Work, digest: str | None = None) -> Report:
    path = work.directory / "report.json"
    return require_publishable(
        path, digest or report_digest(path), work.made.planned.plan, work.made.document
    )


def shut(work: Work, report: Report | None = None) -> str:
    """Why `report` does not open publishing."""
    if report is not None:
        report.save(work.directory / "report.json")
    with pytest.raises(CheckFailed) as caught:
        asked(work)
    assert caught.value.reason is Reason.VerdictNotPassed
    return caught.value.message


@pytest.mark.parametrize("verdict", [Verdict.Passed, Verdict.Emulated, Verdict.Unmeasured])
def test_three_verdicts_open_publishing(verdict: Verdict, work: Work) -> None:
    report = work.report.model_copy(update={"verdict": verdict})
    report.save(work.directory / "report.json")

    assert asked(work) == report


@pytest.mark.parametrize("verdict", [Verdict.Failed, Verdict.Inconclusive])
def test_the_other_two_do_not(verdict: Verdict, work: Work) -> None:
    told = shut(work, work.report.model_copy(update={"verdict": verdict, "message": "It fell."}))

    assert told == (
        f"report.json does not open publishing: its verdict is {verdict} (It fell); mend the "
        "cause, run `halftone validate`, and publish once it passes."
    )


@pytest.mark.parametrize("outcome", [Outcome.Failed, Outcome.Inconclusive, Outcome.NotRun])
def test_a_verdict_that_its_own_gates_contradict_opens_nothing(
    outcome: Outcome, work: Work
) -> None:
    gate = work.report.gates[0].model_copy(update={"outcome": outcome})

    told = shut(work, work.report.model_copy(update={"gates": (gate, *work.report.gates[1:])}))

    assert f"the gate 'structure' is {outcome}, the verdict Emulated" in told


@pytest.mark.parametrize("missing", [0, 1])
def test_a_report_without_a_gate_that_runs_unasked_opens_nothing(missing: int, work: Work) -> None:
    gone = work.report.gates[missing]
    left = tuple(gate for gate in work.report.gates if gate is not gone)

    told = shut(work, work.report.model_copy(update={"gates": left}))

    assert f"it holds no result of {gone.metric}, which runs unasked" in told


@pytest.mark.parametrize("platform", [None, EMULATED])
def test_engine_gates_without_the_device_did_not_pass(
    platform: Platform | None, work: Work
) -> None:
    gate = work.report.gates[0].model_copy(update={"metric": Metric.EngineLoads, "name": "loads"})
    gates = (*work.report.gates, gate)
    report = work.report.model_copy(update={"gates": gates, "platform": platform})

    told = shut(work, report.model_copy(update={"verdict": Verdict.Passed}))

    assert "engine gates ran without the target GPU, and the verdict is Passed" in told


def test_the_digest_of_another_report_opens_nothing(work: Work) -> None:
    handed = report_digest(work.directory / "report.json")
    edited = (
        (work.directory / "report.json").read_bytes().replace(b"every planned", b"each planned")
    )
    (work.directory / "report.json").write_bytes(edited)

    with pytest.raises(CheckFailed, match="it was edited or replaced") as caught:
        asked(work, handed)

    assert caught.value.reason is Reason.ReportChanged


def test_no_report_opens_nothing(work: Work) -> None:
    (work.directory / "report.json").unlink()

    with pytest.raises(CheckFailed, match="it is not there"):
        asked(work, "0" * 64)


def test_what_is_no_report_opens_nothing(work: Work) -> None:
    (work.directory / "report.json").write_text("{}")

    assert "it is not a report of this version" in shut(work)


def test_the_report_of_another_checkpoint_opens_nothing(work: Work) -> None:
    told = shut(work, work.report.model_copy(update={"checkpointDigest": "b" * 64}))

    assert "it is about another checkpoint (bbbbbbbbbbbb, this one is" in told


def test_the_report_of_another_plan_is_refused(work: Work) -> None:
    work.report.model_copy(update={"planDigest": "b" * 64}).save(work.directory / "report.json")

    with pytest.raises(RefusedInput, match=r"report\.json does not belong") as caught:
        asked(work)

    assert caught.value.reason is Reason.WorkdirInconsistent


def test_documents_that_belong_together_agree(made: Work) -> None:
    assert first_disagreement(made.made.planned.plan, made.made.document, made.report) is None


def changed_plan(plan: Plan) -> Plan:
    return plan.model_copy(update={"architecture": "another"})


def changed_checkpoint(document: CheckpointDocument) -> CheckpointDocument:
    first = document.files[0].model_copy(update={"sha256": "0" * 64})
    return document.model_copy(update={"files": (first, *document.files[1:])})


def test_each_document_must_belong_to_the_one_before_it(made: Work) -> None:
    plan, checkpoint, report = made.made.planned.plan, made.made.document, made.report
    other = {"planDigest": "b" * 64}

    found = [
        first_disagreement(changed_plan(plan), checkpoint, report),
        first_disagreement(changed_plan(plan).sealed(), checkpoint, report),
        first_disagreement(plan, checkpoint.model_copy(update=other), report),
        first_disagreement(plan, changed_checkpoint(checkpoint), report),
        first_disagreement(plan, checkpoint, report.model_copy(update=other)),
        first_disagreement(
            plan, checkpoint, report.model_copy(update={"checkpointDigest": "b" * 64})
        ),
    ]

    assert [None if one is None else one.subject for one in found] == [
        "plan.json",
        "checkpoint.json",
        "checkpoint.json",
        "checkpoint.json",
        "report.json",
        "report.json",
    ]


def test_a_checkpoint_document_that_was_edited_after_the_gates_is_noticed(made: Work) -> None:
    """What the checkpoint digest leaves out: errors that the card quotes, and carried files."""
    plan, checkpoint = made.made.planned.plan, made.made.document
    better = checkpoint.roles[0].model_copy(update={"relativeError": "0.000001"})
    edited = checkpoint.model_copy(update={"roles": (better, *checkpoint.roles[1:])})

    found = first_disagreement(plan, edited, made.report)

    assert found is not None
    assert found.how == "it was edited after the gates had read it"
