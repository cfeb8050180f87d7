"""What a stage says when it ends, within the 4,096 bytes of a termination message.

We test these aspects:
- whatever its texts and gates, a result is valid JSON that reads back, is never too long, and says
  where the rest is; what matters most is cut last;
- every way in which a stage can fail has a reason, a sentence and an exit code;
- no secret that a pod was given is in what it says.
"""

import errno
from pathlib import Path

import click
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from halftone.cli.pod_results import failed, foreseen
from halftone.spec.documents import Method
from halftone.spec.errors import CheckFailed, EnvironmentFault, HalftoneError, RefusedInput
from halftone.spec.names import Reason
from halftone.spec.reports import Outcome, Verdict
from halftone.spec.stage_results import (
    MAX_RESULT_BYTES,
    ArtifactFacts,
    CheckpointFacts,
    Failure,
    GateFacts,
    PlanFacts,
    ReportFacts,
    SourceFacts,
    StageResult,
)
from halftone.stores.credentials import without_secrets

DIGEST = "d" * 64
LONG = st.sampled_from(["", "a", "ü", "\u0001", '"', "\\", "𝔸", "word "]).flatmap(
    lambda one: st.integers(0, 6000).map(lambda times: one * times)
)


def report(names: list[str], outcome: Outcome) -> ReportFacts:
    gates = tuple(GateFacts(name=name, outcome=outcome, value="0.123456") for name in names)
    return ReportFacts(digest=DIGEST, verdict=Verdict.Failed, recoveryPercent="99.1", gates=gates)


@settings(max_examples=25)
@example("\u0001" * 2000, "\u0001" * 2000, "\u0001" * 2000, 13, 43, Outcome.Failed)
@given(
    message=LONG,
    subject=LONG,
    uri=LONG,
    gates=st.integers(0, 60),
    width=st.integers(1, 253),
    outcome=st.sampled_from(list(Outcome)),
)
def test_a_result_fits_whatever_it_holds(
    message: str, subject: str, uri: str, gates: int, width: int, outcome: Outcome
) -> None:
    result = StageResult(
        stage="validate",
        failure=Failure(reason="GateFailed", subject=subject, message=message),
        report=report([f"{index}".ljust(width, "ü") for index in range(gates)], outcome),
        source=SourceFacts(revision=uri, digest=DIGEST, work="w" * 32),
        plan=PlanFacts(
            digest=DIGEST,
            method=Method.Calibrated,
            recipe=subject,
            sourceRevision=uri,
            sizeBytes=2**60,
            memoryBytes=2**60,
            shards=2**60,
        ),
        statisticsDigest=DIGEST,
        checkpoint=CheckpointFacts(digest=DIGEST, sizeBytes=2**60),
        artifact=ArtifactFacts(uri=uri, digest=DIGEST, sizeBytes=2**60),
    )

    data = result.to_bytes()

    assert len(data) <= MAX_RESULT_BYTES
    found = StageResult.model_validate_json(data)
    assert found.failure is not None
    assert found.failure.reason == "GateFailed"
    assert found.report is not None
    assert found.report.digest == DIGEST
    assert (found.failure.message == message) is not ("the pod's log" in found.failure.message)
    kept = 320 // (6 if "\u0001" in message else 4)
    assert found.failure.message[:kept] == message[:kept]


def test_gates_that_passed_go_before_anything_is_cut() -> None:
    failing = GateFacts(name="tokens", outcome=Outcome.Failed, value="0.5")
    many = report([f"one-of-many-gates-{index}" for index in range(60)], Outcome.Passed)
    mixed = many.model_copy(update={"gates": (*many.gates, failing)})
    failure = Failure(reason="GateFailed", subject="tokens", message="t" * 300)

    found = StageResult.model_validate_json(
        StageResult(stage="validate", failure=failure, report=mixed).to_bytes()
    )

    assert found.failure == failure
    assert found.report is not None
    assert found.report.gates == (failing,)


@pytest.mark.parametrize(
    ("error", "reason", "words"),
    [
        (RefusedInput(Reason.SourceNotFound, "s", "There is none."), "SourceNotFound", "none"),
        (KeyboardInterrupt(), "Interrupted", "finished shards are kept"),
        (MemoryError(), "TooLittleMemory", "resources.limits.memory"),
        (ModuleNotFoundError("x", name="boto3"), "MissingDependency", "'boto3'"),
        (OSError(errno.ENOSPC, "No space left", "/w/x"), "OutOfSpace", "'/w/x': No space left"),
        (OSError(errno.EIO, "I/O error", "/w/\udcff"), "StorageFailed", "I/O error"),
        (click.exceptions.Exit(2), "InternalError", "exit code 2"),
        (ZeroDivisionError("of something"), "InternalError", "ZeroDivisionError"),
    ],
)
def test_every_end_has_a_reason_and_a_sentence(
    error: BaseException, reason: str, words: str, tmp_path: Path
) -> None:
    (tmp_path / "checkpoint.json").write_text("half of")  # what was being written

    found = StageResult.model_validate_json(failed("quantize", tmp_path, error).to_bytes())

    assert found.failure is not None
    assert found.failure.reason == reason
    assert words in found.failure.message
    assert found.failure.message.endswith((".", "meanwhile."))


def test_what_nobody_foresaw_is_no_failed_check(capsys: pytest.CaptureFixture[str]) -> None:
    """Python's own exit code for it is that of a failed check, after which nothing is tried."""
    known: list[Exception] = [
        CheckFailed(Reason.GateFailed, "g", "m"),
        OSError(1, "x"),
        click.exceptions.Exit(1),
    ]
    assert [foreseen("plan", error) for error in known] == known
    assert capsys.readouterr().err == ""

    told = foreseen("plan", ZeroDivisionError("of something"))

    assert isinstance(told, EnvironmentFault)
    assert told.reason is Reason.InternalError
    assert "ZeroDivisionError: of something" in capsys.readouterr().err


def test_no_secret_that_was_given_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    token, secret, line = "hf_" + "x" * 20, "s3cr3t/+" * 4, "MIGHAgEAMBMGByqGSM49AgEG"
    monkeypatch.setenv("HALFTONE_CREDENTIALS_PUBLISH", f"{token}\n")
    monkeypatch.setenv(
        "HALFTONE_CREDENTIALS_WORK", f"[default]\naws_secret_access_key = {secret}\n"
    )
    monkeypatch.setenv("HALFTONE_CREDENTIALS_SIGNING_KEY", f"-----BEGIN KEY-----\n{line}\n")
    text = f"{token} {secret} {line} default"

    assert without_secrets(text) == "*** *** *** default"
    error = HalftoneError(Reason.InternalError, "s", text)
    assert b"***" in failed("plan", tmp_path, error).to_bytes()
    foreseen("plan", ValueError(text))
    for repeats in (RefusedInput(Reason.InvalidJob, text, text), OSError(5, text, text)):
        raised = foreseen("plan", repeats)
        assert isinstance(raised, HalftoneError)
        assert type(raised) in (RefusedInput, EnvironmentFault)
        assert "***" in raised.message
        assert not [one for one in (token, secret, line) if one in raised.subject + raised.message]
    told = failed("plan", tmp_path, error).to_bytes().decode() + capsys.readouterr().err
    assert not [one for one in (token, secret, line) if one in told]
