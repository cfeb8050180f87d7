"""Scales of the KV cache: of every layer that has one, of no other, and each a positive number.

A layer whose scales a server does not find is served with 1.0. vLLM says so of ModelOpt's
checkpoints and keeps silent about those of compressed-tensors. Called by
`halftone.validate.inspection`; the gate `structure` asks for more, as it knows the plan.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, Final

from halftone.checkpoint.headers import TensorEntry
from halftone.checkpoint.serving_config import quantization_block
from halftone.spec.dtypes import Dtype
from halftone.spec.job import KvCacheFormat, Recipe
from halftone.spec.names import CONFIG_FILE, DefectKind
from halftone.spec.roles import Role
from halftone.validate.findings import Defect
from halftone.validate.inventory import CACHE_SCALES, Inventory
from halftone.validate.scales import Scales, unusable

_DTYPES: Final = frozenset({Dtype.BF16, Dtype.F16, Dtype.F32})
_PROJECTIONS: Final = (".k_proj", ".v_proj")


@dataclass(frozen=True)
class CacheScales:
    """Stored scales by attention module and kind; `layers` are the modules that have a cache."""

    layers: tuple[str, ...]
    stored: Mapping[str, Mapping[str, list[TensorEntry]]]

    def entries(self) -> list[TensorEntry]:
        """All stored scales."""
        kinds = [kind for scales in self.stored.values() for kind in scales.values()]
        return [entry for entries in kinds for entry in entries]


def cache_scales(inventory: Inventory) -> CacheScales:
    """What lies in the checkpoint, in compressed-tensors' places and in ModelOpt's.

    A prediction head is left out: it has a cache, and no server gives it scales.
    """
    stored: defaultdict[str, defaultdict[str, list[TensorEntry]]] = defaultdict(
        lambda: defaultdict(list)
    )
    layers = []
    for module in inventory.modules.values():
        role = module.place.role
        if role is Role.Attention and module.name.endswith(".k_proj"):
            layers.append(module.name.removesuffix(".k_proj"))
        if role is not Role.MultiTokenPrediction:
            for kind in CACHE_SCALES:
                if kind in module.parts:
                    stored[attention_of(module.name)][kind].append(module.parts[kind])
    return CacheScales(tuple(layers), stored)


def attention_of(module: str) -> str:
    """The attention module whose cache a scale at `module` belongs to."""
    for projection in _PROJECTIONS:
        module = module.removesuffix(projection)
    return module


def cache_defects(
    found: CacheScales, scales: Scales, config: Mapping[str, Any]
) -> Iterator[Defect]:
    """Everything that is wrong with the scales; nothing where a checkpoint has none at all."""
    if not found.stored:
        return
    yield from _misplaced(found)
    for entry in found.entries():
        if entry.dtype not in _DTYPES or (prod(entry.shape) != 1 and not _has_heads(config)):
            told = (
                f"`{entry.name}` is {entry.dtype} {list(entry.shape)}, not one BF16 or F32 number"
            )
            yield _defect(DefectKind.UnexpectedLayout, entry.name, f"{told}.")
    yield from unusable(found.entries(), scales)


def _misplaced(found: CacheScales) -> Iterator[Defect]:
    """Layers with a cache and without scales, scales without a cache, and one scale twice."""
    calibrated = sum(1 for name in found.layers if name in found.stored)
    for name in found.layers:
        for kind in CACHE_SCALES:
            entries = found.stored.get(name, {}).get(kind, [])
            if not entries:
                told = f"{calibrated} of {len(found.layers)} layers with a cache have scales"
                yield _defect(
                    DefectKind.MissingTensor,
                    f"{name}.{kind}",
                    f"`{name}.{kind}` is missing: {told}, and a server takes 1.0 here, mostly "
                    "without a word.",
                )
            for surplus in entries[1:]:
                told = f"`{surplus.name}` and `{entries[0].name}` are both the {kind} of one layer"
                yield _defect(DefectKind.UnexpectedTensor, surplus.name, f"{told}.")
    for name, kinds in found.stored.items():
        if name not in found.layers:
            first = next(entry for entries in kinds.values() for entry in entries)
            told = f"`{first.name}` is a scale for a cache, but `{name}` has no keys to keep"
            yield _defect(DefectKind.UnexpectedTensor, first.name, f"{told}.")


def unasked_cache(recipe: Recipe | None, config: Mapping[str, Any]) -> Iterator[Defect]:
    """A configuration that does not ask for the cache that the recipe has, or asks unplanned."""
    wanted = recipe is not None and recipe.kvCache is not None
    if wanted is asks_for_fp8_cache(config):
        return
    told = "does not ask for the" if wanted else "asks for an unplanned"
    yield _defect(
        DefectKind.UnexpectedLayout,
        f"{CONFIG_FILE}:kv_cache_scheme",
        f"`quantization_config` of `{CONFIG_FILE}` {told} {KvCacheFormat.FP8} KV cache.",
    )


def asks_for_fp8_cache(config: Mapping[str, Any]) -> bool:
    """Whether a server gives the model an FP8 cache because its configuration says so."""
    scheme = _scheme(config)
    return (scheme.get("num_bits"), scheme.get("type")) == (8, "float")


def _has_heads(config: Mapping[str, Any]) -> bool:
    """Whether there is one scale for each head, as llm-compressor can write them."""
    return _scheme(config).get("strategy") == "attn_head"


def _scheme(config: Mapping[str, Any]) -> Mapping[str, Any]:
    scheme = (quantization_block(config) or {}).get("kv_cache_scheme")
    return scheme if isinstance(scheme, Mapping) else {}


def _defect(kind: DefectKind, tensor: str, message: str) -> Defect:
    return Defect(kind=kind, tensor=tensor, message=message)
