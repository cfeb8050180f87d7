"""What a server cannot load although the format can store it: said in the plan, as warnings."""

from collections import defaultdict
from collections.abc import Iterator, Sequence

from halftone.checkpoint.architectures.table import Architecture
from halftone.checkpoint.serving_limits import (
    WEIGHT_ONLY_BLOCKS,
    block_fp8_obstacle,
    merged_heights,
    modelopt_block_obstacle,
)
from halftone.plan.tensors import LogicalTensor
from halftone.spec.documents import Notice
from halftone.spec.formats import CheckpointFormat, Format
from halftone.spec.names import WarningReason
from halftone.spec.roles import Role

_BLOCK_FORMATS = frozenset({Format.FP8_BLOCK, Format.FP8_BLOCK_A16})


def loading_notices(
    tensors: Sequence[LogicalTensor], architecture: Architecture, layout: CheckpointFormat
) -> Iterator[Notice]:
    """A warning for each kind of obstacle in the planned checkpoint, with its first tensor."""
    order = {row.path: place for place, row in enumerate(architecture.rows)}
    last: dict[str, int] = {}
    rows: defaultdict[str, dict[str, int]] = defaultdict(dict)
    for tensor in tensors:
        if tensor.group is not None and tensor.row is not None:
            last[tensor.group] = max(order[tensor.row.path], last.get(tensor.group, 0))
            rows[tensor.group][tensor.row.path.rpartition(".")[2]] = tensor.shape[0]
    told: set[tuple[bool, Format]] = set()
    for tensor in tensors:
        if tensor.format not in _BLOCK_FORMATS or tensor.row is None:
            continue
        followed = order[tensor.row.path] < last.get(tensor.group or "", 0)
        heights = merged_heights(tensor.row, tensor.shape[0], rows[tensor.group or ""])
        obstacle, other = _obstacle(tensor, heights, followed, layout)
        kind = (tensor.format is Format.FP8_BLOCK_A16, other)
        if obstacle is None or kind in told:
            continue
        told.add(kind)
        yield Notice(
            reason=WarningReason.ServerCannotLoad,
            subject=tensor.name,
            message=f"`{tensor.name}` will not load: {obstacle}; give {tensor.role} the format "
            f"{other}.",
        )


def _obstacle(
    tensor: LogicalTensor, heights: tuple[int, ...], followed: bool, layout: CheckpointFormat
) -> tuple[str | None, Format]:
    """Why vLLM cannot load a matrix of FP8 blocks, and a format that it can."""
    expert = tensor.role is Role.Experts
    weight_only = tensor.format is Format.FP8_BLOCK_A16
    if weight_only and not expert:
        return WEIGHT_ONLY_BLOCKS, Format.FP8_DYNAMIC
    obstacle = block_fp8_obstacle(
        routed_expert=expert, weight_only=weight_only, heights=heights, followed=followed
    )
    if obstacle is None and layout is CheckpointFormat.ModelOpt:
        obstacle = modelopt_block_obstacle(tensor.shape[1])
    return obstacle, Format.FP8_BLOCK if expert and weight_only else Format.FP8_DYNAMIC
