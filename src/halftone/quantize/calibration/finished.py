"""Whether a calibration is done already: finished statistics, held against plan, source and data.

Called by `calibrating` while it holds the lock of the output, and by the verb to read the document.
A calibration takes hours, so what is finished is returned; but never silently what was measured on
other weights or data, or edited. Nothing is removed here: who is refused is told what to remove.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NoReturn

from halftone.checkpoint.digests import file_sha256
from halftone.checkpoint.index import Checkpoint
from halftone.quantize.calibration.partial import storage_errors
from halftone.spec.calibration import Dataset
from halftone.spec.documents import canonical_json, sha256_hex
from halftone.spec.errors import EnvironmentFault, HalftoneError, RefusedInput
from halftone.spec.names import STATISTICS_FILE, STATISTICS_TENSORS, Reason
from halftone.spec.statistics import MeasuredData, StatisticsDocument
from halftone.stores.datasets import open_dataset

# Beside whatever is a fault of the surroundings: why data cannot be read now.
_AWAY = frozenset({Reason.AccessDenied, Reason.DatasetNotFound, Reason.SourceNotFound})


def source_stamp(checkpoint: Checkpoint) -> str | None:
    """What tells one content of the source's shards from another; None where the plan does it.

    A plan has the revision of its source: a commit, or the ETags of a bucket. A directory has none,
    and two fine-tunes of a model have equal headers; there each shard's size and time of change
    stand for it, as where results of gates are kept (`halftone.validate.source_files`).
    """
    source = checkpoint.source
    if source.revision is not None:
        return None
    stamps = []
    for shard in checkpoint.shards:
        path = source.local_path(shard.file)
        if path is not None:
            found = path.stat()
            stamps.append([shard.file, found.st_size, found.st_mtime_ns])
    return sha256_hex(canonical_json(stamps))


def rows(data: MeasuredData) -> dict[str, Any]:
    """What makes data the same, wherever they lie: the rows that were drawn, and their coders."""
    return data.model_dump(mode="json", include={"modality", "samples", "sha256", "coders"})


def earlier(output: Path, plan_digest: str, source: str | None) -> StatisticsDocument | None:
    """Whole statistics of this plan and source that lie in `output`; None where there are none.

    Raises RefusedInput for any others: OutputNotEmpty, or StatisticsDiffer where they were changed
    after they were written.
    """
    path = output / STATISTICS_FILE
    if not path.exists():
        return None
    document = load_statistics(path)
    if document.planDigest != plan_digest:
        _refuse(path, "holds statistics of another plan", Reason.OutputNotEmpty)
    if document.sourceStamp != source:
        _refuse(
            path,
            "was measured before the source's shards were written anew (their sizes or times of "
            "change differ)",
            Reason.OutputNotEmpty,
        )
    tensors = output / STATISTICS_TENSORS
    with storage_errors(output):
        whole = tensors.is_file() and file_sha256(tensors) == document.file.sha256
    if not whole:
        _refuse(
            tensors,
            f"is missing or is not the file that was written (its SHA-256 differs from "
            f"{STATISTICS_FILE})",
            Reason.OutputNotEmpty,
        )
    return document


def load_statistics(path: Path) -> StatisticsDocument:
    """The document as it was written. Raises RefusedInput, StatisticsDiffer where it was edited."""
    document = StatisticsDocument.load(path)
    if document.compute_digest() != document.digest:
        _refuse(path, "was changed after it was written (its digest differs)")
    return document


def refuse_other_data(
    output: Path, document: StatisticsDocument, data: Iterable[MeasuredData]
) -> None:
    """Raise RefusedInput(OutputNotEmpty) unless `document` was measured on `data`."""
    if [rows(one) for one in document.data] != [rows(one) for one in data]:
        there = ", ".join(sorted({f"'{one.uri}'" for one in document.data}))
        _refuse(
            output / STATISTICS_FILE,
            f"holds statistics of another data set (other rows than are drawn now, or other files "
            f"of tokenizer or processor; then read from {there})",
            Reason.OutputNotEmpty,
        )


def unopened(dataset: Dataset) -> HalftoneError | None:
    """Why the data are not there now; None where they can be opened."""
    try:
        open_dataset(dataset).close()
    except HalftoneError as error:
        return error
    return None


def is_out_of_reach(error: HalftoneError) -> bool:
    """Whether data could not be read to the end, rather than were read and found wanting."""
    return isinstance(error, EnvironmentFault) or error.reason in _AWAY


def _refuse(path: Path, what: str, reason: Reason = Reason.StatisticsDiffer) -> NoReturn:
    raise RefusedInput(
        reason,
        str(path),
        f"'{path}' {what}; choose another directory, or remove {STATISTICS_FILE} and "
        f"{STATISTICS_TENSORS} there to measure anew.",
    )
