"""Global scales turned round: the divisors of compressed-tensors and the multipliers of ModelOpt.

A server that reads a divisor d multiplies by float32(1 / d), so that is the multiplier that says
the same. Back again, a divisor that gives exactly the multiplier does not always exist: float32
numbers lie closer together on one side of the inverse than on the other. Called by
`halftone.quantize.conversion.steps`; pure arithmetic.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

# One step of a divisor never moves its inverse by less than half a step: whatever gives a
# multiplier exactly lies within two steps of its inverse.
_NEIGHBOURS: Final = np.arange(-2, 3, dtype=np.int32)


def multipliers_of(divisors: Floats) -> Floats:
    """float32(1 / d): what vLLM computes of a stored divisor at load."""
    with np.errstate(over="ignore", divide="ignore"):
        return np.float32(1.0) / divisors


def divisors_of(multipliers: Floats) -> tuple[Floats, NDArray[np.bool_]]:
    """For each multiplier the divisor whose float32 inverse is it, or comes nearest to it.

    Of several the one with the fewest significant bits is taken, which for a divisor that was
    rounded to BF16 is that divisor. The second array says where the inverse is exact.
    `multipliers` are positive and finite, and so are their inverses.
    """
    near = (1.0 / multipliers.astype(np.float64)).astype(np.float32)
    patterns = near.view(np.int32)[..., None] + _NEIGHBOURS
    candidates = patterns.view(np.float32)
    with np.errstate(all="ignore"):
        off = np.abs(multipliers_of(candidates).astype(np.float64) - multipliers[..., None])
    off = np.where(np.isfinite(candidates) & (candidates > 0), off, np.inf)
    least = off.min(axis=-1, keepdims=True)
    roundness = np.where(off == least, patterns & -patterns, -1)
    best = roundness.argmax(axis=-1)[..., None]
    return np.take_along_axis(candidates, best, -1)[..., 0], least[..., 0] == 0.0
