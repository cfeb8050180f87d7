"""Quantized matrices as a server multiplies by them, decoded by the tests themselves.

Called by the tests of `halftone sweep`. It must not import the package's decoding.
"""

import numpy as np
from numpy.typing import NDArray

from tests import numpy_llama
from tests.builders import as_float32, read_checkpoint
from tests.commands import Made
from tests.quantizing import codes


def dequantized(made: Made) -> dict[str, NDArray[np.float64]]:
    """Every quantized matrix of a compressed-tensors checkpoint, by its name in the source."""
    stored = read_checkpoint(made.directory)
    found = {}
    for name, scale in stored.items():
        module, _, part = name.rpartition(".")
        if part != "weight_scale":
            continue
        steps = as_float32(scale).astype(np.float64)
        packed = stored.get(f"{module}.weight_packed")
        if packed is None:
            found[f"{module}.weight"] = as_float32(stored[f"{module}.weight"]) * steps
            continue
        pairs = np.stack([codes(packed) & 15, codes(packed) >> 4], axis=-1)
        nibbles = pairs.reshape(len(steps), -1)
        values = numpy_llama.E2M1[nibbles & 7] * np.where(nibbles & 8, -1.0, 1.0)
        divisor = float(as_float32(stored[f"{module}.weight_global_scale"])[0])
        found[f"{module}.weight"] = values * np.repeat(steps, 16, axis=1) / divisor
    return found
