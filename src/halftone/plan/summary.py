"""The plan's figures: per role, and as ratios of the quantized part and of the whole."""

from collections import defaultdict
from collections.abc import Sequence
from math import prod

from halftone.plan.tensors import LogicalTensor
from halftone.spec.documents import PlanSizes, Ratio, RoleSummary
from halftone.spec.formats import CheckpointFormat, Format, stored_bytes
from halftone.spec.roles import Role


def written_bytes(tensor: LogicalTensor, layout: CheckpointFormat) -> int:
    """Bytes of tensor data that `tensor` becomes in `layout`."""
    if tensor.format is None:
        return tensor.kept_bytes
    rows, columns = tensor.shape
    return stored_bytes(tensor.format, layout, rows, columns)


def role_summaries(
    tensors: Sequence[LogicalTensor], layout: CheckpointFormat
) -> tuple[RoleSummary, ...]:
    """One line for each role and format, in the order of the roles."""
    lines: defaultdict[tuple[Role, Format | None], list[LogicalTensor]] = defaultdict(list)
    for tensor in tensors:
        lines[tensor.role, tensor.format].append(tensor)
    order = {role: place for place, role in enumerate(Role)}
    return tuple(
        RoleSummary(
            role=role,
            format=fmt,
            tensors=len(members),
            parameters=sum(prod(t.shape) for t in members),
            bytesBefore=sum(source_bytes(t) for t in members),
            bytesAfter=sum(written_bytes(t, layout) for t in members),
        )
        for (role, fmt), members in sorted(
            lines.items(), key=lambda item: (order[item[0][0]], item[0][1] or "")
        )
    )


def source_bytes(tensor: LogicalTensor) -> int:
    """Bytes that `tensor` takes in the source, its FP8 scale included."""
    return tensor.source_bytes + (tensor.scale.entry.nbytes if tensor.scale else 0)


def sizes(roles: Sequence[RoleSummary]) -> PlanSizes:
    """Both ratios: of what is quantized, and of all."""
    return PlanSizes(
        quantized=_ratio([line for line in roles if line.format is not None]),
        whole=_ratio(roles),
    )


def _ratio(lines: Sequence[RoleSummary]) -> Ratio:
    before = sum(line.bytesBefore for line in lines)
    after = sum(line.bytesAfter for line in lines)
    return Ratio(
        bytesBefore=before, bytesAfter=after, ratio=f"{before / after:.2f}" if after else "1.00"
    )
