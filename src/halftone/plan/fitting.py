"""From a plan to what fits on a device: the matrices as a server splits them.

Called by `halftone plan --gpu`. The rule itself is in `halftone.plan.fit`.
"""

from collections.abc import Iterator
from typing import Any, Final

from halftone.checkpoint.architectures.table import Split
from halftone.plan.cache import KvFormat
from halftone.plan.devices import Device
from halftone.plan.fit import Fit, fit
from halftone.plan.planning import Planned
from halftone.plan.splitting import Matrix
from halftone.plan.tensors import LogicalTensor
from halftone.spec.roles import Role

_DOWN: Final = "down_proj"


def fit_of(planned: Planned, config: dict[str, Any], device: Device, context: int) -> Fit:
    """What `device` holds of the planned checkpoint, for requests of `context` tokens.

    Raises RefusedInput for a configuration without a KV-cache rule.
    """
    plan = planned.plan
    if plan.output is None or plan.recipe is None:
        raise AssertionError("a refused plan fits nowhere. This is a bug. Please report.")
    matrices = [matrix for tensor in planned.tensors for matrix in _matrices(tensor)]
    kv_format: KvFormat = "auto" if plan.recipe.kvCache is None else "fp8"
    layout = plan.recipe.checkpointFormat
    return fit(device, context, plan.output.bytes, config, matrices, kv_format, layout)


def _matrices(tensor: LogicalTensor) -> Iterator[Matrix]:
    """The weights of a row of the table; other tensors lie whole on every rank.

    A stack of experts that is kept is one tensor, of which a server splits each matrix.
    """
    row, name, shape = tensor.row, tensor.name, tensor.shape
    if row is None or tensor.role is Role.MultiTokenPrediction:
        return
    if not row.stacked:
        if len(shape) == 2 and name.endswith(".weight"):
            yield Matrix(name, *shape, tensor.format, row.split.value)
        return
    split = Split.Row if name.removesuffix(".weight").endswith(f".{_DOWN}") else Split.Column
    if len(shape) == 2:
        yield Matrix(name, *shape, tensor.format, split.value)
    elif len(shape) == 3:
        experts, rows, columns = shape
        parts = len(row.stacked)
        matrix = Matrix(name, rows // parts, columns, tensor.format, split.value)
        yield from [matrix] * (experts * parts)
