"""What a calibrated checkpoint was measured on, as its report says it.

Called by `halftone.validate.validating`. It reads the statistics' document only, and must not
believe it: the checkpoint document states the digest of the statistics that its scales came from.
"""

from pathlib import Path

from halftone.spec.documents import CheckpointDocument
from halftone.spec.errors import RefusedInput
from halftone.spec.names import CHECKPOINT_FILE, STATISTICS_FILE, Reason
from halftone.spec.presentation import dataset_name
from halftone.spec.statistics import MeasuredData, StatisticsDocument


def measured_data(workdir: Path, checkpoint: CheckpointDocument) -> tuple[MeasuredData, ...]:
    """The data of `statistics.json`, local paths by their names; nothing for a data-free one.

    Raises RefusedInput(WorkdirInconsistent) where the statistics are absent, edited or others.
    """
    if checkpoint.statisticsDigest is None:
        return ()
    statistics = StatisticsDocument.load(workdir / STATISTICS_FILE)
    if statistics.compute_digest() != checkpoint.statisticsDigest:
        raise RefusedInput(
            Reason.WorkdirInconsistent,
            STATISTICS_FILE,
            f"{STATISTICS_FILE} is not the one that {CHECKPOINT_FILE} was made with; bring that "
            "one back, or quantize again in a new work directory.",
        )
    return tuple(row.model_copy(update={"uri": dataset_name(row.uri)}) for row in statistics.data)
