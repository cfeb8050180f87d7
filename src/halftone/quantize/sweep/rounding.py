"""A tile of weights after a format's rounding, by the engine's own kernels: its error, its values.

Called by `weight_errors` for the sums, and by `measuring` also for the weights as a server
dequantizes them. `halftone.quantize.encoding` calls the same kernels for what is stored.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from halftone.checkpoint import decoding
from halftone.checkpoint.scratch import Scratch
from halftone.quantize import kernels
from halftone.quantize.encoding import SEARCHES, bf16_as_float32
from halftone.quantize.kernels import Weights
from halftone.spec.formats import FP8_BLOCK_SIDE, Format
from halftone.spec.job import BlockScale, Recipe

# A format whose weights are those of another: only their activations differ.
_WEIGHTS_OF: Final = {
    Format.NVFP4: Format.NVFP4A16,
    Format.FP8_BLOCK_A16: Format.FP8_BLOCK,
}


def weights_of(fmt: Format) -> Format:
    """The format that stores the same weights as `fmt`; all others are measured once for both."""
    return _WEIGHTS_OF.get(fmt, fmt)


class WeightRounder:
    """Rounds tiles as `recipe` would; safe to use from several threads.

    A tile is `uint16[rows, K]` of BF16 bits or `float32[rows, K]`, and begins at a multiple of 128
    rows of its matrix.
    """

    def __init__(self, recipe: Recipe) -> None:
        self._search = SEARCHES[recipe.scaleSearch]
        self._power_of_two = recipe.blockScale is BlockScale.PowerOfTwo
        self._scratch = Scratch()

    def round(
        self,
        fmt: Format,
        weights: Weights,
        maximum: float,
        bfloat16: bool,
        out: NDArray[np.float32] | None = None,
    ) -> tuple[float, float]:
        """(sum w², sum error²) of `weights` in the weights of `fmt`.

        `maximum` is the largest magnitude of the whole unit, `bfloat16` whether all its members are
        BF16. `out[rows, K]` takes the weights as a server dequantizes them, where it is given.
        """
        match weights_of(fmt):
            case Format.NVFP4A16:
                return self._nvfp4(weights, maximum, bfloat16, out)
            case Format.FP8_DYNAMIC:
                return self._fp8_channel(weights, out)
            case Format.FP8_BLOCK:
                return self._fp8_block(weights, out)
            case _:
                return self._fp8_tensor(weights, maximum, out)

    def _nvfp4(
        self, weights: Weights, maximum: float, bfloat16: bool, out: NDArray[np.float32] | None
    ) -> tuple[float, float]:
        rows, columns = weights.shape
        packed = self._take("codes", rows, columns // 2)
        scale = self._take("scale", rows, columns // 16)
        divisor = float(kernels.nvfp4_global_scale(maximum, bfloat16=bfloat16))
        weight, error, _ = kernels.quantize_nvfp4(weights, divisor, self._search, packed, scale)
        if out is not None:
            decoding.decode_nvfp4(packed, scale, divisor, out)
        return weight, error

    def _fp8_tensor(
        self, weights: Weights, maximum: float, out: NDArray[np.float32] | None
    ) -> tuple[float, float]:
        codes = self._take("codes", *weights.shape)
        scale = kernels.fp8_scale(maximum)
        sums = kernels.quantize_fp8_tensor(weights, scale, codes)
        if out is not None:
            decoding.decode_fp8_tensor(codes, float(scale), out)
        return sums

    def _fp8_channel(
        self, weights: Weights, out: NDArray[np.float32] | None
    ) -> tuple[float, float]:
        codes = self._take("codes", *weights.shape)
        scale = np.empty(weights.shape[0], np.uint16)
        sums = kernels.quantize_fp8_channel(weights, codes, scale)
        if out is not None:
            decoding.decode_fp8_channel(codes, bf16_as_float32(scale), out)
        return sums

    def _fp8_block(self, weights: Weights, out: NDArray[np.float32] | None) -> tuple[float, float]:
        codes = self._take("codes", *weights.shape)
        blocks = tuple(-(-size // FP8_BLOCK_SIDE) for size in weights.shape)
        scale = np.empty(blocks, np.uint16)
        sums = kernels.quantize_fp8_block(weights, codes, scale, self._power_of_two)
        if out is not None:
            side = FP8_BLOCK_SIDE
            decoding.decode_fp8_block(codes, bf16_as_float32(scale), side, side, out)
        return sums

    def _take(self, purpose: str, rows: int, columns: int) -> NDArray[np.uint8]:
        return self._scratch.take(purpose, rows * columns).reshape(rows, columns)
