"""From a source directory to our own result in two calls, for tests that show it to others.

    planned = write_quantized(source, tmp_path / "ours", recipe(Mlp="NVFP4A16"))
    bits = decoded(planned, tmp_path / "ours")        # BF16 bits of every quantized matrix

Stored tensors are read by the tests' own reader; only the decoding is the package's.
"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from halftone.checkpoint import decoding
from halftone.checkpoint.index import read_checkpoint
from halftone.plan.planning import Planned, plan_checkpoint
from halftone.quantize.engine import quantize
from halftone.spec.formats import Format
from halftone.spec.job import Quantization, Recipe
from halftone.spec.recipes import resolve
from halftone.stores import open_source
from tests import builders

Bits = NDArray[np.uint16]


def recipe(fields: dict[str, Any] | None = None, **formats: str) -> Recipe:
    """A recipe that gives each named role its format, with `fields` beside."""
    precision = [{"role": role, "format": fmt} for role, fmt in formats.items()]
    return resolve(Quantization.model_validate({"precision": precision, **(fields or {})}), "test")


def plan(source: Path, chosen: Recipe) -> Planned:
    """The plan for `source`, refused or not."""
    return plan_checkpoint(read_checkpoint(open_source(source)), chosen)


def write_quantized(source: Path, target: Path, chosen: Recipe) -> Planned:
    """Quantize `source` into `target`; the plan must not be refused."""
    checkpoint = read_checkpoint(open_source(source))
    planned = plan_checkpoint(checkpoint, chosen)
    assert planned.plan.refusal is None, planned.plan.refusal
    quantize(planned, checkpoint, target, workers=2)
    return planned


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
        packed = codes(stored[f"{module}.weight_packed"])
        out = np.empty((packed.shape[0], packed.shape[1] * 2), np.uint16)
        divisor = float(builders.as_float32(stored[f"{module}.weight_global_scale"])[0])
        decoding.decode_nvfp4(packed, codes(scale), divisor, out)
        return out
    weight = codes(stored[f"{module}.weight"])
    out = np.empty(weight.shape, np.uint16)
    if fmt is Format.FP8_DYNAMIC:
        decoding.decode_fp8_channel_bf16(weight, builders.as_float32(scale), out)
    else:
        decoding.decode_fp8_block_bf16(weight, builders.as_float32(scale), 128, 128, out)
    return out


def codes(tensor: builders.Tensor) -> NDArray[np.uint8]:
    """The bytes of a tensor of one-byte elements, in its shape."""
    return np.frombuffer(tensor.data, np.uint8).reshape(tensor.shape)
