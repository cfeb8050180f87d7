"""Random weights that are the same whatever the layout, sharding or prefix.

Called by `checkpoints.py` and `fp8_sources.py`. A tensor's values depend on the seed and on its
name in a text-only, per-expert layout; a fused expert tensor is the stack of the per-expert ones.
So all layouts of one model must give one result, and a test can say so.
"""

import re
from typing import Literal
from zlib import crc32

import numpy as np

from .numbers import Floats
from .shapes import Shape

# Gaussian: scale 1/sqrt(fan in). Outliers: one weight in a thousand is 20 times larger.
# Subnormal: Gaussian times 2^-120, where the smallest weights are subnormal in BF16 and an
# amax has no finite reciprocal times 2688.
Weights = Literal["Gaussian", "Outliers", "Subnormal"]

# Members of one fused group get different maxima on purpose: a global scale that is not shared
# over the group then shows, in its value and in the weight error.
_GAINS: dict[str, float] = {
    "k_proj.weight": 1.4,
    "v_proj.weight": 0.6,
    "up_proj.weight": 1.7,
    "in_proj_z.weight": 1.5,
    "in_proj_a.weight": 0.55,
}
_MIXTRAL: dict[str, str] = {"w1": "gate_proj", "w2": "down_proj", "w3": "up_proj"}


def values(name: str, shape: Shape, *, kind: Weights = "Gaussian", seed: int = 0) -> Floats:
    """The float32 values of tensor `name`, before any rounding.

    Norms and other vectors are ones, biases zeros, `A_log` as a new model has it.
    """
    name = _canonical(name)
    if len(shape) == 1:
        return _vector(name, shape[0])
    if name.endswith("experts.gate_up_proj"):
        half = (shape[1] // 2, shape[2])
        gate = _stacked(name, "gate_proj", (shape[0], *half), kind, seed)
        return np.concatenate([gate, _stacked(name, "up_proj", (shape[0], *half), kind, seed)], 1)
    if name.endswith("experts.down_proj"):
        return _stacked(name, "down_proj", shape, kind, seed)
    return _random(name, shape, kind, seed)


def _canonical(name: str) -> str:
    """One name for a matrix, whichever layout it lies in."""
    name = name.replace("language_model.", "").replace("block_sparse_moe.", "mlp.")
    return re.sub(r"\.(w[123])\.weight$", lambda found: f".{_MIXTRAL[found[1]]}.weight", name)


def _vector(name: str, length: int) -> Floats:
    if name.endswith("A_log"):
        return np.log(np.linspace(1, 16, length, dtype=np.float32))
    return np.full(length, 0 if name.endswith(".bias") else 1, dtype=np.float32)


def _stacked(fused: str, member: str, shape: Shape, kind: Weights, seed: int) -> Floats:
    """What the per-expert layout stores as `….experts.0.<member>.weight` and so on."""
    parent = fused.rpartition(".")[0]
    names = [f"{parent}.{expert}.{member}.weight" for expert in range(shape[0])]
    return np.stack([_random(name, shape[1:], kind, seed) for name in names])


def _random(name: str, shape: Shape, kind: Weights, seed: int) -> Floats:
    generator = np.random.default_rng([seed, crc32(name.encode())])
    fan_in = int(np.prod(shape[1:]))
    out = generator.standard_normal(shape, dtype=np.float32)
    out *= np.float32(_gain(name) / fan_in**0.5)
    if kind == "Outliers":
        out[generator.random(shape) < 0.001] *= 20
    if kind == "Subnormal":
        out *= np.float32(2.0**-120)
    return out


def _gain(name: str) -> float:
    gain = next((factor for ending, factor in _GAINS.items() if name.endswith(ending)), 1.0)
    expert = re.search(r"\.experts\.(\d+)\.", name)
    return gain * (1 + 0.05 * ((5 * int(expert[1])) % 8)) if expert else gain
