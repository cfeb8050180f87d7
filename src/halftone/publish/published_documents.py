"""The documents of a published artifact, held against each other and against its list of files.

Called by `halftone.publish.verifying`. Who can write `artifact.json` anew can state any digest in
it; here each field is compared with the document that it comes from, and each file with the
document that names it.
"""

from typing import Final, NamedTuple, NoReturn

from halftone.publish.permission import first_disagreement
from halftone.publish.provenance import stated_digests, subjects
from halftone.publish.reading import ArtifactReader
from halftone.spec.artifacts import Artifact
from halftone.spec.documents import CheckpointDocument, Plan, WrittenFile
from halftone.spec.errors import CheckFailed
from halftone.spec.names import (
    ARTIFACT_DOCUMENTS,
    ARTIFACT_FILE,
    CHECKPOINT_FILE,
    MODEL_CARD,
    PLAN_FILE,
    PROVENANCE_FILE,
    REPORT_FILE,
    Reason,
)
from halftone.spec.reports import Report

# Files that no document lists, because they are documents or made after all of them.
_BESIDE: Final = ARTIFACT_DOCUMENTS | {MODEL_CARD}


class PublishedDocuments(NamedTuple):
    """What an artifact was made from, and what was measured."""

    plan: Plan
    checkpoint: CheckpointDocument
    report: Report


def read_documents(reader: ArtifactReader) -> PublishedDocuments:
    """Plan, checkpoint and report, once they belong together and account for every file.

    Raises CheckFailed(DigestDiffers) with the first document or file that does not fit.
    """
    artifact = reader.artifact
    plan = reader.document(Plan, PLAN_FILE)
    checkpoint = reader.document(CheckpointDocument, CHECKPOINT_FILE)
    report = reader.document(Report, REPORT_FILE)
    found = first_disagreement(plan, checkpoint, report)
    if found is not None:
        _differs(found.subject, f"does not belong to the other documents ({found.how})")
    report_digest = {file.path: file.sha256 for file in artifact.files}[REPORT_FILE]
    stated = {
        "checkpointDigest": (artifact.checkpointDigest, checkpoint.digest),
        "planDigest": (artifact.planDigest, plan.digest),
        "reportDigest": (artifact.reportDigest, report_digest),
        "verdict": (artifact.verdict, report.verdict),
    }
    for field, (says, is_) in stated.items():
        if says != is_:
            _differs(ARTIFACT_FILE, f"was edited (`{field}` is not what documents say)")
    documents = PublishedDocuments(plan, checkpoint, report)
    _require_accounted(artifact, documents)
    _require_provenance(reader, checkpoint)
    return documents


def _require_accounted(artifact: Artifact, documents: PublishedDocuments) -> None:
    """Every file must be one that a document names, and be the one that it names."""
    listed = {file.path: file for file in artifact.files}
    named = [*subjects(documents.checkpoint), *documents.report.evidence]
    for file in named:
        if file.path not in listed:
            _differs(file.path, f"is missing from {ARTIFACT_FILE}, although a document names it")
        if listed[file.path] != file:
            _differs(file.path, f"is not the file of {CHECKPOINT_FILE} or {REPORT_FILE}")
    for path in sorted(listed.keys() - {file.path for file in named} - _BESIDE):
        _differs(path, "is a file that no document of the artifact names")
    if MODEL_CARD not in listed:
        _differs(MODEL_CARD, f"is missing from {ARTIFACT_FILE}")


def _require_provenance(reader: ArtifactReader, checkpoint: CheckpointDocument) -> None:
    """The statement must be about these files: all of the checkpoint, and what lies beside."""
    try:
        stated = stated_digests(reader.content(PROVENANCE_FILE))
    except ValueError as error:
        raise CheckFailed(
            Reason.DigestDiffers,
            PROVENANCE_FILE,
            f"'{PROVENANCE_FILE}' is not a statement of provenance; do not use this artifact.",
        ) from error
    listed = {file.path: file.sha256 for file in reader.artifact.files}
    if stated["subject"] != _by_path(subjects(checkpoint)):
        _differs(PROVENANCE_FILE, f"is about other files than those of {CHECKPOINT_FILE}")
    for path, sha256 in stated["byproducts"].items():
        if listed.get(path) != sha256:
            _differs(PROVENANCE_FILE, f"names another '{path}' than the one that is there")


def _by_path(files: tuple[WrittenFile, ...]) -> dict[str, str]:
    return {file.path: file.sha256 for file in files}


def _differs(path: str, how: str) -> NoReturn:
    raise CheckFailed(
        Reason.DigestDiffers, path, f"'{path}' {how}; do not use this artifact, fetch it again."
    )
