"""What enters a quantized matrix: activations after a format's own rounding.

Called by `variants`. The arithmetic is compressed-tensors', by the same presets that llm-compressor
writes. Formats with 16-bit activations leave them as they are.
"""

from collections.abc import Callable
from typing import Any, Final

import torch
from compressed_tensors.quantization import fake_quantize, preset_name_to_scheme
from compressed_tensors.quantization.utils import compute_dynamic_scales_and_zp

from halftone.quantize import kernels
from halftone.spec.formats import FORMATS, FP8_BLOCK_SIDE, Format

_SIXTEEN_BITS: Final = frozenset({Format.NVFP4A16, Format.FP8_BLOCK_A16})

Rounding = Callable[[Any], Any]


def activation_rounding(fmt: Format, amax: float | None) -> Rounding | None:
    """What `fmt` does to `x[..., K]` before the product; None where it does nothing.

    `amax` is the largest magnitude that enters the group of matrices which share an input scale;
    only formats that need calibration ask for it.
    """
    if fmt in _SIXTEEN_BITS:
        return None
    args = preset_name_to_scheme(str(fmt), ["Linear"]).input_activations
    if FORMATS[fmt].needs_calibration:
        if amax is None:
            raise ValueError(f"{fmt} needs the largest magnitude of its input")
        return _nvfp4(args, amax) if fmt is Format.NVFP4 else _static(args, amax)
    return _dynamic(args)


def _nvfp4(args: Any, amax: float) -> Rounding:
    """Blocks of 16 with scales found now, under the measured global one (a divisor)."""
    divisor = torch.tensor([float(kernels.nvfp4_global_scale(amax, bfloat16=True))])

    def rounded(x: Any) -> Any:
        flat = x.reshape(1, -1, x.shape[-1])
        shared = divisor.to(x.device)
        scale, zero = compute_dynamic_scales_and_zp(flat, args, None, shared)
        return fake_quantize(flat, scale, zero, args, shared).reshape(x.shape)

    return rounded


def _static(args: Any, amax: float) -> Rounding:
    """One measured scale for everything."""
    scale = torch.tensor([float(kernels.fp8_scale(amax))])

    def rounded(x: Any) -> Any:
        here = scale.to(x.device)
        return fake_quantize(x, here, torch.zeros_like(here), args)

    return rounded


def _dynamic(args: Any) -> Rounding:
    """Scales found now: of each token or, in groups of 128 columns, of each of its groups."""

    def rounded(x: Any) -> Any:
        # compressed-tensors takes the first two dimensions for batch and token.
        flat = x.reshape(1, -1, x.shape[-1])
        short = -x.shape[-1] % FP8_BLOCK_SIDE if args.group_size else 0
        padded = torch.nn.functional.pad(flat, (0, short))
        scale, zero = compute_dynamic_scales_and_zp(padded, args, None)
        return fake_quantize(padded, scale, zero, args)[..., : x.shape[-1]].reshape(x.shape)

    return rounded
