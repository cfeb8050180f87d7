"""Documents: canonical, written whole or not at all, and refused when they are not ours."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from halftone.quantize.sweep.document import SweepDocument
from halftone.spec.artifacts import Artifact
from halftone.spec.capacity import CapacityCard
from halftone.spec.documents import (
    CheckpointDocument,
    Document,
    Method,
    Notice,
    Plan,
    Resources,
    canonical_json,
    write_atomically,
)
from halftone.spec.errors import EnvironmentFault, RefusedInput
from halftone.spec.names import Reason, WarningReason
from halftone.spec.reports import Report, Verdict
from halftone.spec.statistics import StatisticsDocument
from halftone.validate.findings import Inspection

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
ARTIFACT = Artifact(
    digest="",
    uri="out",
    revision=None,
    checkpointDigest="a" * 64,
    planDigest="b" * 64,
    reportDigest="c" * 64,
    verdict=Verdict.Passed,
    sizeBytes=1,
    signature=None,
    manifestDigest="d" * 64,
    files=(),
).sealed()


@given(JSON)
def test_canonical_json_reads_back_and_does_not_depend_on_order(value: object) -> None:
    data = canonical_json(value)

    assert json.loads(data) == value
    assert canonical_json(json.loads(data)) == data
    assert data.endswith(b"\n")
    if isinstance(value, dict):
        assert canonical_json(dict(reversed(value.items()))) == data


def test_a_document_reads_back_as_it_was(tmp_path: Path) -> None:
    ARTIFACT.save(tmp_path / "deep" / "artifact.json")

    assert Artifact.load(tmp_path / "deep" / "artifact.json") == ARTIFACT
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["artifact.json"]


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"{}", b'{"kind": "Plan"}', b"\xff"])
def test_what_is_no_document_is_refused_by_its_name(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "artifact.json"
    path.write_bytes(data)

    with pytest.raises(RefusedInput) as refused:
        Artifact.load(path)

    assert refused.value.reason is Reason.WorkdirInconsistent
    assert f"'{path}' is not an artifact.json of this version" in refused.value.message


def test_an_unknown_field_is_refused(tmp_path: Path) -> None:
    document = json.loads(ARTIFACT.to_bytes()) | {"signedBy": "nobody"}
    (tmp_path / "artifact.json").write_text(json.dumps(document))

    with pytest.raises(RefusedInput):
        Artifact.load(tmp_path / "artifact.json")


def test_one_kind_of_document_is_not_read_as_another(tmp_path: Path) -> None:
    ARTIFACT.save(tmp_path / "checkpoint.json")

    with pytest.raises(RefusedInput, match=r"is not a checkpoint\.json of this"):
        CheckpointDocument.load(tmp_path / "checkpoint.json")


@pytest.mark.parametrize(
    ("document", "command"),
    [
        (Plan, "stage plan"),
        (StatisticsDocument, "stage calibrate"),
        (CheckpointDocument, "stage quantize"),
        (Report, "stage validate"),
        (Artifact, "stage publish"),
        (CapacityCard, "stage validate"),
        (SweepDocument, "sweep"),
        (Inspection, "inspect"),
    ],
)
def test_an_absent_document_is_refused_with_the_command_that_writes_it(
    document: type[Document], command: str, tmp_path: Path
) -> None:
    with pytest.raises(RefusedInput) as refused:
        document.load(tmp_path / "absent.json")

    assert refused.value.message == (
        f"'{tmp_path / 'absent.json'}' is not there; `halftone {command}` writes it."
    )


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {"a": [float("-inf")]}])
def test_numbers_that_json_cannot_say_are_not_written(value: object) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json(value)


def test_a_plan_without_its_own_digest_is_refused(tmp_path: Path) -> None:
    sealed = plan(digest=plan().compute_digest())
    sealed.save(tmp_path / "sealed.json")
    sealed.model_copy(update={"architecture": "llama"}).save(tmp_path / "edited.json")

    assert Plan.load(tmp_path / "sealed.json") == sealed
    with pytest.raises(RefusedInput, match="was changed after it was planned"):
        Plan.load(tmp_path / "edited.json")


def test_a_write_that_fails_leaves_the_old_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    write_atomically(path, b"old")
    (tmp_path / ".plan.json.partial").mkdir()  # in the way of the new one

    with pytest.raises(OSError, match="directory"):
        write_atomically(path, b"new")

    assert path.read_bytes() == b"old"


def plan(**changes: object) -> Plan:
    base = Plan(
        digest="",
        architecture="qwen3",
        method=Method.DataFree,
        source=None,
        recipe=None,
        output=None,
        roles=(),
        groups=(),
        sizes=None,
        resources=None,
        warnings=(),
        refusal=None,
    )
    return base.model_copy(update=changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"digest": "other"},
        {"resources": Resources(peakMemoryBytes=1, diskBytes=2, expectedSeconds=3)},
        {"warnings": (Notice(reason=WarningReason.LicenceMissing, subject="a", message="b"),)},
    ],
)
def test_what_decides_no_byte_is_outside_the_digest_of_a_plan(changes: dict[str, object]) -> None:
    assert plan(**changes).compute_digest() == plan().compute_digest()


@pytest.mark.parametrize("changes", [{"architecture": "llama"}, {"method": Method.Calibrated}])
def test_what_decides_bytes_is_inside_the_digest_of_a_plan(changes: dict[str, object]) -> None:
    assert plan(**changes).compute_digest() != plan().compute_digest()


def test_errors_carry_a_reason_a_subject_and_an_exit_code() -> None:
    error = EnvironmentFault(Reason.OutOfSpace, "disk", "The disk is full; free some space.")

    assert (error.reason, error.subject, error.exit_code) == (Reason.OutOfSpace, "disk", 3)
    assert str(error) == error.message
