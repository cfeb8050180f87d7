"""The tree that is published: links to the work directory's files, card, provenance and signature.

    report = require_publishable(workdir / REPORT_FILE, digest, plan, checkpoint)
    prepared = prepare(workdir, plan, checkpoint, report, card, key)
    target.publish(prepared.tree, prepared.artifact, publish.existing, progress)

`WORKDIR/artifact` is made once and taken again by the next run as long as it holds what that run
would put there. So a resumed upload goes on with the same bytes, although every signature by the
same key over the same files is a different one. Called by the stage.
"""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from halftone.checkpoint.digests import file_sha256
from halftone.publish.calibration import DOCUMENT_PATH, own_statistics, published_tensors
from halftone.publish.capacity_cards import require_card, signature_path
from halftone.publish.keys import read_signing_key
from halftone.publish.permission import require_agreement
from halftone.publish.provenance import provenance
from halftone.publish.tree import Content, build, is_reusable, refuse_changed
from halftone.spec.artifacts import Artifact, manifest_digest
from halftone.spec.documents import (
    CheckpointDocument,
    Plan,
    WrittenFile,
    sha256_hex,
)
from halftone.spec.errors import CheckFailed, EnvironmentFault, RefusedInput
from halftone.spec.names import (
    ARTIFACT_DOCUMENTS,
    ARTIFACT_FILE,
    CAPACITY_DIRECTORY,
    CHECKPOINT_DIRECTORY,
    CHECKPOINT_FILE,
    MODEL_CARD,
    PLAN_FILE,
    PROVENANCE_FILE,
    REPORT_FILE,
    REPORT_PAGE,
    SIGNATURE_FILE,
    STATISTICS_FILE,
    STATISTICS_TENSORS,
    Reason,
)
from halftone.spec.reports import Report

TREE: Final = "artifact"
_RESERVED: Final = ARTIFACT_DOCUMENTS | {ARTIFACT_FILE}


@dataclass(frozen=True, slots=True)
class Prepared:
    """A tree that can be published, and the draft of its `artifact.json`.

    The target fills in `uri` and `revision` and seals it. `cards` are paths in `tree` of capacity
    cards and their signatures, which `artifact.files` leaves out.
    """

    tree: Path
    artifact: Artifact
    cards: tuple[str, ...]


def prepare(
    workdir: Path,
    plan: Plan,
    checkpoint: CheckpointDocument,
    report: Report,
    card: bytes,
    key: Path | None,
) -> Prepared:
    """Make `WORKDIR/artifact`, or take the one that is there; every file is read and hashed.

    `report` is what `require_publishable` returned, `card` the model card, `key` a private key.
    Raises RefusedInput(WorkdirInconsistent) for documents that do not belong together,
    RefusedInput(KeyUnusable), CheckFailed(DigestDiffers) for a file that is not the one that was
    written, CheckFailed(ReportChanged), EnvironmentFault for a disk that is full. Nothing but the
    tree is written, and that under a temporary name first.
    """
    signing_key = None if key is None else read_signing_key(key)
    require_agreement(plan, checkpoint, report)
    with _storage_errors(workdir):
        contents = _contents(workdir, plan, checkpoint, report, card)
        cards = _cards(workdir, checkpoint)
        tree = workdir / TREE
        if not is_reusable(tree, contents, cards, signing_key):
            build(tree, contents, cards, signing_key)
        files = [content.written for content in contents.values()]
        if signing_key is not None:
            files.append(_written(tree / SIGNATURE_FILE, SIGNATURE_FILE))
    listed = tuple(sorted(files, key=lambda file: file.path))
    draft = Artifact(
        digest="",
        uri="",
        revision=None,
        checkpointDigest=checkpoint.digest,
        planDigest=plan.digest,
        reportDigest=report.digest,
        verdict=report.verdict,
        sizeBytes=sum(file.sizeBytes for file in listed),
        signature=None if signing_key is None else SIGNATURE_FILE,
        manifestDigest=manifest_digest(listed),
        files=listed,
    )
    beside = [path for card in cards for path in (card, signature_path(card))]
    return Prepared(tree, draft, tuple(p for p in beside if (tree / p).is_file()))


def listed_bytes(folder: Path, file: WrittenFile) -> bytes:
    """The content of the small `file` below `folder`, which must be the one that is listed.

    Raises CheckFailed(DigestDiffers), and what `prepare` raises for a file that cannot be read.
    """
    with _storage_errors(folder):
        data = (folder / file.path).read_bytes()
    if sha256_hex(data) != file.sha256:
        refuse_changed(file.path, "its SHA-256")
    return data


def _contents(
    workdir: Path, plan: Plan, checkpoint: CheckpointDocument, report: Report, card: bytes
) -> dict[str, Content]:
    """Every file of the artifact by its path, but signature and `artifact.json`."""
    contents = {}
    for file in checkpoint.files:
        _refuse_reserved(file.path)
        if file.path != MODEL_CARD:
            contents[file.path] = Content(file, workdir / CHECKPOINT_DIRECTORY / file.path)
    beside = [_written(workdir / n, n) for n in (PLAN_FILE, CHECKPOINT_FILE, REPORT_FILE)]
    _refuse_another_report(report, beside[-1])
    if (workdir / REPORT_PAGE).is_file():
        beside.append(_written(workdir / REPORT_PAGE, REPORT_PAGE))
    for file in report.evidence:
        _refuse_elsewhere(file.path)
        beside.append(file)
    contents |= {file.path: Content(file, workdir / file.path) for file in beside}
    measured = _measured(workdir, plan, checkpoint, report)
    contents |= {content.written.path: content for content in measured}
    made = {MODEL_CARD: card}
    stated = [*beside, _described(MODEL_CARD, card)]
    made[PROVENANCE_FILE] = provenance(
        plan, checkpoint, report, stated, [content.written for content in measured]
    )
    return contents | {path: Content(_described(path, d), d) for path, d in made.items()}


def _measured(
    workdir: Path, plan: Plan, checkpoint: CheckpointDocument, report: Report
) -> list[Content]:
    """The statistics that a calibrated checkpoint was made with, and their tensors."""
    statistics = own_statistics(workdir, plan, checkpoint, report)
    if statistics is None:
        return []
    document = _written(workdir / STATISTICS_FILE, DOCUMENT_PATH)
    tensors = published_tensors(statistics)
    return [
        Content(document, workdir / STATISTICS_FILE),
        Content(tensors, workdir / STATISTICS_TENSORS),
    ]


def _cards(workdir: Path, checkpoint: CheckpointDocument) -> dict[str, bytes]:
    """The capacity cards of the work directory by their path in the artifact."""
    folder = workdir / CAPACITY_DIRECTORY
    found = {}
    for path in sorted(folder.glob("*.json")) if folder.is_dir() else ():
        name = f"{CAPACITY_DIRECTORY}/{path.name}"
        found[name] = path.read_bytes()
        require_card(name, found[name], checkpoint.digest)
    return found


def _written(path: Path, name: str) -> WrittenFile:
    return WrittenFile(path=name, sizeBytes=path.stat().st_size, sha256=file_sha256(path))


def _described(name: str, data: bytes) -> WrittenFile:
    return WrittenFile(path=name, sizeBytes=len(data), sha256=sha256_hex(data))


def _refuse_another_report(report: Report, file: WrittenFile) -> None:
    if file.sha256 != report.digest:
        raise CheckFailed(
            Reason.ReportChanged,
            REPORT_FILE,
            f"{REPORT_FILE} is not the report that opened publishing, so nothing is published: it "
            "was edited meanwhile; run `halftone validate` and use the digest that it prints.",
        )


def _refuse_reserved(name: str) -> None:
    if name in _RESERVED or "/" in name:
        raise RefusedInput(
            Reason.WorkdirInconsistent,
            name,
            f"The checkpoint holds '{name}', which is the name of a document of the artifact; "
            "remove that file from the source and quantize again in a new work directory.",
        )


def _refuse_elsewhere(name: str) -> None:
    place = PurePosixPath(name)
    if place.is_absolute() or ".." in place.parts or len(place.parts) < 2:
        raise RefusedInput(
            Reason.WorkdirInconsistent,
            REPORT_FILE,
            f"{REPORT_FILE} names '{name}' as evidence, which is not in a directory of the work "
            "directory; run `halftone validate` again.",
        )


@contextmanager
def _storage_errors(workdir: Path) -> Iterator[None]:
    """Translate what the operating system says about files of the work directory."""
    try:
        yield
    except FileNotFoundError as error:
        raise RefusedInput(
            Reason.WorkdirInconsistent,
            str(error.filename),
            f"'{error.filename}' is not there, although a document of '{workdir}' names it; run "
            "the stage that writes it again.",
        ) from error
    except OSError as error:
        full = error.errno in {errno.ENOSPC, errno.EDQUOT}
        raise EnvironmentFault(
            Reason.OutOfSpace if full else Reason.StorageFailed,
            str(workdir),
            f"'{workdir / TREE}' could not be made ({error.strerror or error}); "
            f"{'free some space' if full else 'mend this'} and run the same command again.",
        ) from error
