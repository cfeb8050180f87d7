"""From a plan to what fits on a device: which tensors a server splits.

We test these aspects:
- experts that are kept are split, stacked in one tensor or one by one
"""

from pathlib import Path
from typing import Literal

from halftone.plan.devices import find_device
from halftone.plan.fit import Fit
from halftone.plan.fitting import fit_of
from tests.builders import tiny_config, write_checkpoint
from tests.commands import plan_directory
from tests.quantizing import recipe


def fitted(directory: Path, experts: Literal["PerExpert", "Fused"]) -> Fit:
    config = tiny_config("qwen3_moe")
    source = write_checkpoint(directory / experts, config, experts=experts)
    planned = plan_directory(source, recipe(Attention="FP8_DYNAMIC"))
    return fit_of(planned, config, find_device("H100"), 100)


def test_kept_experts_are_split_whether_they_are_stacked_or_not(tmp_path: Path) -> None:
    stacked, single = fitted(tmp_path, "Fused"), fitted(tmp_path, "PerExpert")

    assert stacked.tensorParallelSizes == single.tensorParallelSizes
    whole, half = (row.weightBytes for row in stacked.tensorParallelSizes[:2])
    assert half < 0.7 * whole
