"""What vLLM's own configuration classes answer for modules; run in the serve environment.

    python vllm_schemes.py CASES.json ANSWERS.json

CASES is a list of `{"model": "qwen3_5" | "gemma4_unified", "config": quantization_config,
"modules": [[name, kind, parts], …]}`. ANSWERS gets, for each module, "refused", null (unquantized)
or `[weights, activations]` in vLLM's words: the strategy or algorithm, and what it says of inputs.
Nothing is loaded and no model is built: names go in, schemes come out.
"""

import json
import sys
from pathlib import Path
from typing import Any

from vllm.model_executor.layers.quantization.compressed_tensors.compressed_tensors import (
    CompressedTensorsConfig,
)
from vllm.model_executor.layers.quantization.modelopt import (
    ModelOptFp8Config,
    ModelOptMixedPrecisionConfig,
    ModelOptNvFp4Config,
)
from vllm.model_executor.models.gemma4_unified import Gemma4UnifiedForConditionalGeneration
from vllm.model_executor.models.qwen3_5 import Qwen3_5ForConditionalGeneration

MODELS = {
    "qwen3_5": Qwen3_5ForConditionalGeneration,
    "gemma4_unified": Gemma4UnifiedForConditionalGeneration,
}


class MergedColumnParallelLinear:
    """Stands for a layer; only the name of its class is asked for."""


class RoutedExperts:
    """The same for fused experts."""


def prepared(case: dict[str, Any]) -> Any:
    """The configuration object as vLLM's loader leaves it before it builds the model."""
    block = case["config"]
    if block["quant_method"] == "compressed-tensors":
        config: Any = CompressedTensorsConfig.from_config(block)
    else:
        algorithm = block["quant_algo"]
        kind = ModelOptFp8Config if algorithm.startswith("FP8") else ModelOptNvFp4Config
        kind = ModelOptMixedPrecisionConfig if algorithm == "MIXED_PRECISION" else kind
        config = kind.from_config(block)
    model = MODELS[case["model"]]
    config.packed_modules_mapping = dict(model.packed_modules_mapping)
    config.apply_vllm_mapper(model.hf_to_vllm_mapper.get_rename_mapper())
    return config


def answer(config: Any, name: str, kind: str, parts: list[str]) -> Any:
    """One module's scheme, or None, or "refused"."""
    try:
        if isinstance(config, CompressedTensorsConfig):
            return compressed_tensors_answer(config, name, kind, parts)
        if config.is_layer_excluded(name):
            return None
        if isinstance(config, ModelOptMixedPrecisionConfig):
            algorithm = config._resolve_quant_algo(name)
            return None if algorithm is None else [algorithm, ""]
        return [config.quant_method, ""]
    except ValueError:
        return "refused"


def compressed_tensors_answer(
    config: CompressedTensorsConfig, name: str, kind: str, parts: list[str]
) -> Any:
    """As `get_quant_method` asks: of experts the first one's projections, which must agree."""
    if kind == "RoutedExperts":
        config._add_fused_moe_to_target_scheme_map()
        found = [config.get_scheme_dict(RoutedExperts(), f"{name}.0.{part}") for part in parts]
        if any(one != found[0] for one in found):
            return "refused"
        scheme = found[0]
    else:
        scheme = config.get_scheme_dict(MergedColumnParallelLinear(), name)
    if scheme is None or scheme["weights"] is None:
        return None
    inputs = scheme["input_activations"]
    return [plain(scheme["weights"].strategy), plain("kept" if inputs is None else inputs.dynamic)]


def plain(value: Any) -> str:
    """An enumeration's value, or whatever it is, as text."""
    return str(getattr(value, "value", value))


def main() -> None:
    """Answer every case."""
    cases = json.loads(Path(sys.argv[1]).read_text())
    answers = []
    for case in cases:
        config = prepared(case)
        answers.append([answer(config, *module) for module in case["modules"]])
    Path(sys.argv[2]).write_text(json.dumps(answers))


if __name__ == "__main__":
    main()
