"""The BF16 twin of a quantized checkpoint, decoded in plain NumPy: what its weights are worth.

    directory = write_twin(quantized, tmp_path / "twin")

Called by tests that hold a served checkpoint against its twin. It reads compressed-tensors' and
ModelOpt's tensors and configurations, and must not use the package under test. The arithmetic is
that of a server, which keeps the reciprocal of NVFP4's global scale.
"""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from tests.builders import Tensor, as_float32, encode, read_checkpoint, write_safetensors
from tests.builders.numbers import Floats, e4m3_to_float32, float32_to_e4m3

E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)
_SHARDS = {"q_proj": "qkv", "k_proj": "qkv", "v_proj": "qkv", "gate_proj": "gu", "up_proj": "gu"}

_SCALE = re.compile(r"\.weight_scale(_inv)?$")
_PART = re.compile(r"\.(weight(_packed|_scale|_scale_2|_scale_inv|_global_scale)?|input_\w+)$")

Stored = dict[str, Tensor]


def write_twin(quantized: Path, directory: Path, *, powers_of_two: bool = False) -> Path:
    """Write the twin of `quantized` into the new `directory`, and give it back.

    `powers_of_two` brings FP8 blocks under powers of two first, as DeepGEMM does while it loads.
    """
    stored = read_checkpoint(quantized)
    modules = sorted(_SCALE.sub("", name) for name in stored if _SCALE.search(name))
    weights = {f"{module}.weight": _decoded(stored, module, powers_of_two) for module in modules}
    kept = {name: tensor for name, tensor in stored.items() if not _is_spent(name, modules)}
    directory.mkdir()
    for file in quantized.iterdir():
        if file.suffix != ".safetensors" and "index" not in file.name:
            shutil.copy(file, directory / file.name)
    config = json.loads((quantized / "config.json").read_text())
    del config["quantization_config"]
    (directory / "config.json").write_text(json.dumps(config))
    (directory / "hf_quant_config.json").unlink(missing_ok=True)
    made = {name: encode(values, "BF16") for name, values in weights.items()}
    write_safetensors(directory / "model.safetensors", kept | made)
    return directory


def nvfp4_values(stored: Stored, module: str) -> Floats:
    """(code × block scale) × factor, each product in float32."""
    packed_name = f"{module}.weight_packed"
    is_modelopt = packed_name not in stored
    packed = _bytes(stored[f"{module}.weight" if is_modelopt else packed_name])
    values = E2M1[np.stack((packed & 15, packed >> 4), -1).reshape(len(packed), -1)]
    blocks = as_float32(stored[f"{module}.weight_scale"])
    exact = values.reshape(*blocks.shape, 16) * blocks[..., None]
    product = exact * _factor(stored, module, is_modelopt)
    return np.asarray(product.reshape(values.shape), np.float32)


def _factor(stored: Stored, module: str, is_modelopt: bool) -> np.float32:
    if is_modelopt:
        return np.float32(as_float32(stored[f"{module}.weight_scale_2"]).reshape(-1)[0])
    divisor = as_float32(stored[f"{module}.weight_global_scale"]).reshape(-1)[0]
    return np.float32(1) / np.float32(divisor)


def _decoded(stored: Stored, module: str, powers_of_two: bool) -> Floats:
    if f"{module}.weight_packed" in stored or f"{module}.weight_scale_2" in stored:
        return nvfp4_values(stored, module)
    codes = e4m3_to_float32(_bytes(stored[f"{module}.weight"]))
    name = f"{module}.weight_scale"
    scale = as_float32(stored[name if name in stored else f"{name}_inv"])
    if scale.ndim <= 1 and scale.size == 1:
        return _merged(stored, module, codes, np.float32(scale.reshape(-1)[0]))
    if scale.ndim == 2 and scale.shape == (codes.shape[0], 1):
        return codes * scale
    grid = scale.reshape(-(-codes.shape[0] // 128), -(-codes.shape[1] // 128))
    if powers_of_two:
        return _power_of_two_blocks(codes * _spread(grid, codes.shape))
    return codes * _spread(grid, codes.shape)


def _merged(stored: Stored, module: str, codes: Floats, scale: np.float32) -> Floats:
    """Shards of a merged layer are dequantized to FP16 and quantized again under one scale."""
    parent, _, own = module.rpartition(".")
    mates = [name for name, group in _SHARDS.items() if group == _SHARDS.get(own, own)]
    scales = [f"{parent}.{mate}.weight_scale" for mate in mates or [own]]
    largest = max(np.float32(as_float32(stored[name]).reshape(-1)[0]) for name in scales)
    halves = (codes * scale).astype(np.float16).astype(np.float32)
    return e4m3_to_float32(float32_to_e4m3(halves * (np.float32(1) / largest))) * largest


def _power_of_two_blocks(values: Floats) -> Floats:
    rows, columns = values.shape
    padded = np.zeros((-(-rows // 128) * 128, -(-columns // 128) * 128), np.float32)
    padded[:rows, :columns] = values
    blocks = padded.reshape(padded.shape[0] // 128, 128, -1, 128)
    amax = np.maximum(np.abs(blocks).max(axis=(1, 3), keepdims=True), np.float32(1e-4))
    scale = np.exp2(np.ceil(np.log2(amax / np.float32(448)))).astype(np.float32)
    codes = e4m3_to_float32(float32_to_e4m3(blocks * (np.float32(1) / scale)))
    return np.asarray((codes * scale).reshape(padded.shape)[:rows, :columns], np.float32)


def _spread(scale: Floats, shape: tuple[int, ...]) -> Floats:
    return scale.repeat(128, axis=0).repeat(128, axis=1)[: shape[0], : shape[1]]


def _is_spent(name: str, modules: list[str]) -> bool:
    module = re.sub(
        r"\.(weight(_packed|_scale|_scale_2|_scale_inv|_global_scale)?|input_\w+)$", "", name
    )
    return module in modules or name.endswith((".k_scale", ".v_scale"))


def _bytes(tensor: Tensor) -> Any:
    return np.frombuffer(tensor.data, np.uint8).reshape(tensor.shape)
