"""Checkpoints that are 4-bit already, which a plan must refuse.

Called by tests of refusals and of `inspect`'s format detection. Names, dtypes, shapes and
`quantization_config` are those of each tool; packed values are random and scales are one, so
nothing but the layout may be concluded from them.
"""

from pathlib import Path
from typing import Literal

import numpy as np

from .checkpoints import make_tensors, write_tensors
from .families import tiny_config
from .files import Tensor
from .numbers import float32_to_e4m3
from .shapes import Config, Shape, component
from .sharding import Sharding

LowBitScheme = Literal[
    "Nvfp4CompressedTensors", "Nvfp4ModelOpt", "Int4CompressedTensors", "Awq", "Gptq"
]

_GROUP = 16  # NVFP4's block
_INT4_GROUP = 32
_QUANTIZED = ("Attention", "Mlp", "Experts", "SharedExperts")


def write_low_bit(
    directory: Path,
    model: str | Config,
    scheme: LowBitScheme,
    *,
    sharding: Sharding = "BetweenLayers",
    seed: int = 0,
) -> Path:
    """Write a 4-bit checkpoint of `model`: attention, MLP and experts packed as `scheme` does."""
    config = tiny_config(model) if isinstance(model, str) else model
    generator = np.random.default_rng(seed)
    stored: dict[str, Tensor] = {}
    for name, tensor in make_tensors(config, seed=seed).items():
        if component(name) in _QUANTIZED:
            module = name.removesuffix(".weight")
            packed = _packed(scheme, tensor.shape, generator)
            stored |= {f"{module}.{part}": one for part, one in packed.items()}
        else:
            stored[name] = tensor
    stated = config | {"quantization_config": _quantization_config(scheme)}
    return write_tensors(directory, stated, stored, sharding=sharding)


def _packed(
    scheme: LowBitScheme, shape: Shape, generator: np.random.Generator
) -> dict[str, Tensor]:
    """The tensors that stand for one weight of `shape` (rows, columns)."""
    rows, columns = shape
    groups = columns // _INT4_GROUP
    if scheme == "Nvfp4CompressedTensors":
        return {
            "weight_packed": _random("U8", (rows, columns // 2), generator),
            "weight_scale": _ones("F8_E4M3", (rows, columns // _GROUP)),
            "weight_global_scale": _ones("F32", (1,)),
        }
    if scheme == "Nvfp4ModelOpt":
        return {
            "weight": _random("U8", (rows, columns // 2), generator),
            "weight_scale": _ones("F8_E4M3", (rows, columns // _GROUP)),
            "weight_scale_2": _ones("F32", ()),
            "input_scale": _ones("F32", ()),
        }
    if scheme == "Int4CompressedTensors":
        return {
            "weight_packed": _random("I32", (rows, columns // 8), generator),
            "weight_scale": _ones("BF16", (rows, groups)),
            "weight_shape": Tensor("I64", (2,), np.array(shape, dtype=np.int64).tobytes()),
        }
    zeros = {
        "qzeros": _random("I32", (groups, rows // 8), generator),
        "scales": _ones("F16", (groups, rows)),
    }
    if scheme == "Awq":
        return {"qweight": _random("I32", (columns, rows // 8), generator)} | zeros
    order = (np.arange(columns) // _INT4_GROUP).astype(np.int32)
    return {
        "qweight": _random("I32", (columns // 8, rows), generator),
        "g_idx": Tensor("I32", (columns,), order.tobytes()),
    } | zeros


def _random(dtype: str, shape: Shape, generator: np.random.Generator) -> Tensor:
    width = {"U8": 1, "I32": 4}[dtype]
    return Tensor(dtype, shape, generator.bytes(int(np.prod(shape)) * width))


def _ones(dtype: str, shape: Shape) -> Tensor:
    ones = np.ones(shape, dtype=np.float32)
    if dtype == "F8_E4M3":
        return Tensor(dtype, shape, float32_to_e4m3(ones).tobytes())
    if dtype == "BF16":
        return Tensor(dtype, shape, np.full(shape, 0x3F80, dtype=np.uint16).tobytes())
    return Tensor(
        dtype, shape, ones.astype({"F16": np.float16, "F32": np.float32}[dtype]).tobytes()
    )


def _quantization_config(scheme: LowBitScheme) -> Config:
    if scheme in ("Awq", "Gptq"):
        own = {"version": "gemm", "zero_point": True} if scheme == "Awq" else {"desc_act": False}
        return {"quant_method": scheme.lower(), "bits": 4, "group_size": _INT4_GROUP} | own
    if scheme == "Nvfp4ModelOpt":
        kept = ["lm_head", "*linear_attn*", "*visual*", "mtp*", "*gate"]
        return {"quant_method": "modelopt", "quant_algo": "NVFP4", "group_size": _GROUP} | {
            "kv_cache_quant_algo": None,
            "ignore": kept,
        }
    nvfp4 = scheme == "Nvfp4CompressedTensors"
    weights = {
        "num_bits": 4,
        "type": "float" if nvfp4 else "int",
        "strategy": "tensor_group" if nvfp4 else "group",
        "group_size": _GROUP if nvfp4 else _INT4_GROUP,
        "symmetric": True,
        "dynamic": False,
    }
    return {
        "quant_method": "compressed-tensors",
        "format": "nvfp4-pack-quantized" if nvfp4 else "pack-quantized",
        "quantization_status": "compressed",
        "config_groups": {
            "group_0": {"targets": ["Linear"], "weights": weights, "input_activations": None}
        },
        "ignore": ["lm_head", "re:.*linear_attn.*", "re:.*visual.*", "re:^mtp.*", "re:.*gate$"],
    }
