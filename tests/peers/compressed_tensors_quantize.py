"""What llm-compressor and compressed-tensors make of one matrix: runs in `.venvs/quantize`.

    python compressed_tensors_quantize.py INPUT.safetensors SCHEME OUTPUT.safetensors [...]

Any number of such threes, one after the other.
Every 2-D tensor of INPUT goes through the functions that `model_free_ptq` calls for it (no
grouping: a tensor alone). OUTPUT holds, under the tensor's name, what they would store, and
`NAME.decompressed`: what compressed-tensors' own code decompresses that to.
SCHEME is a preset (`NVFP4A16`, `FP8_DYNAMIC`, `FP8_BLOCK`), or:

- `decompress-PRESET`: INPUT holds stored tensors; only decompress them;
- `block-dequantize`: INPUT holds `NAME.weight` in FP8 and `NAME.weight_scale_inv`; run
  `FP8BlockDequantizer`.
"""

import sys
from collections import defaultdict

import torch
from compressed_tensors.compressors import BaseCompressor, compress_module
from compressed_tensors.compressors.format import infer_module_format
from compressed_tensors.entrypoints.convert import FP8BlockDequantizer
from compressed_tensors.quantization.quant_scheme import PRESET_SCHEMES, QuantizationScheme
from llmcompressor.entrypoints.model_free.lifecycle import (
    calibrate_weight,
    initialize_quantized_linear,
    validate_weight_for_quantization,
)
from safetensors.torch import load_file, save_file

Tensors = dict[str, torch.Tensor]


def scheme_named(name: str) -> QuantizationScheme:
    """The library's preset, for any linear layer."""
    return QuantizationScheme(targets=["Linear"], **PRESET_SCHEMES[name])


def quantize(name: str, weight: torch.Tensor, preset: str) -> Tensors:
    """The stored tensors of one weight, each under `name.`."""
    scheme = scheme_named(preset)
    validate_weight_for_quantization(weight, scheme, name)
    module = initialize_quantized_linear(weight, scheme, "cpu")
    calibrate_weight(module)
    compress_module(module)
    return {
        f"{name}.{key}": value.detach().contiguous() for key, value in module.state_dict().items()
    }


def decompress(stored: Tensors, preset: str) -> Tensors:
    """`NAME.decompressed` for every NAME of which the tensors are given."""
    scheme = scheme_named(preset)
    compressor = BaseCompressor.get_value_from_registry(
        infer_module_format(torch.nn.Linear, scheme).value
    )
    modules: dict[str, Tensors] = defaultdict(dict)
    for key, value in stored.items():
        module, _, parameter = key.rpartition(".")
        modules[module][parameter] = value
    return {
        f"{module}.decompressed": compressor.decompress(parameters, scheme)["weight"].contiguous()
        for module, parameters in modules.items()
    }


def answer(source: str, scheme: str, target: str) -> None:
    """Write what `scheme` makes of the tensors of `source`."""
    tensors = load_file(source)
    if scheme == "block-dequantize":
        converter = FP8BlockDequantizer(targets=["re:.*"])
        processed = converter.process(tensors)  # ragged edges come back as views
        save_file({name: value.contiguous() for name, value in processed.items()}, target)
    elif scheme.startswith("decompress-"):
        save_file(decompress(tensors, scheme.removeprefix("decompress-")), target)
    else:
        stored: Tensors = {}
        for name, weight in tensors.items():
            stored |= quantize(name, weight, scheme)
        save_file(stored | decompress(stored, scheme), target)


def main() -> None:
    words = iter(sys.argv[1:])
    for source, scheme, target in zip(words, words, words, strict=True):
        answer(source, scheme, target)


if __name__ == "__main__":
    main()
