"""Carry out the measuring that a plan asks for: its data through its model, layer by layer.

    document = calibrate(planned, checkpoint, Path("work"))

Called by the command line and by a run, in the environment that has llm-compressor. Kill it at any
moment and call it again: measured layers are kept, and the result is the same.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from halftone import __version__
from halftone.checkpoint.digests import file_sha256
from halftone.checkpoint.index import Checkpoint
from halftone.plan.planning import Planned
from halftone.quantize.calibration.partial import Partial, discard_leftovers, storage_errors
from halftone.quantize.calibration.quiet import quiet
from halftone.spec.calibration import Calibration
from halftone.spec.documents import Method
from halftone.spec.errors import EnvironmentFault, RefusedInput
from halftone.spec.names import STATISTICS_FILE, Reason
from halftone.spec.statistics import MeasuredData, StatisticsDocument


class CalibrationProgress(Protocol):
    """Who wants to know how far the work is. A step is one sample through one layer."""

    def begin(self, total_steps: int) -> None:
        """So many steps there are in all; called once, before the others."""

    def advance(self, steps: int) -> None:
        """So many steps are done."""

    def skip(self, steps: int) -> None:
        """So many were done by an earlier run."""


class _Unseen:
    def begin(self, total_steps: int) -> None: ...

    def advance(self, steps: int) -> None: ...

    def skip(self, steps: int) -> None: ...


def calibrate(
    planned: Planned,
    checkpoint: Checkpoint,
    output: Path,
    *,
    progress: CalibrationProgress | None = None,
    notice: Callable[[str], None] | None = None,
) -> StatisticsDocument:
    """Measure what `planned` needs and write `statistics.json` and `.safetensors` to `output`.

    `notice` is told, in sentences, what a user should know of the data although it goes on.
    Statistics of this plan and these data that lie there are returned as they are. Raises
    RefusedInput for data, a model or a plan that cannot be carried out (ModuleUnmeasured,
    NonFiniteActivation, ModelNotRunnable and what reading data raises), EnvironmentFault for too
    little memory or disk, and OutputBusy while another process calibrates into `output`.
    """
    calibration = _calibration(planned)
    progress = progress or _Unseen()
    with quiet():
        from halftone.quantize.calibration.data import prepare_data
        from halftone.quantize.calibration.writing import versions, write_statistics

        data = prepare_data(calibration, checkpoint)
        if notice is not None:
            for said in data.notices:
                notice(said)
        try:
            done = _earlier(output, planned, data.measured)
            if done is not None:
                discard_leftovers(output)
                return done
            from halftone.quantize.calibration.measuring import device, measure

            origin = {
                "halftoneVersion": __version__,
                "versions": versions(),
                "device": str(device()),
                "data": [one.model_dump(mode="json") for one in data.measured],
                "written": _written(checkpoint),
            }
            with Partial(output, planned.plan.digest, origin) as partial, _enough_memory():
                measured = measure(planned, checkpoint, calibration, data, partial, progress)
                with storage_errors(output):
                    return write_statistics(planned, calibration, data.measured, measured, output)
        finally:
            data.close()


def _calibration(planned: Planned) -> Calibration:
    """The data block of an accepted plan that measures; raises RefusedInput for any other."""
    refusal, recipe = planned.plan.refusal, planned.plan.recipe
    if refusal is not None:
        raise RefusedInput(refusal.reason, refusal.subject, refusal.message)
    assert recipe is not None
    if planned.plan.method is not Method.Calibrated:
        raise RefusedInput(
            Reason.NotSupported,
            "quantization.precision",
            f"The recipe '{recipe.name}' measures nothing, so there is nothing to calibrate; go on "
            "with `halftone quantize`.",
        )
    if recipe.calibration is None:
        raise RefusedInput(
            Reason.CalibrationRequired,
            "quantization.calibration",
            "`quantization.calibration` is not set, so there are no data to measure on; add it "
            "with a `dataset`.",
        )
    return recipe.calibration


def _earlier(
    output: Path, planned: Planned, data: tuple[MeasuredData, ...]
) -> StatisticsDocument | None:
    """Whole statistics of this plan and these data that lie in `output`; others are refused."""
    path = output / STATISTICS_FILE
    if not path.exists():
        return None
    document = StatisticsDocument.load(path)
    if (document.planDigest, document.data) != (planned.plan.digest, data):
        what = "plan" if document.planDigest != planned.plan.digest else "data set"
        raise RefusedInput(
            Reason.OutputNotEmpty,
            str(path),
            f"'{path}' holds statistics of another {what}; choose another directory or remove it.",
        )
    tensors = output / document.file.path
    with storage_errors(output):
        if tensors.is_file() and file_sha256(tensors) == document.file.sha256:
            return document
    raise RefusedInput(
        Reason.OutputNotEmpty,
        str(tensors),
        f"'{tensors}' is missing or is not the file that was written (its SHA-256 differs from "
        f"{STATISTICS_FILE}); remove both and run the same command again.",
    )


def _written(checkpoint: Checkpoint) -> dict[str, int]:
    """When each local shard was last written: two fine-tunes of a model have equal headers."""
    paths = {shard.file: checkpoint.source.local_path(shard.file) for shard in checkpoint.shards}
    return {file: path.stat().st_mtime_ns for file, path in paths.items() if path is not None}


@contextmanager
def _enough_memory() -> Iterator[None]:
    """What an allocator says when there is no more, in our words; measured layers are kept."""
    try:
        yield
    except MemoryError as error:
        raise EnvironmentFault(
            Reason.TooLittleMemory,
            "calibration",
            "The memory of this machine did not suffice for one layer; choose a larger one, or a "
            "smaller `maxSequenceLength`, and run the same command again.",
        ) from error
