"""What every linear kernel of ours ends with: a decoded weight, multiplied by vLLM's own CPU code.

The product itself is the one that vLLM takes for a BF16 layer, so a served checkpoint and its
dequantized twin differ by nothing but what quantization did.
"""

from collections.abc import Iterable
from typing import Any

import torch
from vllm.model_executor.layers.utils import dispatch_cpu_unquantized_gemm

from halftone.engine.kernels import note_kernel


def serve_decoded(
    layer: torch.nn.Module, weight: torch.Tensor, kernel: Any, consumed: Iterable[str]
) -> None:
    """Let `layer` multiply by `weight` `[N, K]` and forget the parameters `consumed`."""
    for name in consumed:
        if hasattr(layer, name):
            delattr(layer, name)
    layer.weight = torch.nn.Parameter(weight, requires_grad=False)
    dispatch_cpu_unquantized_gemm(layer, remove_weight=True)
    note_kernel(type(kernel).__name__)


def multiply(layer: torch.nn.Module, x: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """`x` `[..., K]` times the decoded weight, `[..., N]`, plus `bias`."""
    product: torch.Tensor = layer.cpu_linear(x, layer.weight, bias)
    return product


def dtype_of(layer: torch.nn.Module) -> torch.dtype:
    """The model's dtype, which vLLM notes at the layer under one of two names."""
    for name in ("params_dtype", "orig_dtype"):
        found = getattr(layer, name, None)
        if isinstance(found, torch.dtype) and found.itemsize > 1:
            return found
    return torch.get_default_dtype()
