"""Carry out the measuring that a plan asks for: its data through its model, layer by layer.

    document = calibrate(planned, checkpoint, Path("work"))

Called by the command line and by a run, in the environment that has llm-compressor. Kill it at any
moment and call it again: measured layers are kept, and the result is the same.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from halftone import __version__
from halftone.checkpoint.index import Checkpoint
from halftone.plan.planning import Planned
from halftone.quantize.calibration.finished import (
    earlier,
    is_out_of_reach,
    refuse_other_data,
    rows,
    source_stamp,
    unopened,
)
from halftone.quantize.calibration.memory import enough_memory
from halftone.quantize.calibration.partial import Partial, storage_errors
from halftone.quantize.calibration.quiet import quiet
from halftone.spec.calibration import Calibration
from halftone.spec.documents import Method
from halftone.spec.errors import HalftoneError, RefusedInput
from halftone.spec.names import STATISTICS_FILE, Reason
from halftone.spec.statistics import StatisticsDocument


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

    `notice` is told, in sentences, what a user should know although it goes on. Statistics of this
    plan, source and data that lie there are returned as they are, also when the data cannot be
    reached now. Raises RefusedInput for data, a model or a plan that cannot be carried out
    (ModuleUnmeasured, NonFiniteActivation, ModelNotRunnable and what reading data raises) and for
    other statistics in `output`, EnvironmentFault for too little memory or disk, and OutputBusy
    while another process calibrates into `output`.
    """
    calibration = _calibration(planned)
    progress, notice = progress or _Unseen(), notice or (lambda said: None)
    with quiet(), Partial(output, planned.plan.digest) as partial, _enough_memory():
        from halftone.quantize.calibration.dataset.preparing import prepare_data

        source = source_stamp(checkpoint)
        done = earlier(output, planned.plan.digest, source)
        if done is not None:
            _hold_against_data(done, calibration, checkpoint, partial, notice)
            return done
        data = prepare_data(calibration, checkpoint, partial.scratch)
        for said in data.notices:
            notice(said)
        from halftone.quantize.calibration.measuring import device, measure
        from halftone.quantize.calibration.writing import versions, write_statistics

        dropped = partial.take_up(
            {
                "halftoneVersion": __version__,
                "versions": versions(),
                "device": str(device()),
                "data": [rows(one) for one in data.measured],
                "source": source,
            }
        )
        if dropped is not None:
            notice(dropped)
        measured = measure(planned, checkpoint, calibration, data, partial, progress)
        with storage_errors(output):
            return write_statistics(planned, calibration, data.measured, measured, source, output)


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


def _hold_against_data(
    done: StatisticsDocument,
    calibration: Calibration,
    checkpoint: Checkpoint,
    partial: Partial,
    notice: Callable[[str], None],
) -> None:
    """Refuse finished statistics of other data; data that are gone since are only told of."""
    from halftone.quantize.calibration.dataset.preparing import prepare_data

    away = unopened(calibration.dataset)
    if away is None:
        try:
            data = prepare_data(calibration, checkpoint, partial.scratch)
        except HalftoneError as error:
            if not is_out_of_reach(error):
                raise
            away = error
        else:
            for said in data.notices:
                notice(said)
            refuse_other_data(partial.output, done, data.measured)
            return
    notice(
        "The calibration data cannot be reached now, so whether they are still those of "
        f"'{partial.output / STATISTICS_FILE}' was not checked; going on with what was measured "
        f"then. ({away.message})"
    )


def _enough_memory() -> AbstractContextManager[None]:
    """What an allocator says when there is no more, in our words; measured layers are kept."""
    return enough_memory(
        "calibration",
        "The memory of this machine did not suffice for one layer; choose a larger one, or a "
        "smaller `maxSequenceLength`, and run the same command again.",
    )
