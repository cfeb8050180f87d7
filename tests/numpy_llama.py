"""Layers of a small Llama in float64 NumPy: a second implementation to measure layers against.

Called by the tests of `halftone sweep`. Weights come by their names on disk, as `[rows, columns]`;
`rounded` stands between an input and the named matrix, for formats that quantize activations.

    h = embedded(weights, ids)
    h = layer(weights, config, 0, h)
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.builders.numbers import e4m3_to_float32, float32_to_e4m3

Array = NDArray[np.float64]
Weights = Mapping[str, Array]
Rounded = Callable[[str, Array], Array]

E2M1 = np.array([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])


def as_it_is(name: str, x: Array) -> Array:
    """No rounding of activations."""
    return x


def embedded(weights: Weights, ids: list[int]) -> Array:
    """`[tokens, hidden]`."""
    return weights["model.embed_tokens.weight"][ids]


def layer(
    weights: Weights, config: Any, number: int, h: Array, rounded: Rounded = as_it_is
) -> Array:
    """The output of layer `number`, residual stream included."""
    path = f"model.layers.{number}."

    def linear(name: str, x: Array) -> Array:
        return rounded(f"{path}{name}", x) @ weights[f"{path}{name}.weight"].T

    x = _normed(h, weights[f"{path}input_layernorm.weight"], config)
    h = h + linear("self_attn.o_proj", _attention(linear, x, config))
    x = _normed(h, weights[f"{path}post_attention_layernorm.weight"], config)
    gate, up = linear("mlp.gate_proj", x), linear("mlp.up_proj", x)
    return h + linear("mlp.down_proj", gate / (1 + np.exp(-gate)) * up)


def nvfp4_activations(x: Array, amax: float) -> Array:
    """`x[..., K]` after W4A4's rounding, under the global scale of `amax`, as BF16 gives it."""
    shared = _bf16(_bf16(1 / _bf16(amax)) * 2688)
    blocks = x.reshape(*x.shape[:-1], -1, 16)
    wanted = np.abs(blocks).max(-1, keepdims=True) / 6 * shared
    scale = e4m3_to_float32(float32_to_e4m3(wanted.astype(np.float32))).astype(np.float64) / shared
    scale = np.where(scale == 0, 1.0, scale)
    codes = _nearest(np.abs(blocks) / scale)
    return (np.sign(blocks) * codes * scale).reshape(x.shape)


def fp8_activations(x: Array) -> Array:
    """`x[..., K]` after FP8_DYNAMIC's rounding: one scale a token, found now."""
    scale: Array = np.abs(x).max(-1, keepdims=True) / 448
    values = e4m3_to_float32(float32_to_e4m3((x / scale).astype(np.float32)))
    return values.astype(np.float64) * scale


def divergence(kept: Array, moved: Array) -> float:
    """The mean over tokens of the relative squared difference."""
    return float((((moved - kept) ** 2).sum(-1) / (kept**2).sum(-1)).mean())


def _attention(linear: Callable[[str, Array], Array], x: Array, config: Any) -> Array:
    tokens, size = len(x), config["head_dim"]
    heads, shared = config["num_attention_heads"], config["num_key_value_heads"]
    q = _rotated(linear("self_attn.q_proj", x).reshape(tokens, heads, size), config)
    k = _rotated(linear("self_attn.k_proj", x).reshape(tokens, shared, size), config)
    v = linear("self_attn.v_proj", x).reshape(tokens, shared, size)
    k, v = (np.repeat(part, heads // shared, axis=1) for part in (k, v))
    scores = np.einsum("qhd,khd->hqk", q, k) / np.sqrt(size)
    scores = np.where(np.tri(tokens, dtype=bool), scores, -np.inf)
    shares = np.exp(scores - scores.max(-1, keepdims=True))
    shares /= shares.sum(-1, keepdims=True)
    mixed: Array = np.einsum("hqk,khd->qhd", shares, v)
    return mixed.reshape(tokens, heads * size)


def _rotated(x: Array, config: Any) -> Array:
    half = x.shape[-1] // 2
    theta = config["rope_parameters"]["rope_theta"]
    angles = np.arange(len(x))[:, None] / theta ** (np.arange(half) / half)
    cos, sin = np.cos(angles)[:, None], np.sin(angles)[:, None]
    left, right = x[..., :half], x[..., half:]
    return np.concatenate([left * cos - right * sin, right * cos + left * sin], axis=-1)


def _normed(x: Array, weight: Array, config: Any) -> Array:
    size: Array = np.sqrt((x**2).mean(-1, keepdims=True) + config["rms_norm_eps"])
    return x / size * weight


def _nearest(values: Array) -> Array:
    """The nearest E2M1 magnitudes; a tie, which these tests do not meet, goes down."""
    middles = (E2M1[1:] + E2M1[:-1]) / 2
    return E2M1[np.searchsorted(middles, values)]


def _bf16(value: float) -> float:
    bits = np.float32(value).view(np.uint32)
    kept = (int(bits) + 0x7FFF + ((int(bits) >> 16) & 1)) & 0xFFFF0000
    return float(np.uint32(kept).view(np.float32))
