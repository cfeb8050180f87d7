"""A layer of routed experts as a GPU's kernels compute it, in NumPy: what the plugin is held to.

    layer = Layer.read(builders.read_checkpoint(directory), "model.layers.0.mlp.experts")
    out = forward(layer, hidden, experts, weights, fp8_per_token)

Activations are quantized before each product by one of the functions below. Weights are rounded to
BF16 after decoding, products and activations to BF16, sums over experts taken in float32. FP8 and
FP4 numbers are found in tables, so nothing here shares code with the plugin.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from halftone.checkpoint.reference import (
    bf16_decode,
    bf16_encode,
    e2m1_decode,
    e2m1_encode,
    e4m3_decode,
    e4m3_encode,
)
from tests.builders import Tensor, as_float32
from tests.builders.expert_formats import decoded
from tests.builders.numbers import Floats

Quantize = Callable[[Floats], Floats]

_ONE = np.float32(1)
_MAX = np.float32(448)


@dataclass(frozen=True)
class Layer:
    """The matrices of one layer's experts: `gate`, `up` `[E, I, H]` and `down` `[E, H, I]`."""

    gate: Floats
    up: Floats
    down: Floats

    @staticmethod
    def read(tensors: dict[str, Tensor], parent: str) -> "Layer":
        """The experts below `parent`, decoded and rounded to BF16."""
        number = len({name.split(".")[-3] for name in tensors if name.startswith(f"{parent}.")})
        experts = [f"{parent}.{index}" for index in range(number)]
        gates, ups = zip(*(_gate_and_up(tensors, expert) for expert in experts), strict=True)
        downs = [decoded(tensors, f"{expert}.down_proj") for expert in experts]
        return Layer(*(_bf16(np.stack(matrices)) for matrices in (gates, ups, downs)))


def forward(
    layer: Layer,
    hidden: Floats,
    experts: NDArray[np.int64],
    weights: Floats,
    first: Quantize,
    second: Quantize | None = None,
) -> Floats:
    """The weighted sum over each token's experts, `[tokens, H]`.

    `first` quantizes what goes into the first product, `second` (else `first` too) into the other.
    """
    second = second or first
    quantized = first(hidden)
    total = np.zeros_like(hidden)
    for expert in np.unique(experts):
        tokens, choice = np.nonzero(experts == expert)
        gate = _bf16(quantized[tokens] @ layer.gate[expert].T)
        up = _bf16(quantized[tokens] @ layer.up[expert].T)
        inner = _bf16(gate / (_ONE + np.exp(-gate)) * up)
        down = _bf16(second(inner) @ layer.down[expert].T)
        np.add.at(total, tokens, down * weights[tokens, choice, None])
    return _bf16(total)


def unquantized(x: Floats) -> Floats:
    """16-bit activations."""
    return x


def fp8_per_token(x: Floats) -> Floats:
    """One scale a row."""
    maxima = np.abs(x).max(axis=-1, keepdims=True)
    scale = np.maximum(maxima / _MAX, _ONE / np.float32(448 * 512))
    return _fp8(x / scale, scale)


def fp8_per_group(x: Floats) -> Floats:
    """One scale for 128 columns, the smallest power of two that clips nothing."""
    groups = x.reshape(x.shape[0], -1, 128)
    maxima = np.maximum(np.abs(groups).max(axis=-1, keepdims=True), np.float32(1e-10))
    powers = (2.0 ** np.arange(-60, 60)).astype(np.float32)
    scale = powers[(powers >= maxima / _MAX).argmax(axis=-1)][..., None]
    return _fp8(groups / scale, scale).reshape(x.shape)


def fp8_per_tensor(scale: float) -> Quantize:
    """One static scale for all."""
    factor = np.float32(scale)
    return lambda x: _fp8(x * (_ONE / factor), factor)


def nvfp4(divisor: float) -> Quantize:
    """FP8 scales of 16 columns under one static global scale, as compressed-tensors stores it."""
    return partial(_nvfp4, factor=np.float32(divisor))


def _nvfp4(x: Floats, factor: np.float32) -> Floats:
    blocks = x.reshape(x.shape[0], -1, 16)
    sixths = np.abs(blocks).max(axis=-1, keepdims=True) * np.float32(1 / 6)
    scale = e4m3_decode(e4m3_encode(factor * sixths))
    with np.errstate(divide="ignore", invalid="ignore"):
        up = np.where(scale == 0, np.float32(0), _ONE / (scale * (_ONE / factor)))
    codes = e2m1_decode(e2m1_encode(np.asarray(blocks * up, np.float32)))
    return _bf16(codes * (scale / factor)).reshape(x.shape)


def _gate_and_up(tensors: dict[str, Tensor], expert: str) -> tuple[Floats, Floats]:
    """Both matrices; those with one FP8 scale each under the larger one, as vLLM merges them."""
    modules = [f"{expert}.gate_proj", f"{expert}.up_proj"]
    gate, up = (decoded(tensors, module) for module in modules)
    stored = [tensors[f"{module}.weight_scale"] for module in modules]
    if any(scale.dtype != "F32" for scale in stored):
        return gate, up
    factor = max(as_float32(scale).max() for scale in stored)
    return _under(gate, factor), _under(up, factor)


def _under(values: Floats, factor: np.float32) -> Floats:
    """`values` as FP8 numbers under another scale; the way there leads through float16."""
    halves = values.astype(np.float16).astype(np.float32)
    return np.asarray(e4m3_decode(e4m3_encode(halves * (_ONE / factor))) * factor, np.float32)


def _fp8(quotient: Floats, scale: Floats | np.float32) -> Floats:
    return _bf16(np.asarray(e4m3_decode(e4m3_encode(quotient)) * scale, np.float32))


def _bf16(values: NDArray[Any]) -> Floats:
    return bf16_decode(bf16_encode(np.asarray(values, np.float32)))
