"""FP8 quantization as an operation, which vLLM's build for CPUs lacks.

vLLM brings the shards of a merged layer with one scale each (`FP8` of compressed-tensors and of
ModelOpt) under their largest scale while it loads them, by dequantizing and quantizing again with
`_custom_ops.scaled_fp8_quant`. On a CPU that function ends in an operation without an
implementation; here it is, with the arithmetic of the CUDA kernel.
"""

from typing import Any

import torch
import vllm._custom_ops as operations

_FP8_MAX = torch.finfo(torch.float8_e4m3fn).max
_TOKEN_SCALE_FLOOR = 1.0 / (_FP8_MAX * 512.0)


def scaled_fp8_quant(
    input: torch.Tensor,  # noqa: A002  # vLLM's callers may name it
    scale: torch.Tensor | None = None,
    num_token_padding: int | None = None,
    scale_ub: torch.Tensor | None = None,
    use_per_token_if_dynamic: bool = False,
    output: torch.Tensor | None = None,
    group_shape: tuple[int, int] | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """FP8 codes of `input` `[M, K]` and their scales: the given one, one a row, or one for all.

    Raises NotImplementedError for what vLLM never asks for while loading: padding, and static
    scales of groups.
    """
    grouped = group_shape not in (None, (-1, -1)) or (scale is not None and scale.numel() > 1)
    if num_token_padding or grouped:
        raise NotImplementedError("FP8 codes with padding or with static scales of groups")
    wide = input.float()
    if scale is not None:
        codes = wide * scale.float().reciprocal()
    elif use_per_token_if_dynamic:
        maxima = wide.abs().amax(dim=-1, keepdim=True)
        maxima = maxima if scale_ub is None else maxima.clamp(max=float(scale_ub))
        scale = (maxima / _FP8_MAX).clamp(min=_TOKEN_SCALE_FLOOR)
        codes = wide / scale
    else:
        scale = (wide.abs().amax() / _FP8_MAX).reshape(1)
        codes = wide * scale.reciprocal()
    result = codes.clamp(-_FP8_MAX, _FP8_MAX).to(torch.float8_e4m3fn)
    return (result if output is None else output.copy_(result)), scale


def install() -> None:
    """Take the function's place; its callers reach it through the module."""
    ours: Any = scaled_fp8_quant
    operations.scaled_fp8_quant = ours
