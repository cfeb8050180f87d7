"""Our own results, for tests that show them to others.

    made = quantize_directory(source, tmp_path / "ours", recipe(Mlp="NVFP4A16"))
    bits = decoded(made.planned, tmp_path / "ours")        # BF16 bits of every quantized matrix

`write_planned` makes the files of a result that would be too large to compute.
Stored tensors are read by the tests' own reader; only the decoding is the package's.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from halftone.checkpoint import decoding
from halftone.plan.planning import Planned
from halftone.quantize.configuration import configuration_files
from halftone.spec.formats import CheckpointFormat, Format
from halftone.spec.job import Quantization, Recipe
from halftone.spec.recipes import resolve
from tests import builders
from tests.commands import plan_directory

Bits = NDArray[np.uint16]

# The presets that need no calibration.
DATA_FREE = (
    "nvfp4a16",
    "nvfp4a16-mlp",
    "nvfp4a16-fp8-linear-attention",
    "fp8-dynamic",
    "fp8-block",
)


def recipe(fields: dict[str, Any] | None = None, **formats: str) -> Recipe:
    """A recipe that gives each named role its format, with `fields` beside."""
    precision = [{"role": role, "format": fmt} for role, fmt in formats.items()]
    return resolve(Quantization.model_validate({"precision": precision, **(fields or {})}), "test")


def mixture(layout: CheckpointFormat) -> Recipe:
    """Every format that `layout` can express and a server loads, and a measured cache."""
    return recipe(
        {"checkpointFormat": layout, "kvCache": {"format": "FP8", "scales": "Calibrated"}},
        Attention="FP8",
        Mlp="NVFP4",
        Experts="NVFP4",
        SharedExperts="FP8_BLOCK",
        LinearAttention="FP8_DYNAMIC",
    )


def write_planned(source: Path, target: Path, preset: str) -> Path:
    """What we would write for `source`: real headers, global scales of 1000, and no weights."""
    planned = plan_directory(source, preset)
    assert planned.architecture is not None
    assert planned.plan.recipe is not None
    target.mkdir()
    places: dict[str, str] = {}
    for shard in planned.shards:
        scales = sum(row.end - row.begin for row in shard.rows if row.dtype == "F32")
        with (target / shard.file).open("wb") as file:
            file.write(shard.header)
            file.write(np.full(scales // 4, 1000, np.float32).tobytes())
            file.truncate(shard.size_bytes)
        places |= {row.name: shard.file for row in shard.rows}
    index = {"metadata": {"total_size": 0}, "weight_map": places}
    (target / "model.safetensors.index.json").write_text(json.dumps(index))
    config = json.loads((source / "config.json").read_text())
    for name, content in configuration_files(planned, config).items():
        (target / name).write_text(json.dumps(content))
    return target


def decoded(planned: Planned, directory: Path) -> dict[str, Bits]:
    """What our decoder makes of every quantized matrix of `directory`, by its name in the plan."""
    stored = builders.read_checkpoint(directory)
    return {
        tensor.name: _decode(stored, tensor.name.removesuffix(".weight"), tensor.format)
        for tensor in planned.tensors
        if tensor.format is not None
    }


def _decode(stored: dict[str, builders.Tensor], module: str, fmt: Format) -> Bits:
    scale = stored[f"{module}.weight_scale"]
    if fmt in {Format.NVFP4, Format.NVFP4A16}:
        multiplies = f"{module}.weight_scale_2" in stored
        packed = codes(stored[f"{module}.weight" if multiplies else f"{module}.weight_packed"])
        shared = stored[f"{module}.weight_{'scale_2' if multiplies else 'global_scale'}"]
        out = np.empty((packed.shape[0], packed.shape[1] * 2), np.uint16)
        factor = float(builders.as_float32(shared).reshape(-1)[0])
        decoding.decode_nvfp4(packed, codes(scale), factor, out, multiplies=multiplies)
        return out
    weight, scales = codes(stored[f"{module}.weight"]), builders.as_float32(scale)
    out = np.empty(weight.shape, np.uint16)
    if fmt is Format.FP8:
        decoding.decode_fp8_tensor_bf16(weight, float(scales.reshape(-1)[0]), out)
    elif fmt is Format.FP8_DYNAMIC:
        decoding.decode_fp8_channel_bf16(weight, scales, out)
    else:
        blocks = scales.reshape(-(-weight.shape[0] // 128), -1)
        decoding.decode_fp8_block_bf16(weight, blocks, 128, 128, out)
    return out


def codes(tensor: builders.Tensor) -> NDArray[np.uint8]:
    """The bytes of a tensor of one-byte elements, in its shape."""
    return np.frombuffer(tensor.data, np.uint8).reshape(tensor.shape)
