"""From what was measured to the scales of activations and of the KV cache.

Called by the encoder, through the engine. A scale here is what the arithmetic of compressed-tensors
gives, before a layout stores it: NVFP4's is a divisor, FP8's a multiplier.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from halftone.plan.kv_scales import kv_scales
from halftone.plan.measurements import cached_attention, input_group
from halftone.plan.planning import Planned
from halftone.plan.tensors import LogicalTensor
from halftone.quantize import kernels
from halftone.quantize.statistics import Statistics
from halftone.spec.dtypes import Dtype
from halftone.spec.formats import Format


@dataclass(frozen=True)
class MeasuredScales:
    """The scales that one plan's tensors get from its statistics."""

    statistics: Statistics
    _caches: Mapping[str, tuple[np.float32, Dtype]]

    @classmethod
    def of(cls, planned: Planned, statistics: Statistics) -> "MeasuredScales":
        """From `statistics` that were read for `planned`."""
        recipe = planned.plan.recipe
        if recipe is None:
            raise AssertionError("an accepted plan has a recipe. This is a bug. Please report.")
        attention = cached_attention(planned.tensors, recipe)
        caches = {
            part.name: (kernels.fp8_scale(amax), part.dtype)
            for both in kv_scales(attention, recipe.checkpointFormat)
            for part, amax in zip(both[1:], statistics.kv_amax(both.attention), strict=True)
        }
        return cls(statistics, caches)

    def input_scale(self, tensor: LogicalTensor) -> np.float32:
        """The scale of what enters `tensor`'s module, shared by its input group.

        Activations are BF16 whatever the weights are stored in.
        """
        amax = self.statistics.input_amax(input_group(tensor))
        if tensor.format is Format.FP8:
            return kernels.fp8_scale(amax)
        return kernels.nvfp4_global_scale(amax, bfloat16=True)

    def cache_scale(self, name: str) -> tuple[np.float32, Dtype]:
        """The scale that is stored as `name`, and its dtype."""
        return self._caches[name]
