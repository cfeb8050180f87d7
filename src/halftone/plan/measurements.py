"""What calibration must measure for a plan, and which modules share what was measured.

The calibration stage observes what is listed here, and the engine turns it into scales. A server
quantizes the input of a merged matrix once, so its members share an input scale; of the experts of
a layer several kernels (FlashInfer's, for NVFP4) use one scale for all, so those share one for each
projection, also with experts that no token reached.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from halftone.checkpoint.architectures import text_config
from halftone.plan.layout import Unit
from halftone.plan.tensors import LogicalTensor
from halftone.spec.errors import RefusedInput
from halftone.spec.formats import FORMATS
from halftone.spec.job import Recipe
from halftone.spec.names import Reason
from halftone.spec.roles import Role

_KEYS: Final = ".k_proj.weight"


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
    """Attention modules whose keys and values are measured as they enter the cache."""
    return attention_with_cache(tensors) if recipe.measures_cache else ()


def refuse_shared_caches(config: Mapping[str, Any], recipe: Recipe) -> None:
    """Refuse measured scales for layers that read another layer's cache.

    vLLM 0.32 writes such a cache with the scales of the layer that owns it, and decodes it with
    those of each layer that reads it (`Attention._k_scale`, 1.0 unless stored). It hands the scales
    of the owner to none of them, and for Gemma 4 drops a `k_proj.k_scale` that is stored for them.
    """
    shared = text_config(dict(config)).get("num_kv_shared_layers")
    if shared and recipe.measures_cache:
        raise RefusedInput(
            Reason.NotSupported,
            "quantization.kvCache.scales",
            f"`num_kv_shared_layers` of `config.json` is {shared}: so many layers read a cache "
            "that another layer wrote, and vLLM 0.32 would decode it with other scales than it was "
            "written with; set `quantization.kvCache.scales` to Unit.",
        )


def attention_with_cache(tensors: Sequence[LogicalTensor]) -> tuple[str, ...]:
    """Attention modules that keep keys and values, by their names on disk.

    Every layer with a key projection has a cache; a layer without value projection caches keys
    under both names.
    """
    return tuple(
        t.name.removesuffix(_KEYS)
        for t in tensors
        if t.role is Role.Attention and t.name.endswith(_KEYS)
    )


def measured_scales(units: Iterable[Unit]) -> int:
    """How many stored scales of `units` come from statistics: of inputs, of keys and of values."""
    return sum(
        sum(FORMATS[t.format].needs_calibration for t in unit.members if t.format is not None)
        if unit.members
        else sum(map(len, unit.parts))
        for unit in units
    )
