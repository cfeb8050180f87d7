"""What says how a planned checkpoint is quantized: `config.json`, and ModelOpt's own file.

Called by the engine, once all shards are written. compressed-tensors' block is made of roles and
the architecture's table, ModelOpt's of the matrices that there are, as each library's loaders want.
"""

from typing import Any

from halftone.checkpoint.modelopt_config import modelopt_block, modelopt_config
from halftone.checkpoint.quantization_config import quantized_model_config
from halftone.plan.planning import Planned
from halftone.spec.formats import CheckpointFormat, Format
from halftone.spec.names import CONFIG_FILE, MODELOPT_CONFIG_FILE


def configuration_files(planned: Planned, config: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The content of each such file by its name; `config` is the source's `config.json`."""
    plan = planned.plan
    if plan.recipe is None or planned.architecture is None:
        raise AssertionError("an accepted plan is complete. This is a bug. Please report.")
    roles = (line.role for line in plan.roles)
    written = quantized_model_config(config, planned.architecture, plan.recipe, roles)
    if plan.recipe.checkpointFormat is CheckpointFormat.CompressedTensors:
        return {CONFIG_FILE: written}
    fp8_cache = plan.recipe.kvCache is not None
    document = modelopt_config(planned.architecture, matrices(planned), fp8_cache=fp8_cache)
    written["quantization_config"] = modelopt_block(document)
    return {CONFIG_FILE: written, MODELOPT_CONFIG_FILE: document}


def matrices(planned: Planned) -> dict[str, Format | None]:
    """Every matrix of the checkpoint by its module's name, with its format; None where it is kept.

    A stack of experts that is kept is a module by itself. Norms and bare parameters are left out.
    """
    found: dict[str, Format | None] = {}
    for tensor in planned.tensors:
        if tensor.format is None and tensor.row is not None and tensor.row.stacked:
            found[tensor.name] = None
        elif tensor.name.endswith(".weight") and len(tensor.shape) > 1:
            found[tensor.name.removesuffix(".weight")] = tensor.format
    return found
