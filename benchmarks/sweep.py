"""`halftone sweep` of the pocket model on its data, as a user starts it, on two cores.

No peer proposes recipes, so the figure is the wall clock's and belongs to its machine. The model is
swept with data (layers are run) and without (weights alone); only the first has a target.
"""

import os
import shutil
from pathlib import Path

from benchmarks.measuring import HALFTONE, ROOT, Result, quantize_environment, run

_POCKET = ROOT / "examples" / "pocket-model"
_CORES = 2
_BUDGET_GB = "0.0075"  # about two thirds of the model: some roles stay, some do not
_LIMIT_S = 240.0


def main(scratch: Path) -> list[Result]:
    """One sweep of each kind, kernels compiled and files read before."""
    quantize_environment()  # says how to make it, where it is missing
    cores = ",".join(str(core) for core in sorted(os.sched_getaffinity(0))[:_CORES])
    data = ("--dataset", _POCKET / "calibration.jsonl")
    free = _sweep(scratch, cores)
    measured = _sweep(scratch, cores, *data)
    return [
        Result(
            "sweep of the pocket model with data, whole process, two cores",
            f"<= {_LIMIT_S / 60:.0f} min",
            f"{measured:.0f} s (without data {free:.0f} s)",
            measured <= _LIMIT_S,
            {"seconds": measured, "secondsWithoutData": free, "cores": cores},
        )
    ]


def _sweep(scratch: Path, cores: str, *data: str | Path) -> float:
    target = scratch / "swept"
    shutil.rmtree(target, ignore_errors=True)
    options = ("--budget-gb", _BUDGET_GB, "--output", target, *data)
    command = [HALFTONE, "sweep", _POCKET / "checkpoint", *options]
    return run(["taskset", "--cpu-list", cores, *command]).seconds
