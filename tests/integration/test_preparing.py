"""The tree that is published: what is in it, when it is taken again, and what is refused."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from halftone.publish.keys import generate_key
from halftone.publish.preparing import Prepared
from halftone.spec.documents import sha256_hex
from halftone.spec.errors import CheckFailed, HalftoneError, RefusedInput
from halftone.spec.names import Reason
from tests.artifacts import CARD, Work, work_directory, write_card
from tests.commands import files_of

# Not base64 of anything: PEM has the key in lines of 64 characters.
KEY_LINE = 1


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Work:
    return work_directory(tmp_path_factory.mktemp("made"))


@pytest.fixture
def work(made: Work, tmp_path: Path) -> Work:
    """A copy of `made` that a test may change."""
    shutil.copytree(made.directory, tmp_path / "work")
    return replace(made, directory=tmp_path / "work")


def names(prepared: Prepared) -> set[str]:
    return set(files_of(prepared.tree))


def refused(work: Work, key: Path | None = None) -> HalftoneError:
    """What `prepare` says; nothing of a tree may be left."""
    with pytest.raises((CheckFailed, RefusedInput)) as caught:
        work.prepare(key)
    left = [path.name for path in work.directory.iterdir() if "artifact" in path.name]
    assert left == []
    return caught.value


def test_the_tree_holds_the_checkpoint_and_every_document(work: Work) -> None:
    prepared = work.prepare()

    checkpoint = {file.path for file in work.made.document.files}
    assert names(prepared) == checkpoint | {
        "README.md",
        "checkpoint.json",
        "evidence/structure.json",
        "plan.json",
        "provenance.json",
        "report.html",
        "report.json",
    }
    assert (prepared.tree / "README.md").read_bytes() == CARD
    assert prepared.artifact.signature is None
    assert prepared.artifact.digest == ""  # a draft, which the target seals


def test_large_files_are_links(work: Work) -> None:
    prepared = work.prepare()

    for file in work.made.document.files:
        if file.path.endswith(".safetensors"):
            assert (prepared.tree / file.path).samefile(work.directory / "checkpoint" / file.path)


def test_the_draft_lists_exactly_the_files_of_the_tree(work: Work, key: Path) -> None:
    prepared = work.prepare(key)

    assert {file.path for file in prepared.artifact.files} == names(prepared)
    assert prepared.artifact.signature == "model.sig"
    assert prepared.artifact.sizeBytes == sum(map(len, files_of(prepared.tree).values()))


def test_capacity_cards_lie_beside_and_each_is_signed(work: Work, key: Path) -> None:
    card = write_card(work)

    prepared = work.prepare(key)

    assert prepared.cards == (f"capacity/{card.name}", f"capacity/{card.name}.sig")
    assert all((prepared.tree / path).is_file() for path in prepared.cards)
    assert not any("capacity" in file.path for file in prepared.artifact.files)


def test_an_unsigned_card_lies_beside_an_unsigned_artifact(work: Work) -> None:
    card = write_card(work)

    assert work.prepare().cards == (f"capacity/{card.name}",)


def test_the_next_run_takes_the_same_tree(work: Work, key: Path) -> None:
    write_card(work)
    first = work.prepare(key)
    before = files_of(first.tree), (first.tree / "model.sig").stat().st_ino

    second = work.prepare(key)

    assert second == first
    assert (files_of(second.tree), (second.tree / "model.sig").stat().st_ino) == before


@pytest.mark.parametrize("changed", ["card", "key", "unsigned", "cards", "damage", "extra"])
def test_another_input_or_a_damaged_tree_makes_it_anew(
    changed: str, work: Work, key: Path, tmp_path: Path
) -> None:
    first = work.prepare(key)
    signature = (first.tree / "model.sig").read_bytes()
    card = CARD
    match changed:
        case "card":
            card = CARD + b"more\n"
        case "key":
            generate_key(tmp_path / "other")
            key = tmp_path / "other"
        case "cards":
            write_card(work)
        case "damage":
            (first.tree / "model.sig").write_bytes(signature.replace(b"A", b"B", 1))
        case "extra":
            (first.tree / "notes.txt").write_text("mine")

    second = work.prepare(None if changed == "unsigned" else key, card)

    assert second.artifact != first.artifact
    assert not (second.tree / "notes.txt").exists()
    assert {file.path for file in second.artifact.files} | set(second.cards) == names(second)
    if changed != "unsigned":
        assert (second.tree / "model.sig").read_bytes() != signature


def test_what_an_interrupted_run_left_is_no_tree(work: Work) -> None:
    partial = work.directory / ".artifact.partial"
    partial.mkdir()
    (partial / "half").write_text("half")

    prepared = work.prepare()

    assert "half" not in names(prepared)
    assert not partial.exists()


def test_the_tree_of_another_disk_holds_copies(made: Work, tmp_path: Path, key: Path) -> None:
    memory = Path("/dev/shm")
    if not memory.is_dir() or memory.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("no second file system here")
    shutil.copytree(made.directory, tmp_path / "work")
    elsewhere = memory / f"halftone-{os.getpid()}"
    shutil.copytree(tmp_path / "work" / "checkpoint", elsewhere)
    try:
        shutil.rmtree(tmp_path / "work" / "checkpoint")
        (tmp_path / "work" / "checkpoint").symlink_to(elsewhere)

        prepared = replace(made, directory=tmp_path / "work").prepare(key)

        weights = next(prepared.tree.glob("*.safetensors"))
        assert not weights.is_symlink()
        assert weights.stat().st_dev == tmp_path.stat().st_dev
    finally:
        shutil.rmtree(elsewhere)


@pytest.mark.parametrize("name", ["model-00001-of-00003.safetensors", "tokenizer.json"])
def test_a_checkpoint_that_was_changed_is_not_prepared(name: str, work: Work, key: Path) -> None:
    path = work.directory / "checkpoint" / name
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)

    error = refused(work, key)

    assert (error.reason, error.subject) == (Reason.DigestDiffers, name)
    assert f"'{name}' of the work directory is not the file that was written" in error.message


def test_a_checkpoint_that_changes_after_it_was_prepared_is_noticed(work: Work) -> None:
    work.prepare()
    path = work.directory / "checkpoint" / "model-00001-of-00003.safetensors"
    with path.open("r+b") as file:  # in place: the tree's link shows the same change
        file.seek(-1, os.SEEK_END)
        file.write(b"?")

    with pytest.raises(CheckFailed, match="model-00001-of-00003"):
        work.prepare()


def test_a_missing_file_is_named(work: Work) -> None:
    (work.directory / "checkpoint" / "config.json").unlink()

    error = refused(work)

    assert error.reason is Reason.WorkdirInconsistent
    assert "config.json' is not there" in error.message


def test_evidence_that_was_edited_is_not_prepared(work: Work) -> None:
    (work.directory / "evidence" / "structure.json").write_text('{"checked": 43}\n')

    assert refused(work).subject == "evidence/structure.json"


@pytest.mark.parametrize("path", ["../outside.json", "/etc/hostname", "top.json"])
def test_evidence_lies_in_the_work_directory(path: str, work: Work) -> None:
    row = work.report.evidence[0].model_copy(update={"path": path})
    report = work.report.model_copy(update={"evidence": (row,)})
    report.save(work.directory / "report.json")

    error = refused(replace(work, report=report))

    assert error.reason is Reason.WorkdirInconsistent
    assert f"names '{path}' as evidence" in error.message


def test_a_report_that_was_edited_since_it_opened_publishing_is_not_prepared(work: Work) -> None:
    edited = (work.directory / "report.json").read_bytes().replace(b"Emulated", b"Passed")
    (work.directory / "report.json").write_bytes(edited)

    assert refused(work).reason is Reason.ReportChanged


def test_the_card_of_another_checkpoint_is_not_prepared(work: Work) -> None:
    path = write_card(work)
    path.write_bytes(path.read_bytes().replace(work.made.document.digest.encode(), b"0" * 64))

    assert "is the capacity card of another checkpoint" in refused(work).message


def test_a_file_with_the_name_of_a_document_is_refused(work: Work) -> None:
    files = work.made.document.files
    row = files[0].model_copy(update={"path": "model.sig"})
    document = work.made.document.model_copy(update={"files": (*files, row)})
    read = {"checkpointDocumentSha256": sha256_hex(document.to_bytes())}
    report = work.report.model_copy(update=read)
    work = replace(work, made=replace(work.made, document=document), report=report)

    assert "The checkpoint holds 'model.sig'" in refused(work).message


def test_the_private_key_is_in_no_file(work: Work, key: Path) -> None:
    write_card(work)
    secret = key.read_text().splitlines()[KEY_LINE].encode()

    work.prepare(key)

    assert all(secret not in data for data in files_of(work.directory).values())
