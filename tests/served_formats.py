"""Checkpoints in forms that servers take, by the tests' own hand: static FP8, and ModelOpt's.

Called by tests of the engine. Each function takes a small checkpoint, ours or a BF16 source, and
writes another; activation scales are made up, the same for whatever a server merges. It must not
import the package under test.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from tests.builders import Tensor, as_float32, encode, read_checkpoint, write_safetensors
from tests.builders.numbers import float32_to_e4m3

Stored = dict[str, Tensor]

LARGEST_ACTIVATION = 8.0  # what calibration is made to have seen
_CACHE = {"num_bits": 8, "type": "float", "symmetric": True, "strategy": "tensor", "dynamic": False}
_FLOAT8 = {"num_bits": 8, "type": "float", "symmetric": True, "dynamic": False}


def as_modelopt_nvfp4(nvfp4a16: Path, out: Path) -> Path:
    """ModelOpt's W4A16_NVFP4."""
    stored, config = read_checkpoint(nvfp4a16), _config(nvfp4a16)
    made: Stored = {}
    for name, tensor in stored.items():
        module, _, part = name.rpartition(".")
        renamed = {"weight_packed": "weight", "weight_global_scale": "weight_scale_2"}.get(part)
        is_global = part == "weight_global_scale"
        made[f"{module}.{renamed or part}"] = _inverse(tensor) if is_global else tensor
    config["quantization_config"] = _modelopt("W4A16_NVFP4", group_size=16)
    return _write(nvfp4a16, out, config, made)


def as_modelopt_fp8_blocks(fp8_block: Path, out: Path) -> Path:
    """ModelOpt's FP8_PB_WO: scales of blocks in four dimensions."""
    stored, config = read_checkpoint(fp8_block), _config(fp8_block)
    for module in _modules(stored):
        scale = as_float32(stored[f"{module}.weight_scale"])
        four = scale.reshape(scale.shape[0], 1, scale.shape[1], 1)
        stored[f"{module}.weight_scale"] = encode(four, "F32")
    config["quantization_config"] = _modelopt("FP8_PB_WO")
    return _write(fp8_block, out, config, stored)


def static_fp8(source: Path, out: Path, *, modelopt: bool) -> Path:
    """FP8 with one scale a matrix, another for each member of a merged layer, and input scales."""
    stored, config = read_checkpoint(source), _config(source)
    targets = [name for name in stored if "_proj.weight" in name]
    for name in targets:
        values = as_float32(stored[name])
        scale = np.float32(np.abs(values).max() / np.float32(448))
        codes = float32_to_e4m3(values * (np.float32(1) / scale))
        stored[name] = Tensor("F8_E4M3", values.shape, codes.tobytes())
        stored[f"{name}_scale"] = _number(float(scale))
        module = name.removesuffix(".weight")
        stored[f"{module}.input_scale"] = _number(LARGEST_ACTIVATION / 448)
    group = {
        "targets": ["Linear"],
        "weights": _FLOAT8 | {"strategy": "tensor"},
        "input_activations": _FLOAT8 | {"strategy": "tensor"},
        "output_activations": None,
    }
    config["quantization_config"] = (
        _modelopt("FP8")
        if modelopt
        else {
            "quant_method": "compressed-tensors",
            "format": "float-quantized",
            "quantization_status": "compressed",
            "config_groups": {"group_0": group},
            "ignore": ["lm_head"],
            "kv_cache_scheme": None,
        }
    )
    return _write(source, out, config, stored)


def without_activations(compressed: Path, out: Path) -> Path:
    """The same weights, served weight-only."""
    config = _config(compressed)
    for group in config["quantization_config"]["config_groups"].values():
        group["input_activations"] = None
    return _write(compressed, out, config, read_checkpoint(compressed))


def with_fp8_cache(compressed: Path, out: Path) -> Path:
    """The same with an FP8 KV cache, and no scales for it."""
    config = _config(compressed)
    config["quantization_config"]["kv_cache_scheme"] = _CACHE
    return _write(compressed, out, config, read_checkpoint(compressed))


def with_another_global_scale(nvfp4a16: Path, out: Path) -> Path:
    """The same with one query projection's global scale doubled, apart from its mates."""
    stored = read_checkpoint(nvfp4a16)
    name = next(name for name in stored if name.endswith("q_proj.weight_global_scale"))
    stored[name] = encode(as_float32(stored[name]) * np.float32(2), "F32")
    return _write(nvfp4a16, out, _config(nvfp4a16), stored)


def input_scale(stored: Stored, module: str) -> float:
    """The static scale of a module's activations in ModelOpt's sense (code to value), or 0."""
    for parameter in ("input_scale", "input_global_scale"):
        tensor = stored.get(f"{module}.{parameter}")
        if tensor is not None:
            value = np.float32(as_float32(tensor).reshape(-1)[0])
            return float(np.float32(1) / value if parameter == "input_global_scale" else value)
    return 0.0


def cache_scales(stored: Stored) -> dict[str, list[float]]:
    """Scales of queries, keys and values by attention module (`layers.3.self_attn`), as stored.

    vLLM takes 1 for queries that have none, and for caches without scales.
    """
    found: dict[str, list[float]] = {}
    for name in stored:
        if ".k_proj.weight" in name and "layers." in name and not name.startswith("mtp."):
            attention = name.partition(".k_proj.")[0]
            keys = _first(stored, f"{attention}.k_scale", f"{attention}.k_proj.k_scale")
            values = _first(stored, f"{attention}.v_scale", f"{attention}.v_proj.v_scale")
            found[attention[attention.index("layers.") :]] = [1.0, keys, values]
    return found


def _first(stored: Stored, *names: str) -> float:
    present = [float(as_float32(stored[name]).reshape(-1)[0]) for name in names if name in stored]
    return present[0] if present else 1.0


def _modelopt(algorithm: str, **more: Any) -> dict[str, Any]:
    head = {"quant_method": "modelopt", "quant_algo": algorithm, "ignore": ["lm_head"]}
    return head | {"producer": {"name": "modelopt", "version": "0.47.0"}} | more


def _modules(stored: Stored) -> list[str]:
    return [n.removesuffix(".weight_scale") for n in stored if n.endswith(".weight_scale")]


def _config(directory: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((directory / "config.json").read_text())
    return found


def _number(value: float) -> Tensor:
    return encode(np.array([value], np.float32), "F32")


def _inverse(tensor: Tensor) -> Tensor:
    return encode((np.float32(1) / as_float32(tensor)).astype(np.float32), "F32")


def _write(model: Path, out: Path, config: dict[str, Any], stored: Stored) -> Path:
    out.mkdir()
    for file in model.iterdir():
        if file.suffix != ".safetensors" and "index" not in file.name:
            shutil.copy(file, out / file.name)
    (out / "config.json").write_text(json.dumps(config))
    write_safetensors(out / "model.safetensors", stored)
    return out
