"""Matrices that are hard to quantize, by name, as float32.

Called by tests of kernels, here and against compressed-tensors. Magnitudes reach from subnormal to
nearly the largest BF16, since that is where shortcuts in arithmetic show.
"""

import numpy as np

from .numbers import Floats, bf16_to_float32


def hard_matrices(rows: int = 150, columns: int = 272, seed: int = 0) -> dict[str, Floats]:
    """`[rows, columns]` matrices; at least 16 rows and 16 columns, columns a multiple of 16."""
    draw = np.random.default_rng(seed)
    shape = (rows, columns)
    normal = draw.standard_normal(shape).astype(np.float32)
    outliers = normal * np.float32(0.02)
    outliers[draw.random(shape) < 0.001] *= np.float32(100)
    uneven = normal * np.exp2(draw.integers(-24, 1, (rows, 1))).astype(np.float32)
    uneven[:, :16] *= np.exp2(draw.integers(-12, 1, (rows, 1))).astype(np.float32)
    holes = normal * np.float32(0.02)
    holes[3], holes[5, :16], holes[7, 1::2], holes[9] = 0, 0, -0.0, -0.0
    signs = np.sign(normal)
    return {
        "gaussian": normal * np.float32(0.02),
        "outliers": outliers,
        "uneven": uneven,
        "holes": holes,
        "zero": np.zeros(shape, np.float32),
        "constant": signs * np.float32(0.125),
        "ties": signs * draw.integers(0, 25, shape).astype(np.float32) / np.float32(4),
        "small": normal * np.float32(2.0**-112),
        "subnormal": normal * np.float32(2.0**-126),
        "large": normal * np.float32(2.0**120),
    }


def every_bf16(seed: int = 0) -> Floats:
    """All finite BF16 numbers, `[127, 512]`: rows of one binade each, in random order."""
    draw = np.random.default_rng(seed)
    positive = np.arange(0x7F80, dtype=np.uint16)[: 127 * 256].reshape(127, 256)
    both = np.concatenate([positive, positive | np.uint16(0x8000)], axis=1)
    return bf16_to_float32(draw.permuted(both, axis=1))
