"""Routed experts in plain torch, with activations quantized before each product.

vLLM's expert kernel for CPUs runs both products in one call, so nothing can be quantized between
them. Where a GPU quantizes activations, `expert_kernel` calls this instead: a loop over the experts
that tokens chose, exact and slow. It is a custom operator because the loop depends on the data,
which `torch.compile` could not trace.
"""

import torch
from vllm.model_executor.layers.fused_moe.activation import MoEActivation, apply_moe_activation

from halftone.engine.activations import fp8_per_group, fp8_per_tensor, fp8_per_token, nvfp4


def _quantized(x: torch.Tensor, scheme: str, scale: torch.Tensor | None) -> torch.Tensor:
    """`x` `[tokens, K]` after quantization by `scheme`, in its own dtype.

    vLLM rounds group scales of experts up to powers of two on every GPU that has DeepGEMM,
    whichever kernel multiplies then (`per_token_group_quant_fp8`; linear layers ask for each kernel
    by itself).
    """
    if scheme == "Fp8Token":
        return fp8_per_token(x)
    if scheme == "Fp8Block":
        return fp8_per_group(x, power_of_two=True)
    if scale is None:
        raise ValueError(f"activation scheme {scheme} needs a scale")
    if scheme == "Fp8Tensor":
        return fp8_per_tensor(x, scale)
    if scheme == "Nvfp4":
        return nvfp4(x, scale)
    raise ValueError(f"unknown activation scheme {scheme}")


def _activated(gate_up: torch.Tensor, activation: str) -> torch.Tensor:
    """`act(gate) * up`, `[tokens, I]` of `[tokens, 2I]`.

    In float32, and rounded once: vLLM's operator for CPUs cuts BF16 results off instead of rounding
    them, which would move every activation towards zero before it is quantized.
    """
    out = gate_up.new_empty(gate_up.shape[0], gate_up.shape[1] // 2, dtype=torch.float32)
    apply_moe_activation(MoEActivation(activation), out, gate_up.float())
    return out.to(gate_up.dtype)


@torch.library.custom_op(  # type: ignore[untyped-decorator]  # torch is not at hand in this check
    "halftone::fused_experts", mutates_args=("output",), device_types="cpu"
)
def fused_experts(
    output: torch.Tensor,
    hidden: torch.Tensor,
    w13: torch.Tensor,
    w2: torch.Tensor,
    weights: torch.Tensor,
    experts: torch.Tensor,
    activation: str,
    scheme: str,
    scale13: torch.Tensor | None,
    scale2: torch.Tensor | None,
) -> None:
    """Routed experts over `hidden` `[tokens, H]`, added up into `output` of that shape.

    `w13` is `[E, 2I, H]` (gate above up) and `w2` `[E, H, I]`, decoded; `weights` and `experts` are
    the router's choice `[tokens, top k]`, an expert below 0 being another rank's. As on a GPU,
    products are rounded to the model's dtype, and the weighted sum over a token's experts is taken
    in float32 and rounded once. Raises ValueError for a scheme without its scales.
    """
    quantized = _quantized(hidden, scheme, scale13)
    total = torch.zeros(hidden.shape, dtype=torch.float32)
    for expert in experts.unique().tolist():
        if expert < 0:
            continue
        tokens, choice = (experts == expert).nonzero(as_tuple=True)
        gate_up = torch.nn.functional.linear(quantized[tokens], w13[expert])
        inner = _quantized(_activated(gate_up, activation), scheme, scale2)
        down = torch.nn.functional.linear(inner, w2[expert])
        share = weights[tokens, choice].float().unsqueeze(-1)
        total.index_add_(0, tokens, down.float() * share)
    output.copy_(total)
