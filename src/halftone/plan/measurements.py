"""What calibration must measure for a plan, and which modules share what was measured.

The calibration stage observes what is listed here, and the engine turns it into scales. A server
quantizes the input of a merged matrix once, so its members share an input scale; of the experts of
a layer several kernels (FlashInfer's, for NVFP4) use one scale for all, so those share one for each
projection, also with experts that no token reached.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from halftone.plan.tensors import LogicalTensor
from halftone.spec.formats import FORMATS
from halftone.spec.job import KvCacheScales, Recipe
from halftone.spec.roles import Role


class Measurements(NamedTuple):
    """Modules by the group that shares one input scale, and attention modules that have a cache.

    Names are those on disk without `.weight`: `model.layers.0.mlp.experts.3.gate_proj`.
    """

    inputs: dict[str, tuple[str, ...]]
    caches: tuple[str, ...]

    @property
    def modules(self) -> tuple[str, ...]:
        """Every module whose input is measured."""
        return tuple(module for members in self.inputs.values() for module in members)


def measurements(tensors: Sequence[LogicalTensor], recipe: Recipe) -> Measurements:
    """What must be measured for `tensors`; both parts are empty for a data-free plan."""
    inputs: defaultdict[str, list[str]] = defaultdict(list)
    for tensor in tensors:
        if tensor.format is not None and FORMATS[tensor.format].needs_calibration:
            inputs[input_group(tensor)].append(tensor.name.removesuffix(".weight"))
    return Measurements(
        {group: tuple(members) for group, members in inputs.items()},
        cached_attention(tensors, recipe),
    )


def input_group(tensor: LogicalTensor) -> str:
    """The name of the group that shares `tensor`'s input scale.

    `...self_attn.qkv_proj` for a merged matrix, `...mlp.experts.down_proj` for routed experts, and
    the module itself for a matrix of its own.
    """
    module = tensor.name.removesuffix(".weight")
    if tensor.role is Role.Experts:
        expert, _, projection = (tensor.group or module).rpartition(".")
        return f"{expert.rpartition('.')[0]}.{projection}"
    return tensor.group or module


def cached_attention(tensors: Sequence[LogicalTensor], recipe: Recipe) -> tuple[str, ...]:
    """Attention modules whose keys and values are measured as they enter the cache.

    Every layer with a key projection has a cache; a layer without value projection caches keys
    under both names.
    """
    if recipe.kvCache is None or recipe.kvCache.scales is not KvCacheScales.Calibrated:
        return ()
    return tuple(
        t.name.removesuffix(".k_proj.weight")
        for t in tensors
        if t.role is Role.Attention and t.name.endswith(".k_proj.weight")
    )
