"""From a plan to what fits on a device: the matrices as a server splits them.

Called by `halftone plan --gpu`. The rule itself is in `halftone.plan.fit`.
"""

from typing import Any

from halftone.checkpoint.architectures.table import Split
from halftone.plan.cache import KvFormat
from halftone.plan.devices import Device
from halftone.plan.fit import Fit, fit
from halftone.plan.planning import Planned
from halftone.plan.splitting import Matrix
from halftone.plan.tensors import LogicalTensor
from halftone.spec.roles import Role

_STACKED_DOWN = ".down_proj.weight"


def fit_of(planned: Planned, config: dict[str, Any], device: Device, context: int) -> Fit:
    """What `device` holds of the planned checkpoint, for requests of `context` tokens.

    Raises RefusedInput for a configuration without a KV-cache rule.
    """
    plan = planned.plan
    if plan.output is None or plan.recipe is None:
        raise AssertionError("a refused plan fits nowhere. This is a bug. Please report.")
    matrices = [matrix for t in planned.tensors if (matrix := _matrix(t)) is not None]
    kv_format: KvFormat = "auto" if plan.recipe.kvCache is None else "fp8"
    layout = plan.recipe.checkpointFormat
    return fit(device, context, plan.output.bytes, config, matrices, kv_format, layout)


def _matrix(tensor: LogicalTensor) -> Matrix | None:
    """The weight of a row of the table; other tensors lie whole on every rank."""
    if tensor.row is None or len(tensor.shape) != 2 or not tensor.name.endswith(".weight"):
        return None
    if tensor.role is Role.MultiTokenPrediction:
        return None
    split = tensor.row.split
    if tensor.row.stacked:
        split = Split.Row if tensor.name.endswith(_STACKED_DOWN) else Split.Column
    return Matrix(tensor.name, tensor.shape[0], tensor.shape[1], tensor.format, split.value)
