"""FP8 checkpoints as publishers ship them, with the exact BF16 values that they stand for.

Called by tests of reading a block-FP8 or per-channel FP8 source. The returned dequantization is
computed here in NumPy, so it can judge the code under test, which it must not import.
"""

from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from .checkpoints import make_tensors, write_tensors
from .families import tiny_config
from .files import Tensor, as_float32, encode
from .numbers import E4M3_MAX, Floats, e4m3_to_float32, float32_to_e4m3
from .shapes import Config, component
from .sharding import Sharding
from .weights import Weights

Fp8Scheme = Literal["Block", "Channel"]

_BLOCK = 128
_QUANTIZED = ("Attention", "LinearAttention", "Mlp", "Experts", "SharedExperts")


class Fp8Source(NamedTuple):
    """An FP8 checkpoint and what it means.

    `dequantized` has the tensors of the same model in full precision: for each FP8 weight
    BF16(float32(weight) * float32(scale)), every other tensor as it lies on disk.
    """

    directory: Path
    dequantized: dict[str, Tensor]


def write_fp8(
    directory: Path,
    model: str | Config,
    *,
    scheme: Fp8Scheme = "Block",
    scale_dtype: str = "BF16",
    sharding: Sharding = "BetweenLayers",
    weights: Weights = "Gaussian",
    seed: int = 0,
) -> Fp8Source:
    """Write an FP8 checkpoint of `model` (per-expert layout).

    'Block': `weight` and `weight_scale_inv` (a multiplier) over 128x128 blocks, partial ones at
    the edges, the multi-token-prediction layer included; scales in BF16 as Qwen publishes, or F32
    as DeepSeek does. 'Channel': compressed-tensors' `weight` and `weight_scale` [rows, 1], the
    multi-token-prediction layer in BF16. With `sharding="AfterQProj"` a weight and its scale lie
    in two files.
    """
    config = tiny_config(model) if isinstance(model, str) else model
    full = make_tensors(config, weights=weights, seed=seed)
    stored: dict[str, Tensor] = {}
    dequantized: dict[str, Tensor] = {}
    for name, tensor in full.items():
        if not _is_quantized(name, scheme):
            stored[name] = dequantized[name] = tensor
            continue
        values = as_float32(tensor)
        scale = encode(
            _block_scales(values) if scheme == "Block" else _row_scales(values), scale_dtype
        )
        spread = _spread(as_float32(scale), values.shape, scheme)
        codes = float32_to_e4m3(values / spread)
        stored[name] = Tensor("F8_E4M3", tensor.shape, codes.tobytes())
        stored[name + ("_scale_inv" if scheme == "Block" else "_scale")] = scale
        dequantized[name] = encode(e4m3_to_float32(codes) * spread, "BF16")
    kept = [name for name in full if not _is_quantized(name, scheme)]
    stated = config | {"quantization_config": _quantization_config(scheme, kept)}
    return Fp8Source(write_tensors(directory, stated, stored, sharding=sharding), dequantized)


def _is_quantized(name: str, scheme: Fp8Scheme) -> bool:
    if name.startswith("mtp.layers.") and scheme == "Block":
        name = name.removeprefix("mtp.")
    return component(name) in _QUANTIZED


def _block_scales(values: Floats) -> Floats:
    rows, columns = (-(-length // _BLOCK) for length in values.shape)
    padded = np.zeros((rows * _BLOCK, columns * _BLOCK), dtype=np.float32)
    padded[: values.shape[0], : values.shape[1]] = np.abs(values)
    blocks = padded.reshape(rows, _BLOCK, columns, _BLOCK)
    return _scale(blocks.max(axis=(1, 3)))


def _row_scales(values: Floats) -> Floats:
    return _scale(np.abs(values).max(axis=1, keepdims=True))


def _scale(maxima: Floats) -> Floats:
    return np.where(maxima > 0, maxima / np.float32(E4M3_MAX), np.float32(1)).astype(np.float32)


def _spread(scale: Floats, shape: tuple[int, ...], scheme: Fp8Scheme) -> Floats:
    """`scale` repeated over the weights that it belongs to."""
    if scheme == "Channel":
        return np.broadcast_to(scale, shape)
    whole = scale.repeat(_BLOCK, axis=0).repeat(_BLOCK, axis=1)
    return whole[: shape[0], : shape[1]]


def _quantization_config(scheme: Fp8Scheme, kept: list[str]) -> Config:
    modules = [name.removesuffix(".weight") for name in kept if name.endswith(".weight")]
    if scheme == "Block":
        return {
            "quant_method": "fp8",
            "fmt": "e4m3",
            "activation_scheme": "dynamic",
            "weight_block_size": [_BLOCK, _BLOCK],
            "modules_to_not_convert": modules,
        }
    eight_bits: Config = {"num_bits": 8, "type": "float", "symmetric": True}
    return {
        "quant_method": "compressed-tensors",
        "format": "float-quantized",
        "quantization_status": "compressed",
        "config_groups": {
            "group_0": {
                "targets": ["Linear"],
                "weights": {**eight_bits, "strategy": "channel", "dynamic": False},
                "input_activations": {**eight_bits, "strategy": "token", "dynamic": True},
                "output_activations": None,
            }
        },
        "ignore": modules,
        "kv_cache_scheme": None,
    }
