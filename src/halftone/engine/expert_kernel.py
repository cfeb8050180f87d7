"""vLLM's interface of an expert kernel, in front of `expert_forward`.

`experts_nvfp4` and `experts_fp8` hand this class to vLLM, which makes one object a layer. It finds
out by which scheme the layer's activations are quantized, and refuses what the forward cannot do.
"""

from typing import Any

import torch
from vllm.model_executor.layers.fused_moe.activation import MoEActivation
from vllm.model_executor.layers.fused_moe.modular_kernel import (
    FusedMoEActivationFormat,
    FusedMoEExpertsModular,
)
from vllm.model_executor.layers.fused_moe.topk_weight_and_reduce import TopKWeightAndReduceNoOP

from halftone.engine.expert_forward import fused_experts
from halftone.engine.kernels import note_kernel

# Those that vLLM has for CPUs and that take gate and up in halves.
_ACTIVATIONS = (MoEActivation.SILU, MoEActivation.GELU, MoEActivation.GELU_TANH)


class QuantizedActivationExperts(FusedMoEExpertsModular):  # type: ignore[misc]  # no types here
    """Experts with dequantized weights whose inputs are quantized as a GPU's kernels would."""

    def __init__(self, moe_config: Any, quant_config: Any, **others: Any) -> None:
        """`quant_config` is vLLM's own for the format: it tells how activations are scaled."""
        super().__init__(moe_config, quant_config, **others)
        self.scheme, self.scales = _scheme(quant_config)
        note_kernel(f"HalftoneCpu{self.scheme}Experts")

    @property
    def expects_unquantized_inputs(self) -> bool:
        """Activations are quantized here, not by what comes before."""
        return True

    @staticmethod
    def activation_format() -> FusedMoEActivationFormat:
        return FusedMoEActivationFormat.Standard

    @staticmethod
    def is_supported_config(
        cls: Any, moe_config: Any, weight_key: Any, activation_key: Any, activation_format: Any
    ) -> tuple[bool, str | None]:
        """Whether the forward does what the model asks for, and what it cannot do."""
        if moe_config.has_bias:
            return False, "experts with biases are not emulated"
        if moe_config.swiglu_limit is not None:
            return False, "experts with a SwiGLU limit are not emulated"
        found: tuple[bool, str | None] = FusedMoEExpertsModular.is_supported_config(
            cls, moe_config, weight_key, activation_key, activation_format
        )
        return found

    @staticmethod
    def _supports_current_device() -> bool:
        return True  # `register` does nothing but on a CPU

    @staticmethod
    def _supports_no_act_and_mul() -> bool:
        return False

    @staticmethod
    def _supports_quant_scheme(*_keys: Any) -> bool:
        return True  # `select_…_moe_backend` has looked

    @staticmethod
    def _supports_activation(activation: MoEActivation) -> bool:
        return activation in _ACTIVATIONS

    @staticmethod
    def _supports_parallel_config(*_parallel: Any) -> bool:
        return True  # experts of other ranks are skipped

    def finalize_weight_and_reduce_impl(self) -> TopKWeightAndReduceNoOP:
        """Nothing is left to do: the forward weighs and adds up."""
        return TopKWeightAndReduceNoOP()

    def workspace_shapes(
        self, tokens: int, width: int, hidden: int, *others: Any
    ) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        """No scratch space; the output is `[tokens, hidden]`."""
        return (0,), (0,), (tokens, hidden)

    def apply(
        self,
        output: torch.Tensor,
        hidden_states: torch.Tensor,
        w1: torch.Tensor,
        w2: torch.Tensor,
        topk_weights: torch.Tensor,
        topk_ids: torch.Tensor,
        activation: MoEActivation,
        global_num_experts: int,
        expert_map: torch.Tensor | None,
        a1q_scale: torch.Tensor | None,
        a2_scale: torch.Tensor | None,
        workspace13: torch.Tensor,
        workspace2: torch.Tensor,
        expert_tokens_meta: Any,
        apply_router_weight_on_input: bool,
    ) -> None:
        """Write the layer's routed output into `output`; the signature is vLLM's."""
        experts = topk_ids if expert_map is None else expert_map[topk_ids.long()]
        weights = torch.ones_like(topk_weights) if apply_router_weight_on_input else topk_weights
        fused_experts(
            output,
            hidden_states,
            w1,
            w2,
            weights,
            experts,
            activation.value,
            self.scheme,
            *self.scales,
        )


def require_support(moe_config: Any) -> type[QuantizedActivationExperts]:
    """The kernel, if it does what the model asks for; else ValueError that says what it does not.

    vLLM prints the error of a failed load; there is no reader for an error of ours.
    """
    parallel = moe_config.moe_parallel_config
    batched = parallel.use_batched_activation_format
    wanted = "BatchedExperts" if batched else "Standard"
    supported, reason = QuantizedActivationExperts.is_supported_config(
        QuantizedActivationExperts, moe_config, None, None, FusedMoEActivationFormat[wanted]
    )
    if not supported:
        raise ValueError(f"halftone cannot serve these experts on a CPU: {reason}")
    return QuantizedActivationExperts


def _scheme(config: Any) -> tuple[str, tuple[torch.Tensor | None, torch.Tensor | None]]:
    """How activations are quantized before each product, and the two scales that it needs."""
    if config.quant_dtype == "nvfp4":
        return "Nvfp4", (config.a1_gscale, config.a2_gscale)
    if config.per_act_token_quant:
        return "Fp8Token", (None, None)
    if config.block_shape is not None:
        if config.block_shape[1] != 128:
            raise ValueError(f"FP8 activations in groups of {config.block_shape[1]} columns")
        return "Fp8Block", (None, None)
    if config.a1_scale is None or config.a2_scale is None:
        raise ValueError("FP8 experts with one scale a tensor need static activation scales")
    return "Fp8Tensor", (config.a1_scale, config.a2_scale)
