"""What `halftone verify` finds when changed files were sealed again, and what may be required.

A forger has everything but the private key: every document can be written anew, every digest too.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from halftone.publish.keys import generate_key
from halftone.publish.provenance import provenance
from halftone.spec.documents import CheckpointDocument, Plan
from halftone.spec.reports import Report, Verdict
from tests.artifacts import (
    REAL,
    Work,
    flip,
    found,
    publish,
    reseal,
    verified,
    work_directory,
    written,
)


@pytest.fixture
def unsigned(work: Work, tmp_path: Path) -> Path:
    """The same without signature and card."""
    target = publish(work, tmp_path / "small")
    shutil.rmtree(target / "capacity")
    return target


def test_an_artifact_that_was_sealed_again_does_not_have_its_signature(
    artifact: Path, key: Path
) -> None:
    flip(artifact / "model-00001-of-00003.safetensors", -1)
    reseal(artifact)

    for with_key in (key, None):
        shown = found(artifact, with_key)
        assert (shown["reason"], shown["subject"]) == (
            "SignatureInvalid",
            "model-00001-of-00003.safetensors",
        )


def test_a_signature_that_was_taken_away_is_missed_by_whoever_has_the_key(
    artifact: Path, key: Path
) -> None:
    (artifact / "model.sig").unlink()
    reseal(artifact)

    shown = found(artifact, key)

    assert (shown["reason"], shown["subject"]) == ("SignatureInvalid", "model.sig")
    assert verified(artifact, None).code == 0  # nobody can tell this from an unsigned one


def test_an_edited_report_that_was_sealed_again_is_found(artifact: Path, key: Path) -> None:
    report = json.loads((artifact / "report.json").read_bytes())
    report["verdict"] = "Passed"
    (artifact / "report.json").write_text(json.dumps(report))
    reseal(artifact)

    assert found(artifact, key)["subject"] == "report.json"


def test_even_unsigned_an_edited_report_contradicts_the_provenance(unsigned: Path) -> None:
    report = json.loads((unsigned / "report.json").read_bytes())
    report["verdict"] = "Passed"
    (unsigned / "report.json").write_text(json.dumps(report))
    reseal(unsigned)

    shown = found(unsigned, None)

    assert shown["subject"] == "provenance.json"
    assert "names another 'report.json'" in shown["message"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("verdict", Verdict.Passed),
        ("checkpointDigest", "0" * 64),
        ("planDigest", "0" * 64),
        ("reportDigest", "0" * 64),
        ("sizeBytes", 1),
        ("manifestDigest", "0" * 64),
        ("signature", "model.sig"),
    ],
)
def test_no_field_of_the_artifacts_document_is_believed(
    field: str, value: Any, unsigned: Path
) -> None:
    reseal(unsigned, **{field: value})

    shown = found(unsigned, None)

    assert shown["subject"] == "artifact.json"


def test_where_an_artifact_was_published_does_not_bind_it(unsigned: Path) -> None:
    reseal(unsigned, uri="s3://elsewhere/small", revision="main")

    assert verified(unsigned, None).code == 0


def test_a_sealed_file_that_no_document_names_is_found(unsigned: Path) -> None:
    (unsigned / "modeling_evil.py").write_text("print('hello')")
    reseal(unsigned)

    shown = found(unsigned, None)

    assert shown["subject"] == "modeling_evil.py"
    assert "no document of the artifact names" in shown["message"]


def test_a_weight_that_was_sealed_again_is_not_the_checkpoints(unsigned: Path) -> None:
    flip(unsigned / "model-00003-of-00003.safetensors", -1)
    reseal(unsigned)

    shown = found(unsigned, None)

    assert shown["subject"] == "model-00003-of-00003.safetensors"


def test_no_artifact_is_named_as_such(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")

    shown = found(tmp_path, None)

    assert (shown["subject"], shown["reason"]) == ("artifact.json", "DigestDiffers")


def test_a_place_that_is_not_there_is_refused(tmp_path: Path) -> None:
    assert verified(tmp_path / "none", None).code == 2


@pytest.mark.parametrize("damage", ["another checkpoint", "another name", "edited", "no signature"])
def test_a_forged_capacity_card_is_found(damage: str, artifact: Path, key: Path) -> None:
    (card,) = (artifact / "capacity").glob("*.json")
    data = card.read_bytes()
    match damage:
        case "another checkpoint":
            digest = json.loads(data)["checkpointDigest"].encode()
            card.write_bytes(data.replace(digest, b"0" * 64))
        case "another name":
            card.rename(card.with_name("nvidia-h200-vllm-tp1-000000000000.json"))
            card = card.with_name("nvidia-h200-vllm-tp1-000000000000.json")
        case "edited":
            card.write_bytes(data.replace(b'"kvBlocks":1000', b'"kvBlocks":9000'))
        case "no signature":
            card.with_name(card.name + ".sig").unlink()

    subject = found(artifact, key)["subject"]

    assert subject.startswith("capacity/")
    if damage != "another name":
        assert subject == f"capacity/{card.name}"


def test_a_card_that_another_key_signed_is_found(
    artifact: Path, key: Path, work: Work, tmp_path: Path
) -> None:
    generate_key(tmp_path / "other")
    other = publish(work, tmp_path / "other-artifact", tmp_path / "other")
    shutil.rmtree(artifact / "capacity")
    shutil.copytree(other / "capacity", artifact / "capacity")

    shown = found(artifact, key)

    assert shown["reason"] == "SignatureInvalid"
    assert shown["subject"].startswith("capacity/")


def test_cards_may_come_later_and_go(artifact: Path, key: Path) -> None:
    shutil.rmtree(artifact / "capacity")

    assert verified(artifact, key).code == 0


@pytest.mark.parametrize(
    ("verdict", "platform", "word", "unmet"),
    [
        (Verdict.Emulated, None, "verdict", "the verdict Passed is required, and it is Emulated"),
        (Verdict.Unmeasured, None, "verdict", "required, and it is Unmeasured"),
        (Verdict.Passed, None, "platform", "no engine gate ran on any"),
        (Verdict.Passed, REAL, "verdict,platform", None),
        (Verdict.Passed, None, "verdict", None),
    ],
)
def test_a_requirement_is_met_or_named(
    verdict: Verdict, platform: Any, word: str, unmet: str | None, tmp_path: Path
) -> None:
    target = publish(work_directory(tmp_path, verdict=verdict, platform=platform), tmp_path / "a")

    assert verified(target, None).code == 0
    if unmet is None:
        assert verified(target, None, "--require", word).code == 0
        return
    shown = found(target, None, "--require", word)
    assert shown["reason"] == "RequirementNotMet"
    assert unmet in shown["message"].replace("The", "the", 1)


def test_an_emulated_platform_is_not_the_device(published: Path, key: Path) -> None:
    shown = found(published, key, "--require", "platform")

    assert "'cpu' emulated it" in shown["message"]


def test_a_required_signature_needs_one_and_the_key(
    published: Path, unsigned: Path, key: Path
) -> None:
    assert verified(published, key, "--require", "signature").code == 0
    assert (
        "give the publisher's public key"
        in found(published, None, "--require", "signature")["message"]
    )
    assert "is not signed" in found(unsigned, None, "--require", "signature")["message"]


def test_an_unsigned_artifact_verifies_and_says_so(unsigned: Path) -> None:
    ended = verified(unsigned, None)

    assert ended.code == 0
    assert "signature: none; anybody could have made this artifact" in ended.out


def test_an_unknown_requirement_is_refused(published: Path) -> None:
    ended = verified(published, None, "--require", "verdict,speed")

    assert ended.code == 2
    assert "`--require` does not know 'speed'; it takes signature, verdict, platform." in ended.err


def test_an_artifact_whose_gates_failed_should_not_exist(unsigned: Path) -> None:
    report = Report.load(unsigned / "report.json").model_copy(update={"verdict": Verdict.Failed})
    report.save(unsigned / "report.json")
    statement = provenance(
        Plan.load(unsigned / "plan.json"),
        CheckpointDocument.load(unsigned / "checkpoint.json"),
        report,
        [written("report.json", report.to_bytes())],
    )
    (unsigned / "provenance.json").write_bytes(statement)
    reseal(unsigned)

    assert found(unsigned, None)["reason"] == "VerdictNotPassed"
