"""FP8 experts on a CPU: weights decoded once at load, activations as a GPU would see them.

Serves weights with one scale a row, a tensor or a block, of compressed-tensors, of ModelOpt and of
the Hub's own `fp8`. All ask two functions of vLLM's `oracle.fp8`: which kernel serves the layer,
and what its weights look like to that kernel. Both are replaced. Weights with one scale a tensor
also need `fp8_merging`, which lets vLLM bring gate and up under one scale.

vLLM's own CPU kernel for FP8 blocks keeps activations in 16 bits, so it is passed over too: it
would serve another model than the GPU does.
"""

from typing import Any

import torch
import vllm.model_executor.layers.fused_moe.oracle.fp8 as oracle
from vllm.model_executor.layers.fused_moe.oracle.fp8 import Fp8MoeBackend
from vllm.model_executor.layers.quantization.utils.quant_utils import (
    kFp8Dynamic128Sym,
    kFp8DynamicTokenSym,
    kFp8StaticTensorSym,
)

from halftone.engine.expert_kernel import require_support
from halftone.engine.rebinding import Function, rebind
from halftone.engine.weights import fp8_weight

_ACTIVATIONS = (kFp8DynamicTokenSym, kFp8StaticTensorSym, kFp8Dynamic128Sym)


def install() -> None:
    """Serve FP8 experts in this process; calling it again changes nothing."""
    select, convert = oracle.select_fp8_moe_backend, oracle.convert_to_fp8_moe_kernel_format
    rebind(oracle, "select_fp8_moe_backend", _select(select))
    rebind(oracle, "convert_to_fp8_moe_kernel_format", _convert(convert))


def _select(original: Function) -> Function:
    """Call it Triton, whose set-up is the plain one and which nothing else chooses on a CPU."""

    def select_fp8_moe_backend(
        config: Any, weight_key: Any, activation_key: Any, allow_vllm_cutlass: bool = False
    ) -> Any:
        if activation_key in _ACTIVATIONS:
            return Fp8MoeBackend.TRITON, require_support(config)
        return original(config, weight_key, activation_key, allow_vllm_cutlass)

    return select_fp8_moe_backend


def _convert(original: Function) -> Function:
    """Decode the weights; their scales are spent then, and empty tensors take their place."""

    def convert_to_fp8_moe_kernel_format(
        fp8_backend: Any,
        layer: Any,
        w13: torch.Tensor,
        w2: torch.Tensor,
        w13_scale: torch.Tensor,
        w2_scale: torch.Tensor,
        *others: Any,
        **named: Any,
    ) -> Any:
        if fp8_backend is not Fp8MoeBackend.TRITON:
            return original(fp8_backend, layer, w13, w2, w13_scale, w2_scale, *others, **named)
        block = getattr(layer, "weight_block_size", None)
        dtype = layer.moe_config.in_dtype
        w13 = fp8_weight(w13.data, w13_scale.data, block, dtype)
        w2 = fp8_weight(w2.data, w2_scale.data, block, dtype)
        return w13, w2, torch.empty(0), torch.empty(0)

    return convert_to_fp8_moe_kernel_format
