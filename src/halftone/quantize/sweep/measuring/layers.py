"""How far each layer's output moves, for each role and format: the way into this package.

Called by `halftone sweep`, in the environment that has llm-compressor. Importing this module needs
no torch; calling it does.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from halftone.quantize.calibration.quiet import quiet
from halftone.quantize.sweep.document import Divergences
from halftone.quantize.sweep.sweeping import Prepared
from halftone.spec.errors import EnvironmentFault
from halftone.spec.names import Reason


class Progress(Protocol):
    """Who wants to know how far the work is. A step is one sample through one layer, once."""

    def begin(self, total: int) -> None:
        """So many steps there are in all; called once, before the others."""

    def advance(self, units: int) -> None:
        """So many are done."""


def measure_layers(prepared: Prepared, folder: Path, progress: Progress) -> Divergences:
    """Divergences of the layers, roles and formats that `prepared` lists, on its recipe's data.

    `folder` takes what lies between two layers; its owner removes it. Raises RefusedInput for data
    that cannot be used and for a model that transformers cannot run, EnvironmentFault for too
    little memory or disk.
    """
    calibration = prepared.recipe.calibration
    if calibration is None:
        raise AssertionError("layers are measured on data. This is a bug. Please report.")
    with quiet():
        from halftone.quantize.calibration.data import prepare_data
        from halftone.quantize.sweep.measuring.sequence import measure

        data = prepare_data(calibration, prepared.checkpoint)
        with _enough_memory():
            layers = measure(prepared, data, folder, progress)
    return Divergences(data=data.measured, layers=layers)


@contextmanager
def _enough_memory() -> Iterator[None]:
    """What an allocator says when there is no more, in our words."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and "memory" not in str(error):
            raise
        raise EnvironmentFault(
            Reason.TooLittleMemory,
            "--dataset",
            "The memory of this machine did not suffice for one layer in float32; choose a larger "
            "one, a smaller `--max-sequence-length`, or sweep without data.",
        ) from error
