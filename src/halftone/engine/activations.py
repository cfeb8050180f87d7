"""Activations after quantization, in their own dtype: what the GPU's kernels multiply.

Called by the linear and expert kernels of this room before each product, so that gates measure the
model that will be deployed. Every function returns a tensor of the shape and dtype of its argument,
holding code × scale, rounded once to that dtype; it never changes its argument.

Each follows the arithmetic of the CUDA kernel that vLLM 0.32 calls, not of vLLM's fallback in
torch, which differs in the last bit: `csrc/…/w8a8/fp8/common.cu` divides by the scale of a token
but multiplies by the reciprocal of a static one, and has a floor under the first only;
`per_token_group_quant.cu` divides, over a floor of 1e-10 under the maximum; NVFP4 follows
`nvfp4_emulation_utils.ref_nvfp4_quant`, vLLM's own statement of `scaled_fp4_quant` (the CUDA kernel
takes approximate reciprocals; a code on the edge may fall on the other side there).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_FP8_MAX = 448.0
_TOKEN_SCALE_FLOOR = 1.0 / (_FP8_MAX * 512.0)  # min_scaling_factor of vLLM's kernel
_GROUP_MAXIMUM_FLOOR = 1e-10  # eps of vLLM's kernel
_E2M1_MAX = 6.0
_E2M1_MAX_RECIPROCAL = 1.0 / _E2M1_MAX
_NVFP4_BLOCK = 16


def fp8_per_token(x: torch.Tensor) -> torch.Tensor:
    """`x` `[..., K]` with one dynamic scale a row: FP8_DYNAMIC."""
    wide = x.float()
    maxima = wide.abs().amax(dim=-1, keepdim=True)
    scale = (maxima / _FP8_MAX).clamp(min=_TOKEN_SCALE_FLOOR)
    return (_fp8(wide / scale) * scale).to(x.dtype)


def fp8_per_tensor(x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """`x` `[..., K]` with the one static `scale` that calibration left: FP8.

    `scale` is the factor that turns codes into values; it broadcasts against `x`.
    """
    factor = scale.float()
    return (_fp8(x.float() * factor.reciprocal()) * factor).to(x.dtype)


def fp8_stored(x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Keys or values as an FP8 cache holds them; `scale` as in `fp8_per_tensor`.

    The kernel that fills the cache divides, where that of activations multiplies.
    """
    factor = scale.float()
    return (_fp8(x.float() / factor) * factor).to(x.dtype)


def fp8_per_group(
    x: torch.Tensor, group_size: int = 128, *, power_of_two: bool = False
) -> torch.Tensor:
    """`x` `[..., K]` with one dynamic scale for each `group_size` columns: FP8_BLOCK, FP8_PB_WO.

    `power_of_two` rounds scales up to powers of two, as DeepGEMM's kernels ask for; CUTLASS and
    Triton take them as they are. A last group may be short, as a shard of a layer leaves it.
    """
    import torch

    columns = x.shape[-1]
    padded = torch.nn.functional.pad(x.float(), (0, -columns % group_size))
    groups = padded.unflatten(-1, (-1, group_size))
    maxima = groups.abs().amax(dim=-1, keepdim=True).clamp(min=_GROUP_MAXIMUM_FLOOR)
    scale = maxima / _FP8_MAX
    if power_of_two:
        mantissa, exponent = torch.frexp(scale.clamp(min=_GROUP_MAXIMUM_FLOOR))
        scale = torch.ldexp(torch.ones_like(scale), exponent - (mantissa == 0.5).int())
    return (_fp8(groups / scale) * scale).flatten(-2)[..., :columns].to(x.dtype)


def nvfp4(x: torch.Tensor, input_global_scale: torch.Tensor) -> torch.Tensor:
    """`x` `[..., K]` as NVFP4: FP8 block scales of 16 columns, found now, under a static scale.

    `input_global_scale` is what compressed-tensors stores, 2688 / amax (ModelOpt stores its
    reciprocal; vLLM's layers call it `input_global_scale_inv`); one number, or one that broadcasts
    against `[..., K/16, 1]`. Raises ValueError when K is not a multiple of 16.
    """
    import torch

    if x.shape[-1] % _NVFP4_BLOCK:
        raise ValueError(f"NVFP4 activations need a multiple of 16 columns, not {x.shape[-1]}")
    factor = input_global_scale.float()
    blocks = x.float().unflatten(-1, (-1, _NVFP4_BLOCK))
    maxima = blocks.abs().amax(dim=-1, keepdim=True)
    scale = _fp8(factor * (maxima * _E2M1_MAX_RECIPROCAL))
    step = scale / factor
    up = torch.where(
        scale == 0, torch.zeros_like(scale), (scale * factor.reciprocal()).reciprocal()
    )
    return (_e2m1(blocks * up) * step).flatten(-2).to(x.dtype)


def _fp8(values: torch.Tensor) -> torch.Tensor:
    """The nearest FP8 E4M3 numbers, ties to even, at most 448, as float32."""
    import torch

    return values.clamp(-_FP8_MAX, _FP8_MAX).to(torch.float8_e4m3fn).float()


def _e2m1(values: torch.Tensor) -> torch.Tensor:
    """The nearest FP4 E2M1 numbers, ties to the even code, at most 6.

    Steps are 0.5 below 2, 1 below 4 and 2 above, and torch rounds ties to even, which is the even
    code at each of those steps too.
    """
    import torch

    sizes = values.abs().clamp(max=_E2M1_MAX)
    step = torch.where(sizes < 2, 0.5, torch.where(sizes < 4, 1.0, 2.0))
    return torch.copysign((sizes / step).round() * step, values)
