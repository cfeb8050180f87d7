"""Whether all decoder layers are there and have what others of their kind have.

A configuration says how many layers and experts there are, never which tensors each has; what a
layer lost shows when it is held against the others. Called by `halftone.validate.structure`.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from typing import Any, Final

from halftone.checkpoint.architectures import text_config
from halftone.checkpoint.architectures.table import TEXT_PREFIXES
from halftone.spec.names import CONFIG_FILE, DefectKind
from halftone.spec.roles import Role
from halftone.validate.findings import Defect
from halftone.validate.inventory import CACHE_SCALES, Inventory, layer_of

_EXPERT_COUNTS: Final = ("num_experts", "num_local_experts", "n_routed_experts")
_TRUNKS: Final = {*TEXT_PREFIXES, ""}
_MOST_LAYERS: Final = 10_000  # a configuration may claim any number
_MOST_EXPERTS: Final = 100_000
_OUTSIDE_THE_TRUNK: Final = {
    Role.Vision,
    Role.Audio,
    Role.Projector,
    Role.MultiTokenPrediction,
}
# What layers have whatever their attention.
_SHARED_BY_KINDS: Final = {Role.Mlp, Role.Experts, Role.SharedExperts, Role.Router}

_Layers = Mapping[int, Mapping[str, Role]]  # by number: modules inside, and their roles


def missing_in_layers(inventory: Inventory, config: Mapping[str, Any]) -> Iterator[Defect]:
    """Layers that are absent, and modules that a layer lacks and the others have."""
    text = text_config(dict(config))
    layers: defaultdict[str, defaultdict[int, dict[str, Role]]] = defaultdict(
        lambda: defaultdict(dict)
    )
    for module in inventory.modules.values():
        where = layer_of(module.name)
        if module.parts.keys() <= set(CACHE_SCALES):
            continue  # no module of the model; `cache_scales` knows which layers have them
        if where is not None and module.place.role not in _OUTSIDE_THE_TRUNK:
            head, number = where
            inside = module.name.removeprefix(f"{head}layers.{number}").removeprefix(".")
            layers[head][number][inside] = module.place.role
    for head, numbered in layers.items():
        if head in _TRUNKS:
            yield from _absent(head, numbered, text)
        lost: dict[str, str] = {}
        for kind in _kinds(numbered, text).values():
            lost |= _lacking(head, {n: set(numbered[n]) for n in kind}, least=2)
        shared = {n: _shared(modules) for n, modules in numbered.items()}
        lost |= _lacking(head, shared, least=3)
        for name, why in lost.items():
            yield missing(name, why)
    yield from _missing_experts(inventory, text)


def missing(name: str, why: str) -> Defect:
    """The defect of something that is not there."""
    return Defect(
        kind=DefectKind.MissingTensor, tensor=name, message=f"`{name}` is not there: {why}."
    )


def _absent(head: str, numbered: _Layers, text: Mapping[str, Any]) -> Iterator[Defect]:
    expected = text.get("num_hidden_layers")
    for number in range(min(expected, _MOST_LAYERS) if isinstance(expected, int) else 0):
        if number not in numbered:
            yield missing(f"{head}layers.{number}", f"layer {number} of {expected}")


def _shared(modules: Mapping[str, Role]) -> set[str]:
    return {
        name
        for name, role in modules.items()
        if role in _SHARED_BY_KINDS or (role is Role.Norm and "." not in name)
    }


def _kinds(numbered: _Layers, text: Mapping[str, Any]) -> dict[Any, list[int]]:
    """Layers that should have the same modules, by what the configuration says of them.

    Without `layer_types` a layer's kind is the set of its children, so that a hybrid model's
    layers are not held against each other.
    """
    declared = text.get("layer_types")
    kinds: defaultdict[Any, list[int]] = defaultdict(list)
    for number, modules in numbered.items():
        if isinstance(declared, list) and number < len(declared):
            kinds[str(declared[number])].append(number)
        else:
            kinds[frozenset(name.partition(".")[0] for name in modules)].append(number)
    return kinds


def _lacking(head: str, layers: Mapping[int, set[str]], least: int) -> dict[str, str]:
    """Names that nearly all of `layers` have and some do not, each with the reason.

    A layer that has something else instead (a dense layer among sparse ones) is of another design
    and lacks nothing.
    """
    if len(layers) < least:
        return {}
    count = Counter(module for modules in layers.values() for module in modules)
    tolerated = max(1, len(layers) // 8)  # more than that is a pattern, not a loss
    usual = {m for m, times in count.items() if len(layers) - tolerated <= times}
    everywhere = {m for m, times in count.items() if times == len(layers)}
    ordinary = usual if len(layers) > 2 else everywhere
    lost = {}
    for number, modules in layers.items():
        if modules - ordinary:
            continue
        for module in sorted(usual - modules):
            name = f"{head}layers.{number}.{module}".removesuffix(".")
            lost[name] = f"{count[module]} of {len(layers)} layers of its kind have it"
    return lost


def _missing_experts(inventory: Inventory, text: Mapping[str, Any]) -> Iterator[Defect]:
    """Fewer experts than promised, in every layer (a single layer's loss is seen above)."""
    promised = next((text[key] for key in _EXPERT_COUNTS if isinstance(text.get(key), int)), 0)
    found = {
        int(number)
        for module in inventory.modules.values()
        if module.place.role is Role.Experts
        for number in [module.name.partition(".experts.")[2].partition(".")[0]]
        if number.isascii() and number.isdecimal()
    }
    lost = sorted(set(range(min(promised, _MOST_EXPERTS))) - found)
    if found and lost:
        yield missing(
            f"experts.{lost[0]}",
            f"`{CONFIG_FILE}` promises {promised} experts, and no layer has this one "
            f"({len(lost)} are missing in all)",
        )
