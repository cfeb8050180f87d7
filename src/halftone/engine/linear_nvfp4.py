"""NVFP4 linear layers on a CPU: weights decoded once, activations quantized where the scheme does.

Serves compressed-tensors (`NVFP4A16`, `NVFP4`) and ModelOpt (`W4A16_NVFP4`, `NVFP4`) alike: both
bring the layer into the same form before they call the kernel, and warn of global scales that
differ within a merged layer.
"""

import torch
import vllm.model_executor.kernels.linear as choosing
from vllm.model_executor.kernels.linear.nvfp4.base import (
    NvFp4LinearKernel,
    NvFp4LinearLayerConfig,
)

from halftone.engine.activations import nvfp4
from halftone.engine.dense import dtype_of, multiply, serve_decoded
from halftone.engine.rebinding import rebind
from halftone.engine.weights import nvfp4_weight

_CONSUMED = ("weight", "weight_scale", "weight_global_scale", "alpha")


class HalftoneCpuNvfp4A16Linear(NvFp4LinearKernel):  # type: ignore[misc]  # vLLM has no types here
    """4-bit weights; activations stay as they are, as in Marlin's kernel."""

    @classmethod
    def is_supported(cls, _capability: int | None = None) -> tuple[bool, str | None]:
        return True, None

    @classmethod
    def can_implement(cls, _config: NvFp4LinearLayerConfig) -> tuple[bool, str | None]:
        return True, None

    def process_weights_after_loading(self, layer: torch.nn.Module) -> None:
        """Decode `weight` `[N, K/2]`; `weight_global_scale` is already the factor."""
        weight = nvfp4_weight(
            layer.weight.data,
            layer.weight_scale.data,
            layer.weight_global_scale.data,
            dtype_of(layer),
        )
        serve_decoded(layer, weight, self, _CONSUMED)

    def apply_weights(
        self, layer: torch.nn.Module, x: torch.Tensor, bias: torch.Tensor | None = None
    ) -> torch.Tensor:
        return multiply(layer, x, bias)


class HalftoneCpuNvfp4Linear(HalftoneCpuNvfp4A16Linear):
    """4-bit weights and activations: W4A4."""

    def apply_weights(
        self, layer: torch.nn.Module, x: torch.Tensor, bias: torch.Tensor | None = None
    ) -> torch.Tensor:
        return multiply(layer, nvfp4(x, layer.input_global_scale_inv), bias)


def install() -> None:
    """Let vLLM choose these kernels; its own choice for weight-only NVFP4 asks no registry."""
    rebind(choosing, "init_nvfp4_linear_kernel", init_nvfp4_linear_kernel)


def init_nvfp4_linear_kernel(use_a16: bool = False) -> NvFp4LinearKernel:
    """In the place of vLLM's function of that name."""
    kernel = HalftoneCpuNvfp4A16Linear if use_a16 else HalftoneCpuNvfp4Linear
    return kernel(NvFp4LinearLayerConfig())
