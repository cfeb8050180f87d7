"""What a sweep leaves behind: a recipe, the table that it came from, and a plot.

Called by `halftone sweep`: `refuse_in_the_way` before anything is measured, `write` at the end. A
recipe file is what `halftone.spec.recipes.load_recipe` reads; nothing here is applied to a job.
"""

import tempfile
from pathlib import Path
from typing import Any, Final

import yaml

from halftone.quantize.sweep.document import Measure, SweepDocument
from halftone.quantize.sweep.plotting import plot
from halftone.spec.documents import write_atomically
from halftone.spec.errors import RefusedInput
from halftone.spec.job import Recipe
from halftone.spec.names import Reason
from halftone.spec.presentation import short_size

RECIPE_FILE: Final = "recipe.yaml"
TABLE_FILE: Final = "sweep.json"
PLOT_FILE: Final = "sweep.svg"

_MEASURED: Final = {
    Measure.WeightError: "weight error alone; no data were given",
    Measure.OutputDivergence: "the divergence of each layer's output on data",
}


def refuse_in_the_way(output: Path) -> None:
    """Refuse a directory that holds anything, and one that cannot be made, while it is cheap.

    A recipe of an earlier sweep may have been edited since. Raises OSError where the system refuses
    to make files there.
    """
    if output.is_dir() and any(output.iterdir()):
        raise RefusedInput(
            Reason.OutputNotEmpty,
            "--output",
            f"'{output}' is not empty, and a sweep replaces nothing; name another directory with "
            "`--output`.",
        )
    with tempfile.TemporaryDirectory(prefix=".halftone-", dir=nearest_directory(output)):
        pass


def nearest_directory(output: Path) -> Path:
    """`output` where it is there already, else the nearest place above it that is."""
    absolute = output.absolute()
    return next(place for place in (absolute, *absolute.parents) if place.exists())


def write(document: SweepDocument, output: Path) -> None:
    """Write all three files to `output`, or none."""
    made = not output.exists()
    contents = {
        PLOT_FILE: plot(document),
        TABLE_FILE: document.to_bytes(),
        RECIPE_FILE: recipe_text(document).encode(),
    }
    output.mkdir(parents=True, exist_ok=True)
    try:
        for name, content in contents.items():
            write_atomically(output / name, content)
    except BaseException:
        for name in contents:
            (output / name).unlink(missing_ok=True)
            (output / f".{name}.partial").unlink(missing_ok=True)
        if made:
            output.rmdir()
        raise


def recipe_text(document: SweepDocument) -> str:
    """The proposed recipe as a file, with where it comes from in comments."""
    source = "".join(c if c.isprintable() else "?" for c in document.source.uri)
    size, budget = short_size(document.proposed.bytes), short_size(document.budgetBytes)
    comments = (
        f"Proposed by `halftone sweep` under a budget of {budget}: {size} of tensors.",
        f"For {source}, by {_MEASURED[document.measure]}; see {TABLE_FILE}.",
    )
    fields = yaml.safe_dump(
        _fields(document.recipe), sort_keys=False, default_flow_style=None, width=1_000_000
    )
    return "".join(f"# {line}\n" for line in comments) + fields


def _fields(recipe: Recipe) -> dict[str, Any]:
    """What a recipe file says: precision, and whatever is not the default."""
    fields = recipe.model_dump(mode="json", exclude={"name"}, exclude_defaults=True)
    return {"precision": fields.pop("precision"), **fields}
