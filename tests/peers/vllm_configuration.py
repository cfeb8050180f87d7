"""What vLLM makes of a checkpoint's `quantization_config`; run in the serving environment.

    python vllm_configuration.py CASES.json ANSWERS.json

Each case: `directory` (a checkpoint, or a `config.json` alone), `draft` (build the multi-token-
prediction head in place of the trunk) and `values` (null, or a file: load the weights too). vLLM's
own classes are built layer by layer, as a server builds them, and every question that a layer asks
the configuration's `get_quant_method` is written down with its answer, whichever library's layout
it is. Loading goes through vLLM's own loader and, for NVFP4, its own merging of global scales;
`values` gets what vLLM's own dequantizer then makes of each layer, in BF16.

No model runs, so kernels are not needed: their choice and construction, which fail on a CPU for
most formats, are replaced. Nothing else is.
"""

import importlib
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
os.environ["VLLM_PLUGINS"] = ""  # vLLM by itself

import torch
from safetensors.torch import save_file
from vllm.config import VllmConfig, set_current_vllm_config
from vllm.distributed import init_distributed_environment, initialize_model_parallel
from vllm.engine.arg_utils import EngineArgs
from vllm.model_executor.layers.fused_moe.oracle.fp8 import Fp8MoeBackend
from vllm.model_executor.layers.fused_moe.oracle.nvfp4 import NvFp4MoeBackend
from vllm.model_executor.layers.quantization import modelopt
from vllm.model_executor.layers.quantization.compressed_tensors import (
    compressed_tensors_moe as experts,
)
from vllm.model_executor.layers.quantization.compressed_tensors import schemes
from vllm.model_executor.layers.quantization.compressed_tensors.compressed_tensors import (
    CompressedTensorsConfig,
)
from vllm.model_executor.layers.quantization.utils.nvfp4_emulation_utils import (
    dequantize_to_dtype,
)
from vllm.model_executor.model_loader.default_loader import DefaultModelLoader
from vllm.model_executor.model_loader.utils import initialize_model
from vllm.utils.torch_utils import set_default_torch_dtype

torch.cpu._is_amx_tile_supported = lambda: False  # some hosts promise AMX and die of it

Case = dict[str, Any]
Question = dict[str, Any]

MOE_TENSORS = ("weight", "weight_scale", "weight_scale_2")
CONFIGURATIONS = (
    CompressedTensorsConfig,
    modelopt.ModelOptQuantConfigBase,
    modelopt.ModelOptMixedPrecisionConfig,
)
# What vLLM calls the ways in which ModelOpt's weights and activations are scaled.
STRATEGIES = {
    modelopt.kFp8StaticTensorSym: "tensor",
    modelopt.kFp8StaticTokenSym: "channel",
    modelopt.kFp8Static128BlockSym: "block",
}
# Scales of merged matrices and of what enters them: all members and experts must agree.
SHARED = ("weight_global_scale", "weight_scale_2", "input_global_scale", "input_scale")


class NoKernel:
    """Stands where a layer keeps its kernel."""

    def __init__(self, **_: Any) -> None:
        self.fused_experts = self

    @classmethod
    def of(cls, *_: Any, **__: Any) -> "NoKernel":
        """However it is chosen."""
        return cls()

    def input_quant_key(self) -> None:
        """Kernels may take quantized inputs; this one takes none."""

    def process_weights_after_loading(self, layer: torch.nn.Module) -> None:
        """Kernels may rearrange the weights; this one leaves them."""


def without_kernels() -> None:
    """Let layers be built whose kernels do not exist on a CPU."""
    schemes.compressed_tensors_w4a4_nvfp4.init_nvfp4_linear_kernel = NoKernel
    schemes.compressed_tensors_w8a8_fp8.init_fp8_linear_kernel = NoKernel
    schemes.compressed_tensors_w8a16_fp8.init_wfp8_a16_linear_kernel = NoKernel
    nvfp4: Any = importlib.import_module(f"{experts.__name__}.compressed_tensors_moe_w4a4_nvfp4")
    nvfp4.select_nvfp4_moe_backend = lambda **_: (NvFp4MoeBackend.EMULATION, NoKernel)
    nvfp4.make_nvfp4_moe_kernel = NoKernel
    fp8: Any = importlib.import_module(f"{experts.__name__}.compressed_tensors_moe_w8a8_fp8")
    fp8.select_fp8_moe_backend = lambda **_: (Fp8MoeBackend.TRITON, NoKernel)
    modelopt.select_linear_kernel = NoKernel.of
    modelopt.select_nvfp4_moe_backend = nvfp4.select_nvfp4_moe_backend
    modelopt.make_nvfp4_moe_kernel = NoKernel
    modelopt.select_fp8_moe_backend = fp8.select_fp8_moe_backend


@contextmanager
def written_down(questions: list[Question]) -> Iterator[None]:
    """Every question to the quantization configuration goes to `questions` as well."""
    originals = {kind: kind.get_quant_method for kind in CONFIGURATIONS}

    def asking(original: Any) -> Any:
        def asked(self: Any, layer: torch.nn.Module, prefix: str) -> Any:
            method = original(self, layer, prefix)
            questions.append(
                {"layer": type(layer).__name__, "name": prefix, "scheme": scheme(layer, method)}
            )
            return method

        return asked

    for kind, original in originals.items():
        kind.get_quant_method = asking(original)
    try:
        yield
    finally:
        for kind, original in originals.items():
            kind.get_quant_method = original


def scheme(layer: torch.nn.Module, method: Any) -> dict[str, Any] | None:
    """What was chosen: the class, and what it says of weights and activations."""
    chosen = getattr(layer, "scheme", None) or method
    if isinstance(chosen, modelopt.ModelOptLinearMethod):
        weights, inputs = chosen.spec.weight, chosen.spec.activation
        return {
            "class": "ModelOptFp8" if weights in STRATEGIES else "ModelOptNvFp4",
            "use_a16": inputs is None,
            "strategy": STRATEGIES.get(weights),
            "static": inputs == modelopt.kFp8StaticTensorSym,
        }
    if isinstance(chosen, (modelopt.ModelOptNvFp4FusedMoE, modelopt.ModelOptFp8MoEMethod)):
        fp8 = isinstance(chosen, modelopt.ModelOptFp8MoEMethod)
        return {
            "class": "ModelOptFp8" if fp8 else "ModelOptNvFp4",
            "use_a16": getattr(chosen, "use_a16", None),
            "strategy": "tensor" if fp8 else None,
            "static": fp8,
        }
    quantized = "CompressedTensors" in type(chosen).__name__
    if not quantized or "KVCache" in type(chosen).__name__:
        return None
    weights = getattr(chosen, "weight_quant", None)
    return {
        "class": type(chosen).__name__,
        "use_a16": getattr(chosen, "use_a16", None),
        "strategy": None if weights is None else str(weights.strategy),
        "static": getattr(chosen, "is_static_input_scheme", None)
        or getattr(chosen, "static_input_scales", None),
    }


def engine_config(case: Case) -> VllmConfig:
    """The configuration that `vllm serve DIRECTORY` would start with."""
    drafts = {"method": "mtp", "num_speculative_tokens": 1} if case["draft"] else None
    arguments = EngineArgs(
        model=case["directory"],
        skip_tokenizer_init=True,
        dtype="bfloat16",
        enforce_eager=True,
        max_model_len=256,
        speculative_config=drafts,
    )
    return arguments.create_engine_config()


def build(case: Case, questions: list[Question]) -> dict[str, Any]:
    """Build the model of one case, load it if that is asked, and say what was found."""
    config = engine_config(case)
    model_config = config.model_config
    if case["draft"]:
        model_config = config.speculative_config.draft_model_config
    with (
        set_current_vllm_config(config),
        set_default_torch_dtype(torch.bfloat16),
        torch.device("cpu" if case["values"] else "meta"),
        written_down(questions),
    ):
        model = initialize_model(vllm_config=config, model_config=model_config)
        answer = {
            "model": type(model).__name__,
            "kvCache": config.cache_config.cache_dtype,
        }
        if case["values"]:
            answer |= load(model, config, model_config)
            save_file(dequantized(model), case["values"])
    return answer


def load(model: torch.nn.Module, config: VllmConfig, model_config: Any) -> dict[str, Any]:
    """Load the weights: parameters that got none, and global scales that differ where merged."""
    loader = DefaultModelLoader(config.load_config)
    loaded = model.load_weights(loader.get_all_weights(model_config, model))
    parameters = dict(model.named_parameters())
    merged = {}  # one scale for each matrix that was merged; of experts, a row for each expert
    for name, parameter in parameters.items():
        if name in loaded and name.endswith(SHARED) and "w2_weight" not in name:
            every = "input" in name  # experts share the scale of what enters them
            merged[name] = parameter.detach().reshape(
                1 if every else parameter[..., :1].numel(), -1
            )
    return {
        "parameters": len(parameters),
        "unloaded": sorted(parameters.keys() - loaded),
        "globalScales": len(merged),
        "cacheScales": {
            name: float(parameter)
            for name, parameter in parameters.items()
            if name in loaded and name.endswith((".attn.k_scale", ".attn.v_scale"))
        },
        "unequalGlobalScales": sorted(
            name for name, scales in merged.items() if not scales.eq(scales[:, :1]).all()
        ),
    }


def dequantized(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Every NVFP4 matrix as vLLM merged it; of experts `w13` and `w2`, stacked."""
    out = {}
    for name, layer in model.named_modules():
        chosen = str(scheme(layer, getattr(layer, "quant_method", None)))
        if "Nvfp4MoE" in chosen or ("ModelOptNvFp4" in chosen and hasattr(layer, "w13_weight")):
            layer.quant_method.process_weights_after_loading(layer)
            for part in ("w13", "w2"):
                stored = [getattr(layer, f"{part}_{s}") for s in MOE_TENSORS]
                out[f"{name}.{part}"] = dequantize_to_dtype(*stored, torch.bfloat16, swizzle=False)
        elif "W4A4Fp4" in chosen or "ModelOptNvFp4" in chosen:
            layer.quant_method.process_weights_after_loading(layer)
            stored = [layer.weight, layer.weight_scale, layer.weight_global_scale]
            out[name] = dequantize_to_dtype(*stored, torch.bfloat16, swizzle=False)
    return {name: values.detach().contiguous() for name, values in out.items()}


def answer(case: Case) -> dict[str, Any]:
    """What vLLM says to one case; an error is an answer too."""
    questions: list[Question] = []
    try:
        found = build(case, questions)
    except Exception as error:
        found = {"error": f"{type(error).__name__}: {error}"}
    return {"error": None, "asked": questions} | found


def main(cases: Path, answers: Path) -> None:
    """Answer every case of a file."""
    torch.set_num_threads(2)
    without_kernels()
    with tempfile.NamedTemporaryFile() as rendezvous, set_current_vllm_config(VllmConfig()):
        init_distributed_environment(1, 0, f"file://{rendezvous.name}", 0, "gloo")
        initialize_model_parallel(1, 1)
        answers.write_text(json.dumps([answer(case) for case in json.loads(cases.read_text())]))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
