"""What vLLM 0.32 refuses to load although the format can store it: FP8 in blocks, and experts;
and how far what it merges may differ.

Planning warns of it, inspection calls it a defect; both ask here. Each rule was met by building the
real model classes (tests/integration/test_vllm_reads_the_configuration.py); a later server may
lift it.
"""

from collections.abc import Mapping
from typing import Final

from halftone.checkpoint.architectures.table import Row
from halftone.spec.formats import FP8_BLOCK_SIDE, Format

# In which formats vLLM 0.32 serves routed experts from ModelOpt's layout. Of FP8 it knows one scale
# a matrix only: it fails on scales of rows, and takes one scale of a block for all of them.
MODELOPT_EXPERTS: Final = frozenset({Format.NVFP4, Format.NVFP4A16, Format.FP8})
# `CompressedTensorsW8A16Fp8` asserts `is_static_input_scheme is False` after loading and has None
# there (seen by loading; vllm#34863). The checkpoint is well formed and later servers may take it,
# so planning warns and inspection does not call it a defect.
WEIGHT_ONLY_BLOCKS: Final = "vLLM 0.32 stops with an AssertionError on weight-only FP8 in blocks"
# What vLLM itself tolerates between the global scales of the experts' gate and up, as a part of the
# larger (torch.allclose).
SCALE_TOLERANCE: Final = 1e-5


def merged_heights(row: Row, rows: int, siblings: Mapping[str, int]) -> tuple[int, ...]:
    """The rows of each matrix that a server merges, in a stored one of `rows` in all.

    One for most; of a gated delta net queries, keys and values lie in one matrix. `siblings` are
    the rows of the group's members by the last component of their names.
    """
    values = siblings.get(row.values_like or "")
    if values is None:
        return (rows,)
    keys = (rows - values) // 2
    return keys, keys, values


def block_fp8_obstacle(
    *, routed_expert: bool, weight_only: bool, heights: tuple[int, ...], followed: bool
) -> str | None:
    """Why a matrix of 128x128 FP8 blocks cannot be loaded, as half a sentence; None if it can.

    `heights` are those of `merged_heights`. `followed` says that a server puts another matrix
    behind it when it merges the group: blocks of rows must then come out even, which the last
    member need not.
    """
    if routed_expert and weight_only:
        return "vLLM 0.32 has no weight-only FP8 for routed experts"
    if any(rows % FP8_BLOCK_SIDE for rows in heights) and (followed or routed_expert):
        told = " + ".join(str(rows) for rows in heights)
        return (
            f"it has {told} rows, and vLLM 0.32 merges it with its neighbours only where blocks of "
            f"{FP8_BLOCK_SIDE} rows come out even"
        )
    return None


def modelopt_block_obstacle(columns: int) -> str | None:
    """The same for a matrix of `columns` in ModelOpt's layout, whatever its rows are."""
    if columns % FP8_BLOCK_SIDE:
        return (
            f"it has {columns} columns, and of ModelOpt's blocks vLLM 0.32 takes multiples of "
            f"{FP8_BLOCK_SIDE}"
        )
    return None
