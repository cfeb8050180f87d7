"""Our own calibration, many cases in one process; run in the quantize environment.

    python calibration_samples.py CASES.json ANSWERS.json

CASES is a list of `source` (a checkpoint), `recipe` (the fields of a `Recipe`), `output` (the
folder for statistics), and `samples`: null, or a file that gets what one forward pass takes each,
`<number>.<input>`, for whoever measures the same by other means. ANSWERS gets, in the same order,
`error` (the reason and message of a refusal, or null) and `seconds` that the calibration took.
"""

import json
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from halftone.checkpoint.index import Checkpoint, read_checkpoint
from halftone.plan.planning import plan_checkpoint
from halftone.quantize.calibration.calibrating import calibrate
from halftone.quantize.calibration.dataset.preparing import prepare_data
from halftone.spec.errors import HalftoneError
from halftone.spec.job import Recipe
from halftone.stores import open_source

Case = dict[str, Any]


def write_samples(recipe: Recipe, checkpoint: Checkpoint, path: str) -> None:
    """What `calibrate` runs through the model, as one file."""
    assert recipe.calibration is not None
    with tempfile.TemporaryDirectory() as scratch:
        data = prepare_data(recipe.calibration, checkpoint, Path(scratch))
        inputs = {
            f"{number}.{name}": value.contiguous()
            for number, sample in enumerate(data.samples())
            for name, value in sample.inputs.items()
        }
    save_file(inputs, path)


def measure(case: Case) -> float:
    """Carry out one case; returns seconds from the plan to the written statistics."""
    recipe = Recipe.model_validate(case["recipe"])
    with closing(open_source(Path(case["source"]))) as source:
        checkpoint = read_checkpoint(source)
        if case["samples"]:
            write_samples(recipe, checkpoint, case["samples"])
        planned = plan_checkpoint(checkpoint, recipe)
        begun = time.perf_counter()
        calibrate(planned, checkpoint, Path(case["output"]))
        return time.perf_counter() - begun


def outcome(case: Case) -> Case:
    """The time, or our refusal: refusals are answers too."""
    try:
        return {"error": None, "seconds": measure(case)}
    except HalftoneError as error:
        return {"error": f"{error.reason}: {error}", "seconds": None}


def main(cases: Path, answers: Path) -> None:
    """Carry out every case of a file."""
    torch.set_num_threads(2)
    answers.write_text(json.dumps([outcome(case) for case in json.loads(cases.read_text())]))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
