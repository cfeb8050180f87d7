"""What stored NVFP4 and FP8 weights are worth, as the kernels of a GPU see them.

Called by the linear and expert kernels of this room once a layer, after vLLM has merged the shards
and turned the scales into factors. A GPU multiplies code by block scale, which is exact, sums the
products and multiplies by the global factor, in float32; so the product of the two comes first
here too. The one thing added is the rounding to the model's dtype at the end, 2^-9 at most.

vLLM keeps the *reciprocal* of the global scale that compressed-tensors stores, rounded to float32,
and every kernel of it multiplies by that. Dividing by the stored number, as the quantizer and
`checkpoint.reference` do, gives another BF16 for less than one weight in a thousand, and then the
neighbouring one. Here the served model counts, so this multiplies.

Only torch is imported, and only where a tensor arrives: without torch the room can be imported.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
_BLOCK = 16  # columns that share one NVFP4 block scale
_ROWS_AT_ONCE_BYTES = 64 << 20  # of float32: what one step of decoding may hold beside its result


def nvfp4_weight(
    packed: torch.Tensor,
    scale: torch.Tensor,
    global_scale_multiplier: torch.Tensor,
    dtype: torch.dtype,
) -> torch.Tensor:
    """`[..., N, K]` of `dtype` from codes `[..., N, K/2]` (uint8, the even column in the low half).

    `scale` is FP8 `[..., N, K/16]` (or its bytes). `global_scale_multiplier` is one number, one an
    expert (`[E]`), or anything that broadcasts against `scale`; it is the factor, not
    compressed-tensors' divisor. Raises ValueError when the shapes do not belong together.
    """
    import torch

    if tuple(scale.shape) != (*packed.shape[:-1], packed.shape[-1] * 2 // _BLOCK):
        raise ValueError(
            f"NVFP4 codes {tuple(packed.shape)} need one block scale for 8 bytes, "
            f"not {tuple(scale.shape)}"
        )
    values = torch.tensor(_E2M1 + tuple(-value for value in _E2M1), dtype=torch.float32)
    pairs = torch.stack((values.repeat(16), values.repeat_interleave(16)), dim=-1)
    factors = _for_each_row(global_scale_multiplier, scale)
    weight = torch.empty((*packed.shape[:-1], packed.shape[-1] * 2), dtype=dtype)
    flat = weight.view(-1, weight.shape[-1])
    codes = packed.reshape(-1, packed.shape[-1])
    scales = scale.view(torch.float8_e4m3fn).reshape(-1, scale.shape[-1])
    for rows in _steps(flat):
        blocks = pairs[codes[rows].int()].view(-1, scales.shape[-1], _BLOCK)
        exact = blocks * scales[rows].float().unsqueeze(-1)
        flat[rows] = (exact * factors[rows].unsqueeze(-1)).view(-1, flat.shape[-1]).to(dtype)
    return weight


def fp8_weight(
    codes: torch.Tensor,
    scale: torch.Tensor,
    block: Sequence[int] | None,
    dtype: torch.dtype,
) -> torch.Tensor:
    """`[..., N, K]` of `dtype` from FP8 `codes` of that shape (or their bytes).

    Without `block`, `scale` is one number, one an expert (`[E]`), or one a row (`[N]`, `[N, 1]`,
    `[E, N, 1]`). With `block`, rows and columns of a block, it is
    `[..., ceil(N / rows), ceil(K / columns)]`; a single block may have lost its dimensions.
    Raises ValueError when the shapes do not belong together.
    """
    import torch

    stored = codes.view(torch.float8_e4m3fn)
    weight = torch.empty(codes.shape, dtype=dtype)
    flat, rows_of = weight.view(-1, codes.shape[-1]), stored.reshape(-1, codes.shape[-1])
    factors = _for_each_row(scale, codes) if block is None else _for_each_block(scale, codes, block)
    columns = 1 if block is None else block[1]
    for rows in _steps(flat):
        wide = factors[rows]
        if block is not None:
            wide = wide.repeat_interleave(columns, dim=-1)[:, : codes.shape[-1]]
        flat[rows] = (rows_of[rows].float() * wide).to(dtype)
    return weight


def _for_each_row(factor: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """float32 `[rows, 1]`, or `[rows, columns]` where `factor` tells columns of `like` apart."""
    wide = factor.detach().float()
    if wide.numel() == 1:
        wide = wide.reshape(())
    elif wide.ndim == 1 and like.ndim == 3 and wide.shape[0] == like.shape[0]:
        wide = wide.view(-1, 1, 1)
    elif wide.ndim == 1 and like.ndim == 2 and wide.shape[0] == like.shape[0]:
        wide = wide.view(-1, 1)
    columns = wide.shape[-1] if wide.ndim else 1
    try:
        spread = wide.expand(*like.shape[:-1], columns)
    except RuntimeError as wrong:
        raise ValueError(
            f"scales {tuple(factor.shape)} do not belong to weights {tuple(like.shape)}"
        ) from wrong
    if columns not in (1, like.shape[-1]):
        raise ValueError(
            f"scales {tuple(factor.shape)} do not belong to weights {tuple(like.shape)}"
        )
    return spread.reshape(-1, columns)


def _for_each_block(scale: torch.Tensor, codes: torch.Tensor, block: Sequence[int]) -> torch.Tensor:
    """float32 `[rows, column blocks]`: the scales of the blocks that a row runs through."""
    *lead, rows, columns = codes.shape
    grid = (*lead, -(-rows // block[0]), -(-columns // block[1]))
    wide = scale.detach().float()
    if wide.numel() == 1:
        wide = wide.reshape((1,) * len(grid))
    if tuple(wide.shape) != grid:
        raise ValueError(
            f"FP8 weights {tuple(codes.shape)} in blocks of {tuple(block)} need scales {grid}, "
            f"not {tuple(scale.shape)}"
        )
    return wide.repeat_interleave(block[0], dim=-2)[..., :rows, :].reshape(-1, grid[-1])


def _steps(flat: torch.Tensor) -> list[slice]:
    """Slices of rows, so that decoding a large layer does not hold it in float32 as a whole."""
    rows = max(1, _ROWS_AT_ONCE_BYTES // (4 * max(1, flat.shape[-1])))
    return [slice(start, start + rows) for start in range(0, flat.shape[0], rows)]
