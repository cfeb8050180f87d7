"""The names of vLLM that our expert kernels build on; `vllm_names` checks them with its own.

Apart from the kernels, because these import vLLM's classes and could not be imported to be asked.
"""

from typing import Final

_LAYERS: Final = "vllm.model_executor.layers"
_FUSED_MOE: Final = f"{_LAYERS}.fused_moe"
_KERNEL: Final = f"{_FUSED_MOE}.modular_kernel"
_KEYS: Final = f"{_LAYERS}.quantization.utils.quant_utils"
_SELECT: Final = ("config", "weight_key", "activation_key")
_CALL: Final = (
    "output",
    "hidden_states",
    "topk_weights",
    "topk_ids",
    "activation",
    "expert_map",
    "apply_router_weight_on_input",
)

# Module, what stands in it, and the parameters that we rely on if it is called.
NAMES: Final[tuple[tuple[str, str, tuple[str, ...]], ...]] = (
    (f"{_FUSED_MOE}.activation", "MoEActivation.GELU_TANH", ()),
    (f"{_FUSED_MOE}.activation", "apply_moe_activation", ("activation", "output", "input")),
    (_KERNEL, "FusedMoEActivationFormat.Standard", ()),
    (_KERNEL, "FusedMoEExpertsModular.__init__", ("moe_config", "quant_config")),
    (_KERNEL, "FusedMoEExpertsModular.apply", _CALL),
    (_KERNEL, "FusedMoEExpertsModular.is_supported_config", ("moe_config",)),
    (f"{_FUSED_MOE}.topk_weight_and_reduce", "TopKWeightAndReduceNoOP", ()),
    (f"{_FUSED_MOE}.oracle.unquantized", "select_unquantized_moe_backend", ("moe_config",)),
    (f"{_FUSED_MOE}.oracle.nvfp4", "NvFp4MoeBackend.EMULATION", ()),
    (f"{_FUSED_MOE}.oracle.nvfp4", "NvFp4MoeBackend.MARLIN", ()),
    (f"{_FUSED_MOE}.oracle.nvfp4", "select_nvfp4_moe_backend", _SELECT),
    (
        f"{_FUSED_MOE}.oracle.nvfp4",
        "convert_to_nvfp4_moe_kernel_format",
        ("nvfp4_backend", "layer", "w13_scale_2", "a13_scale", "w2_scale_2", "a2_scale"),
    ),
    (f"{_FUSED_MOE}.oracle.fp8", "Fp8MoeBackend.TRITON", ()),
    (f"{_FUSED_MOE}.oracle.fp8", "select_fp8_moe_backend", (*_SELECT, "allow_vllm_cutlass")),
    (
        f"{_FUSED_MOE}.oracle.fp8",
        "convert_to_fp8_moe_kernel_format",
        ("fp8_backend", "layer", "w13", "w2", "w13_scale", "w2_scale"),
    ),
    (_KEYS, "kFp8Dynamic128Sym", ()),
    (_KEYS, "kFp8DynamicTokenSym", ()),
    (_KEYS, "kFp8StaticTensorSym", ()),
    (_KEYS, "kNvfp4Dynamic", ()),
)
