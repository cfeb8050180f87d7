"""NVFP4 experts on a CPU: weights decoded once at load, activations as a GPU would see them.

compressed-tensors, ModelOpt and Quark all ask two functions of vLLM's `oracle.nvfp4`, which have no
answer on a CPU: which kernel serves the layer, and what its weights look like to that kernel. Both
are replaced; the rest of vLLM's path, its warnings about unequal global scales included, stays as
it is.

Experts with 16-bit activations get vLLM's own kernel for BF16 experts, so their results are those
of a BF16 model with the decoded weights. For W4A4 vLLM's emulation decides on the activation scale:
one for all experts of a layer, as FlashInfer's kernels have it.
"""

from typing import Any

import torch
import vllm.model_executor.layers.fused_moe.oracle.nvfp4 as oracle
from vllm.model_executor.layers.fused_moe.oracle.nvfp4 import NvFp4MoeBackend
from vllm.model_executor.layers.fused_moe.oracle.unquantized import select_unquantized_moe_backend
from vllm.model_executor.layers.quantization.utils.quant_utils import kNvfp4Dynamic

from halftone.engine.expert_kernel import require_support
from halftone.engine.kernels import note_kernel
from halftone.engine.rebinding import Function, rebind
from halftone.engine.weights import nvfp4_weight


def install() -> None:
    """Serve NVFP4 experts in this process; calling it again changes nothing."""
    select, convert = oracle.select_nvfp4_moe_backend, oracle.convert_to_nvfp4_moe_kernel_format
    rebind(oracle, "select_nvfp4_moe_backend", _select(select))
    rebind(oracle, "convert_to_nvfp4_moe_kernel_format", _convert(convert))


def _select(original: Function) -> Function:
    """Call it Marlin for 16-bit activations and emulation for 4-bit ones, which no CPU has.

    The rest of vLLM's set-up goes by these words; under them it does what ours needs.
    """

    def select_nvfp4_moe_backend(config: Any, weight_key: Any, activation_key: Any) -> Any:
        if activation_key is None:
            require_support(config)
            note_kernel("HalftoneCpuNvfp4A16Experts")
            return NvFp4MoeBackend.MARLIN, select_unquantized_moe_backend(moe_config=config)[1]
        if activation_key == kNvfp4Dynamic:
            return NvFp4MoeBackend.EMULATION, require_support(config)
        return original(config, weight_key, activation_key)

    return select_nvfp4_moe_backend


def _convert(original: Function) -> Function:
    """Decode the weights; their scales are spent then, and empty tensors take their place."""

    def convert_to_nvfp4_moe_kernel_format(
        nvfp4_backend: Any,
        layer: Any,
        w13: torch.Tensor,
        w13_scale: torch.Tensor,
        w13_scale_2: torch.Tensor,
        a13_scale: torch.Tensor | None,
        w2: torch.Tensor,
        w2_scale: torch.Tensor,
        w2_scale_2: torch.Tensor,
        a2_scale: torch.Tensor | None,
        *others: Any,
        **named: Any,
    ) -> Any:
        if nvfp4_backend is NvFp4MoeBackend.MARLIN:
            a13_scale = a2_scale = None
        else:
            first = (w13, w13_scale, w13_scale_2, a13_scale)
            second = (w2, w2_scale, w2_scale_2, a2_scale)
            theirs = original(nvfp4_backend, layer, *first, *second, *others, **named)
            if nvfp4_backend is not NvFp4MoeBackend.EMULATION:
                return theirs
            a13_scale, a2_scale = theirs[3], theirs[7]
        dtype = layer.moe_config.in_dtype
        w13 = nvfp4_weight(w13.data, w13_scale.data, w13_scale_2.data, dtype)
        w2 = nvfp4_weight(w2.data, w2_scale.data, w2_scale_2.data, dtype)
        spent = [torch.empty(0) for _ in range(4)]
        return w13, spent[0], spent[1], a13_scale, w2, spent[2], spent[3], a2_scale

    return convert_to_nvfp4_moe_kernel_format
