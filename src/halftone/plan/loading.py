"""What a server cannot load although the format can store it: said in the plan, as warnings.

Each rule was met in vLLM 0.32 by building the real model classes
(tests/integration/test_vllm_reads_the_configuration.py); a later server may lift it.
"""

from collections.abc import Iterator, Sequence

from halftone.plan.tensors import LogicalTensor
from halftone.spec.documents import Notice
from halftone.spec.formats import FP8_BLOCK_SIDE, Format
from halftone.spec.names import WarningReason
from halftone.spec.roles import Role

_BLOCK_FORMATS = frozenset({Format.FP8_BLOCK, Format.FP8_BLOCK_A16})


def loading_notices(tensors: Sequence[LogicalTensor]) -> Iterator[Notice]:
    """A warning for each rule that the planned checkpoint breaks, with its first tensor."""
    expert = next((t for t in tensors if _is_weight_only_fp8_expert(t)), None)
    if expert is not None:
        yield Notice(
            reason=WarningReason.ServerCannotLoad,
            subject=expert.name,
            message=f"vLLM 0.32 has no weight-only FP8 for routed experts, such as "
            f"`{expert.name}`; give Experts {Format.FP8_BLOCK}, which stores the same bytes.",
        )
    ragged = next((t for t in tensors if _is_ragged_in_a_group(t)), None)
    if ragged is not None:
        yield Notice(
            reason=WarningReason.ServerCannotLoad,
            subject=ragged.name,
            message=f"`{ragged.name}` has {ragged.shape[0]} rows, and vLLM 0.32 merges it with its "
            f"neighbours only where blocks of {FP8_BLOCK_SIDE} rows come out even; give its role "
            f"{Format.FP8_DYNAMIC}.",
        )


def _is_weight_only_fp8_expert(tensor: LogicalTensor) -> bool:
    return tensor.role is Role.Experts and tensor.format is Format.FP8_BLOCK_A16


def _is_ragged_in_a_group(tensor: LogicalTensor) -> bool:
    merged = tensor.group is not None or tensor.role is Role.Experts
    return tensor.format in _BLOCK_FORMATS and merged and tensor.shape[0] % FP8_BLOCK_SIDE != 0
