"""How far each layer's output moves, for each role and format: the way into this package.

Called by `halftone sweep`, in the environment that has llm-compressor. Importing this module needs
no torch; calling it does.
"""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final, Protocol

from halftone.quantize.calibration.memory import enough_memory
from halftone.quantize.calibration.quiet import quiet
from halftone.quantize.sweep.document import Divergences
from halftone.quantize.sweep.sweeping import Prepared
from halftone.spec.calibration import Calibration, FewerSamples, Modality
from halftone.spec.errors import RefusedInput
from halftone.spec.names import Reason
from halftone.spec.statistics import MeasuredData

_ROWS: Final = {
    Modality.Text: "rows without `images`",
    # Rows with images are never cut: an image of which a part is missing is none.
    Modality.Image: "rows with `images` that fit into `--max-sequence-length`",
}


class Progress(Protocol):
    """Who wants to know how far the work is. A step is one sample through one layer, once."""

    def begin(self, total: int) -> None:
        """So many steps there are in all; called once, before the others."""

    def advance(self, units: int) -> None:
        """So many are done."""


def measure_layers(
    prepared: Prepared, folder: Path, progress: Progress, notice: Callable[[str], None]
) -> Divergences:
    """Divergences of the layers, roles and formats that `prepared` lists, on its recipe's data.

    `folder` takes what lies between two layers; its owner removes it. `notice` is told, in
    sentences, what a user should know of the data although it goes on. Raises RefusedInput for data
    that cannot be used and for a model that transformers cannot run, EnvironmentFault for too
    little memory or disk.
    """
    calibration = prepared.recipe.calibration
    if calibration is None:
        raise AssertionError("layers are measured on data. This is a bug. Please report.")
    with quiet():
        from halftone.quantize.calibration.dataset.preparing import prepare_data
        from halftone.quantize.sweep.measuring.sequence import measure

        whatever = calibration.model_copy(update={"fewerSamples": FewerSamples.Allow})
        data = prepare_data(whatever, prepared.checkpoint, folder / "data")
        if calibration.fewerSamples is FewerSamples.Refuse:
            _refuse_too_few(calibration, data.measured)
        for said in data.notices:
            notice(said)
        with _enough_memory():
            layers = measure(prepared, data, folder, progress)
    return Divergences(data=data.measured, layers=layers)


def _refuse_too_few(calibration: Calibration, data: Iterable[MeasuredData]) -> None:
    """Refuse fewer rows than asked for, in the words of a sweep: it has options of its own."""
    for one in data:
        if one.samples < calibration.samples:
            raise RefusedInput(
                Reason.TooFewSamples,
                "--samples",
                f"The sweep wants {calibration.samples} {_ROWS[one.modality]} (`--samples`, or "
                f"`calibration.samples` of the recipe), and '{one.uri}' holds {one.samples}; give "
                f"`--samples {one.samples}`.",
            )


def _enough_memory() -> AbstractContextManager[None]:
    """What an allocator says when there is no more, in our words."""
    return enough_memory(
        "--dataset",
        "The memory of this machine did not suffice for one layer in float32; choose a larger "
        "one, a smaller `--max-sequence-length`, or sweep without data.",
    )
