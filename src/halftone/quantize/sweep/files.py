"""What a sweep leaves behind: a recipe, the table that it came from, and a plot.

Called by `halftone sweep`: `refuse_in_the_way` before anything is read, `staged` around measuring.
All is made in `.NAME.sweeping` beside the output and becomes the output in one step; what a kill
leaves there the next sweep removes. A recipe file is what `halftone.spec.recipes.load_recipe`
reads; nothing here is applied to a job.
"""

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final, NoReturn

import yaml

from halftone.quantize.staging_place import staging_place
from halftone.quantize.storage import storage_errors
from halftone.quantize.sweep.document import Measure, SweepDocument
from halftone.quantize.sweep.plotting import plot
from halftone.spec.documents import sync_directory, write_atomically
from halftone.spec.errors import RefusedInput
from halftone.spec.job import Recipe
from halftone.spec.names import SWEEP_FILE, SWEEP_PLOT, SWEEP_RECIPE, Reason, WarningReason
from halftone.spec.presentation import printable, short_size

_MEASURED: Final = {
    Measure.WeightError: "weight error alone; no data were given",
    Measure.OutputDivergence: "the divergence of each layer's output on data",
}
# What renaming a directory says when something else lies there.
_OCCUPIED: Final = frozenset({errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR})


def refuse_in_the_way(output: Path) -> None:
    """Refuse a directory that holds anything, and one that cannot be made, while it is cheap.

    A recipe of an earlier sweep may have been edited since.
    """
    real = Path(os.path.realpath(output))
    with storage_errors(output):
        if real.is_dir() and any(real.iterdir()):
            _refuse_output(
                output,
                "is not empty, and a sweep replaces nothing; name another directory with "
                "`--output`",
            )
        if os.path.ismount(real):
            _refuse_output(
                output,
                f"is a mount point, which the finished files cannot replace; give `--output` a "
                f"directory inside it, such as '{output / 'sweep'}'",
            )
        above = next(place for place in real.parents if place.exists())
        with tempfile.TemporaryDirectory(prefix=".halftone-", dir=above):
            pass


class Staged:
    """Where a sweep works: `scratch` for what lies between two layers, and the way to `output`."""

    def __init__(self, output: Path, root: Path) -> None:
        self._output = output
        self._made = root / "swept"
        self.scratch = root / "scratch"

    def publish(self, document: SweepDocument) -> None:
        """Make all three files visible in `output` at once.

        Where something appeared there meanwhile, it is left as it is, and the files go beside it:
        they may have taken hours. Raises RefusedInput(OutputNotEmpty) with their place.
        """
        contents = {
            SWEEP_PLOT: plot(document),
            SWEEP_FILE: document.to_bytes(),
            SWEEP_RECIPE: recipe_text(document).encode(),
        }
        real = Path(os.path.realpath(self._output))
        with storage_errors(self._output):
            self._made.mkdir()
            for name, content in contents.items():
                write_atomically(self._made / name, content)
            try:
                self._made.rename(real)  # replaces an empty directory, fails on all else
            except OSError as error:
                if error.errno not in _OCCUPIED:
                    raise
                self._publish_beside(real)
            sync_directory(real.parent)

    def _publish_beside(self, real: Path) -> NoReturn:
        beside = Path(tempfile.mkdtemp(prefix=f"{real.name}-", dir=real.parent))
        self._made.rename(beside)
        sync_directory(real.parent)
        raise RefusedInput(
            Reason.OutputNotEmpty,
            "--output",
            f"'{self._output}' was filled by somebody else while the sweep measured, and a sweep "
            f"replaces nothing; what it found lies in '{beside}'.",
        )


@contextmanager
def staged(output: Path) -> Iterator[Staged]:
    """A place beside `output` that no other sweep works in; nothing of it stays.

    Raises EnvironmentFault(OutputBusy) while another process sweeps into `output`.
    """
    with ExitStack() as held:
        with storage_errors(output):
            root = held.enter_context(
                staging_place(output, "sweeping", ("scratch", "swept"), "--output")
            )
            place = Staged(output, root)
            place.scratch.mkdir()
        yield place


def _refuse_output(output: Path, why: str) -> NoReturn:
    raise RefusedInput(Reason.OutputNotEmpty, "--output", f"'{output}' {why}.")


def recipe_text(document: SweepDocument) -> str:
    """The proposed recipe as a file, with where it comes from in comments."""
    source = printable(document.source.uri)
    size, budget = short_size(document.proposed.bytes), short_size(document.budgetBytes)
    comments = [
        f"Proposed by `halftone sweep` under a budget of {budget}: {size} of tensors.",
        f"For {source}, by {_MEASURED[document.measure]}; see {SWEEP_FILE}.",
    ]
    if any(n.reason is WarningReason.CalibrationDataMissing for n in document.warnings):
        comments.append(
            "It measures the KV cache and names no data: before `halftone calibrate` add "
            "`calibration: {dataset: {path: FILE}}`."
        )
    fields = yaml.safe_dump(
        _fields(document.recipe), sort_keys=False, default_flow_style=None, width=1_000_000
    )
    return "".join(f"# {line}\n" for line in comments) + fields


def _fields(recipe: Recipe) -> dict[str, Any]:
    """What a recipe file says: precision, and whatever is not the default."""
    fields = recipe.model_dump(mode="json", exclude={"name"}, exclude_defaults=True)
    return {"precision": fields.pop("precision"), **fields}
