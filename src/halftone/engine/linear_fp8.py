"""FP8 linear layers on a CPU: weights decoded once, activations quantized as the GPU does.

Serves compressed-tensors (`FP8_DYNAMIC`, `FP8`, `FP8_BLOCK`, weight-only), ModelOpt (`FP8`,
`FP8_PER_CHANNEL_PER_TOKEN`, `FP8_PB_WO`) and the Hub's own `fp8` blocks: all of them name the
weight's and the activation's scales in one configuration, and vLLM asks a list of kernels which
can serve it. Ours stand first in those lists.

vLLM's own kernels for CPUs are passed over even where they would run: some leave activations as
they are, some need AMX, and one scales a block's partial sums instead of the activations.
"""

import torch
import vllm.model_executor.kernels.linear as choosing
from vllm.config import get_current_vllm_config_or_none
from vllm.model_executor.kernels.linear.scaled_mm import (
    Fp8BlockScaledMMLinearKernel,
    FP8ScaledMMLinearKernel,
    FP8ScaledMMLinearLayerConfig,
)
from vllm.model_executor.layers.quantization.utils.fp8_utils import requant_weight_ue8m0_inplace
from vllm.platforms import PlatformEnum
from vllm.utils.deep_gemm import _DEEPGEMM_BLACKWELL_EXCLUDED_MODEL_TYPES

from halftone.engine.activations import fp8_per_group, fp8_per_tensor, fp8_per_token
from halftone.engine.dense import dtype_of, multiply, serve_decoded
from halftone.engine.weights import fp8_weight

_CONSUMED = ("weight", "weight_scale", "weight_scale_inv")


class _DecodedFp8Linear(FP8ScaledMMLinearKernel):  # type: ignore[misc]  # vLLM has no types here
    """Weights with one scale, one a row, or one a block; a subclass says what activations get.

    vLLM hands the weight over transposed, `[K, N]`, except in blocks.
    """

    @classmethod
    def is_supported(cls, _capability: int | None = None) -> tuple[bool, str | None]:
        return True, None

    def process_weights_after_loading(self, layer: torch.nn.Module) -> None:
        """Decode the weight, whatever its scales stand for."""
        block = getattr(layer, "weight_block_size", None)
        codes = layer.weight.data if block else layer.weight.data.t()
        scale = getattr(layer, "weight_scale_inv", None)
        scale = layer.weight_scale if scale is None else scale
        weight = fp8_weight(codes.contiguous(), scale.data, block, dtype_of(layer))
        serve_decoded(layer, weight, self, _CONSUMED)

    def apply_scaled_mm(self, **_: object) -> torch.Tensor:
        """Never called: `apply_weights` multiplies decoded weights."""
        raise NotImplementedError


class HalftoneCpuFp8TokenLinear(_DecodedFp8Linear):
    """Activations get one dynamic scale a token: FP8_DYNAMIC."""

    @classmethod
    def can_implement(cls, c: FP8ScaledMMLinearLayerConfig) -> tuple[bool, str | None]:
        scale = c.activation_quant_key.scale
        if scale.static or not scale.group_shape.is_per_token():
            return False, "takes dynamic scales per token"
        return True, None

    def apply_weights(
        self, layer: torch.nn.Module, x: torch.Tensor, bias: torch.Tensor | None = None
    ) -> torch.Tensor:
        return multiply(layer, fp8_per_token(x), bias)


class HalftoneCpuFp8TensorLinear(_DecodedFp8Linear):
    """Activations share one scale, static (`FP8`) or, in the Hub's `fp8` blocks, dynamic."""

    @classmethod
    def can_implement(cls, c: FP8ScaledMMLinearLayerConfig) -> tuple[bool, str | None]:
        if not c.activation_quant_key.scale.group_shape.is_per_tensor():
            return False, "takes one scale for all activations"
        return True, None

    def apply_weights(
        self, layer: torch.nn.Module, x: torch.Tensor, bias: torch.Tensor | None = None
    ) -> torch.Tensor:
        scale = layer.input_scale if self.config.activation_quant_key.scale.static else None
        if scale is None:
            scale = x.abs().amax().float() / torch.finfo(torch.float8_e4m3fn).max
        return multiply(layer, fp8_per_tensor(x, scale), bias)


class HalftoneCpuFp8A16Linear(_DecodedFp8Linear):
    """Weights only; activations stay as they are, as in Marlin's kernel."""

    @classmethod
    def can_implement(cls, _c: FP8ScaledMMLinearLayerConfig) -> tuple[bool, str | None]:
        return True, None

    def apply_weights(
        self, layer: torch.nn.Module, x: torch.Tensor, bias: torch.Tensor | None = None
    ) -> torch.Tensor:
        return multiply(layer, x, bias)


class HalftoneCpuFp8BlockLinear(Fp8BlockScaledMMLinearKernel):  # type: ignore[misc]
    """Weights in blocks of 128 × 128, activations in groups of 128: FP8_BLOCK, FP8_PB_WO.

    On Hopper and Blackwell vLLM takes DeepGEMM where the shape allows it. That kernel wants powers
    of two: it requantizes other weights at load and rounds the scales of activations up. The text
    models of Qwen3.5 are excepted on Blackwell, and CUTLASS takes scales as they are. Blackwell is
    what is followed here.
    """

    @classmethod
    def is_supported(cls, _capability: int | None = None) -> tuple[bool, str | None]:
        return True, None

    def __init__(self, config: FP8ScaledMMLinearLayerConfig) -> None:
        super().__init__(config)
        self.power_of_two = _takes_deep_gemm(config)

    def process_weights_after_loading(self, layer: torch.nn.Module) -> None:
        """Decode `weight` `[N, K]`, after DeepGEMM's change of scales where that applies."""
        scale = getattr(layer, "weight_scale_inv", None)
        scale = (layer.weight_scale if scale is None else scale).data.float()
        block = [*self.weight_group_shape]
        if self.power_of_two:
            requant_weight_ue8m0_inplace(layer.weight.data, scale, block)
        weight = fp8_weight(layer.weight.data, scale, block, dtype_of(layer))
        serve_decoded(layer, weight, self, _CONSUMED)

    def apply_weights(
        self,
        layer: torch.nn.Module,
        x: torch.Tensor,
        bias: torch.Tensor | None = None,
        **_: object,
    ) -> torch.Tensor:
        columns = self.config.activation_quant_key.scale.group_shape.col
        return multiply(layer, fp8_per_group(x, columns, power_of_two=self.power_of_two), bias)

    def apply_block_scaled_mm(self, **_: object) -> torch.Tensor:
        """Never called: `apply_weights` multiplies decoded weights."""
        raise NotImplementedError


def install() -> None:
    """Put our kernels before vLLM's in the lists that it chooses from."""
    for kernels, ours in (
        (choosing._POSSIBLE_FP8_KERNELS, (HalftoneCpuFp8TokenLinear, HalftoneCpuFp8TensorLinear)),
        (choosing._POSSIBLE_FP8_BLOCK_KERNELS, (HalftoneCpuFp8BlockLinear,)),
        (choosing._POSSIBLE_WFP8A16_KERNELS, (HalftoneCpuFp8A16Linear,)),
    ):
        theirs = kernels.setdefault(PlatformEnum.CPU, [])
        theirs[:] = [*ours, *(kernel for kernel in theirs if kernel not in ours)]


def _takes_deep_gemm(config: FP8ScaledMMLinearLayerConfig) -> bool:
    """Whether vLLM on a Blackwell GPU would choose DeepGEMM for this layer (as in 0.32)."""
    rows, columns = config.weight_shape
    group = config.activation_quant_key.scale.group_shape
    served = get_current_vllm_config_or_none()
    model = getattr(served, "model_config", None)
    family = getattr(getattr(model, "hf_text_config", None), "model_type", None)
    return (
        config.out_dtype == torch.bfloat16
        and (group.row, group.col) == (1, 128)
        and rows % 64 == 0
        and columns % 128 == 0
        and family not in _DEEPGEMM_BLACKWELL_EXCLUDED_MODEL_TYPES
    )
