"""The documents of a published artifact, held against each other and against its list of files.

Called by `halftone.publish.verifying`. Who can write `artifact.json` anew can state any digest in
it; here each field is compared with the document that it comes from, and each file with the
document that names it.
"""

from typing import Final, NamedTuple, NoReturn

from halftone.publish.calibration import DOCUMENT_PATH, first_flaw, published_tensors
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
from halftone.spec.statistics import StatisticsDocument

# Files that no document lists, because they are documents or made after all of them.
_BESIDE: Final = ARTIFACT_DOCUMENTS | {MODEL_CARD}


class PublishedDocuments(NamedTuple):
    """What an artifact was made from, and what was measured; `statistics` only if calibrated."""

    plan: Plan
    checkpoint: CheckpointDocument
    report: Report
    statistics: StatisticsDocument | None


def read_documents(reader: ArtifactReader) -> PublishedDocuments:
    """All documents, once they belong together and account for every file.

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
    statistics = _statistics(reader, plan, checkpoint, report)
    documents = PublishedDocuments(plan, checkpoint, report, statistics)
    _require_accounted(artifact, documents)
    _require_provenance(reader, documents)
    return documents


def _statistics(
    reader: ArtifactReader, plan: Plan, checkpoint: CheckpointDocument, report: Report
) -> StatisticsDocument | None:
    if checkpoint.statisticsDigest is None:
        return None
    statistics = reader.document(StatisticsDocument, DOCUMENT_PATH)
    found = first_flaw(statistics, plan, checkpoint, report)
    if found is not None:
        _differs(found.subject, f"does not belong to the other documents ({found.how})")
    return statistics


def _calibration(documents: PublishedDocuments) -> list[WrittenFile]:
    """The files of statistics that a document names: not the document itself."""
    return [] if documents.statistics is None else [published_tensors(documents.statistics)]


def _require_accounted(artifact: Artifact, documents: PublishedDocuments) -> None:
    """Every file must be one that a document names, and be the one that it names."""
    listed = {file.path: file for file in artifact.files}
    named = [*subjects(documents.checkpoint), *documents.report.evidence, *_calibration(documents)]
    beside = _BESIDE if documents.statistics is None else _BESIDE | {DOCUMENT_PATH}
    for file in named:
        if file.path not in listed:
            _differs(file.path, f"is missing from {ARTIFACT_FILE}, although a document names it")
        if listed[file.path] != file:
            _differs(file.path, "is not the file that a document of the artifact names")
    for path in sorted(listed.keys() - {file.path for file in named} - beside):
        _differs(path, "is a file that no document of the artifact names")
    if MODEL_CARD not in listed:
        _differs(MODEL_CARD, f"is missing from {ARTIFACT_FILE}")


def _require_provenance(reader: ArtifactReader, documents: PublishedDocuments) -> None:
    """The statement must be about these files: all of the checkpoint, and what lies beside."""
    checkpoint = documents.checkpoint
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
    for path, sha256 in {**stated["byproducts"], **stated["dependencies"]}.items():
        if listed.get(path) != sha256:
            _differs(PROVENANCE_FILE, f"names another '{path}' than the one that is there")
    if documents.statistics is not None and DOCUMENT_PATH not in stated["dependencies"]:
        _differs(PROVENANCE_FILE, f"does not name '{DOCUMENT_PATH}'")


def _by_path(files: tuple[WrittenFile, ...]) -> dict[str, str]:
    return {file.path: file.sha256 for file in files}


def _differs(path: str, how: str) -> NoReturn:
    raise CheckFailed(
        Reason.DigestDiffers, path, f"'{path}' {how}; do not use this artifact, fetch it again."
    )
