"""Experts in formats that our engine does not write, and the BF16 twin of those that it does.

Called by the tests of vLLM's plugin. `decoded` reads an expert's matrix from any layout; the others
turn one checkpoint into another: `write_twin` (BF16), `write_w4a4` (input scales beside NVFP4),
`write_static_fp8` (one scale a matrix) and `write_modelopt` (NVIDIA ModelOpt's names and units).
It must not import the package under test: a twin that its own decoder made would prove nothing.
"""

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from .checkpoints import write_tensors
from .files import Tensor, as_float32, encode, read_checkpoint
from .numbers import E4M3_MAX, Floats, float32_to_e4m3
from .shapes import Config

Tensors = dict[str, Tensor]

_E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float32)
_PRODUCTS = ("gate_proj", "up_proj", "down_proj")
_EXCLUDED = ["lm_head", "*self_attn*", "*.mlp.gate"]


def decoded(tensors: Tensors, module: str) -> Floats:
    """The values `[N, K]` of `module.weight`, in float32, before any rounding to BF16.

    A server multiplies code by block scale, which is exact, and that by the reciprocal of
    compressed-tensors' global scale, which it rounds to float32 first.
    """
    if f"{module}.weight_packed" in tensors:
        divisor = as_float32(tensors[f"{module}.weight_global_scale"])
        return _nvfp4(tensors[f"{module}.weight_packed"], tensors, module, np.float32(1) / divisor)
    weight = tensors[f"{module}.weight"]
    if weight.dtype == "U8":
        return _nvfp4(weight, tensors, module, as_float32(tensors[f"{module}.weight_scale_2"]))
    if f"{module}.weight_scale" not in tensors:
        return as_float32(weight)
    scale = as_float32(tensors[f"{module}.weight_scale"])
    values = as_float32(weight)
    if scale.ndim == 2:
        rows, columns = np.array(values.shape) // scale.shape
        scale = scale.repeat(rows, axis=0).repeat(columns, axis=1)
    return np.asarray(values * scale, np.float32)


def _nvfp4(packed: Tensor, tensors: Tensors, module: str, factor: Floats) -> Floats:
    codes = np.frombuffer(packed.data, np.uint8).reshape(packed.shape)
    nibbles = np.stack([codes & 15, codes >> 4], axis=-1)
    values = np.where(nibbles >= 8, -_E2M1[nibbles & 7], _E2M1[nibbles & 7])
    blocks = values.reshape(codes.shape[0], -1, 16)
    exact = blocks * as_float32(tensors[f"{module}.weight_scale"])[..., None]
    return np.asarray(exact * factor, np.float32).reshape(codes.shape[0], -1)


def write_twin(directory: Path, target: Path) -> Path:
    """The checkpoint of `directory` with every quantized matrix in BF16."""
    tensors, out = read_checkpoint(directory), {}
    for name, tensor in tensors.items():
        module, _, leaf = name.rpartition(".")
        if leaf == "weight_packed" or (tensor.dtype == "F8_E4M3" and leaf == "weight"):
            out[f"{module}.weight"] = encode(decoded(tensors, module), "BF16")
        elif not leaf.startswith(("weight_", "input_")):
            out[name] = tensor
    return write_tensors(target, _config(directory, None), out)


def write_w4a4(directory: Path, target: Path, input_scales: Iterable[float]) -> Path:
    """NVFP4A16 experts of `directory` with activations quantized too.

    `input_scales` are compressed-tensors' divisors, one an expert; the second product gets half.
    """
    tensors, scales = read_checkpoint(directory), tuple(input_scales)
    config = _config(directory, None)
    block = json.loads((directory / "config.json").read_text())["quantization_config"]
    for group in block["config_groups"].values():
        group["input_activations"] = group["weights"] | {"dynamic": "local"}
    for module in _experts(tensors):
        scale = scales[_expert(module)] / (2 if module.endswith("down_proj") else 1)
        tensors[f"{module}.input_global_scale"] = encode(np.array([scale], np.float32), "F32")
    return write_tensors(target, config | {"quantization_config": block}, tensors)


def write_static_fp8(source: Path, target: Path, input_scales: Iterable[float]) -> Path:
    """BF16 experts of `source` with one FP8 scale a matrix, and static activation scales.

    `input_scales` are factors, one an expert; the second product gets half.
    """
    tensors, scales = read_checkpoint(source), tuple(input_scales)
    modules = _experts(tensors)
    for module in modules:
        values = as_float32(tensors[f"{module}.weight"])
        scale = np.float32(np.abs(values).max() / E4M3_MAX)
        codes = float32_to_e4m3(values / scale)
        tensors[f"{module}.weight"] = Tensor("F8_E4M3", values.shape, codes.tobytes())
        tensors[f"{module}.weight_scale"] = encode(np.array([scale], np.float32), "F32")
        given = scales[_expert(module)] / (2 if module.endswith("down_proj") else 1)
        tensors[f"{module}.input_scale"] = encode(np.array([given], np.float32), "F32")
    fp8 = {"num_bits": 8, "type": "float", "strategy": "tensor", "symmetric": True}
    group = {
        "targets": [r"re:.*\.experts\.\d+\..*_proj$"],
        "weights": fp8 | {"dynamic": False},
        "input_activations": fp8 | {"dynamic": False},
        "format": "float-quantized",
    }
    block = {
        "quant_method": "compressed-tensors",
        "format": "float-quantized",
        "quantization_status": "compressed",
        "config_groups": {"group_0": group},
        "ignore": ["lm_head", r"re:.*self_attn.*", r"re:.*\.mlp\.gate$"],
    }
    return write_tensors(target, _config(source, block), tensors)


def write_modelopt(directory: Path, target: Path, algorithm: str) -> Path:
    """The experts of `directory` as NVIDIA ModelOpt stores them.

    `algorithm` is its word: `NVFP4`, `W4A16_NVFP4` or `FP8`. Values stay; names and units change:
    a global scale is a factor there, and single numbers have no dimension.
    """
    out = {}
    for name, tensor in read_checkpoint(directory).items():
        module, _, leaf = name.rpartition(".")
        if leaf == "weight_packed":
            out[f"{module}.weight"] = tensor
        elif leaf in ("weight_global_scale", "input_global_scale"):
            other = "weight_scale_2" if leaf.startswith("weight") else "input_scale"
            out[f"{module}.{other}"] = _number(np.float32(1) / as_float32(tensor))
        elif tensor.dtype == "F32" and tensor.shape == (1,):
            out[name] = _number(as_float32(tensor))
        else:
            out[name] = tensor
    block = {
        "quant_method": "modelopt",
        "quant_algo": algorithm,
        "kv_cache_quant_algo": None,
        "group_size": 16,
        "ignore": _EXCLUDED,
        "producer": {"name": "modelopt", "version": "0.47.0"},
    }
    return write_tensors(target, _config(directory, block), out)


def scale_up(directory: Path, target: Path, expert: str, factor: float) -> Path:
    """The NVFP4 checkpoint of `directory` with the global scale of one expert's `up_proj` wrong."""
    tensors = read_checkpoint(directory)
    name = f"{expert}.up_proj.weight_global_scale"
    tensors[name] = encode(as_float32(tensors[name]) * np.float32(factor), "F32")
    config = json.loads((directory / "config.json").read_text())
    return write_tensors(target, config, tensors)


def _config(directory: Path, quantization: Config | None) -> Config:
    """The model's configuration with another `quantization_config`, or with none."""
    config: Config = json.loads((directory / "config.json").read_text())
    config.pop("quantization_config", None)
    return config if quantization is None else config | {"quantization_config": quantization}


def _experts(tensors: Iterable[str]) -> list[str]:
    """The modules of routed experts."""
    modules = {name.rpartition(".")[0] for name in tensors if ".experts." in name}
    return sorted(module for module in modules if module.endswith(_PRODUCTS))


def _expert(module: str) -> int:
    return int(module.split(".")[-2])


def _number(values: npt.NDArray[np.float32]) -> Tensor:
    return encode(values.reshape(()), "F32")
