"""How vLLM 0.32 reads `quant_method: compressed-tensors`: ignores, then targets, by name.

A merged layer is ignored only if all of its parts are, also in a layer where one of them is not on
disk. Lists made by walking the modules at hand fail there. Called by `serving_config` only.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from halftone.checkpoint.name_matching import MATCHING_SECONDS, NotMatchedError, first_matches
from halftone.checkpoint.serving_rules import (
    Activations,
    ModuleKind,
    QuantMethod,
    Rules,
    Scheme,
    ServedModule,
    WeightLayout,
    WillNotLoad,
    texts,
)


class Patterns:
    """Entries that match a name exactly, or as `re:` expressions anchored at the start."""

    def __init__(self, entries: Iterable[str], seconds: float = MATCHING_SECONDS) -> None:
        self._seconds = seconds
        self._exact: dict[str, int] = {}
        self._expressions: list[str] = []
        self._positions: list[int] = []  # of each expression among all entries
        self._first: dict[str, int | None] = {}
        for position, entry in enumerate(entries):
            if entry.startswith("re:"):
                self._expressions.append(entry[3:])
                self._positions.append(position)
            else:
                self._exact.setdefault(entry, position)

    def prepare(self, names: Iterable[str]) -> None:
        """Match all `names` at once, which costs a process; see `Rules.prepare`."""
        if not self._expressions:
            return
        new = [name for name in dict.fromkeys(names) if name not in self._first]
        try:
            matched = first_matches(self._expressions, new, self._seconds)
        except NotMatchedError as error:
            raise WillNotLoad(str(error)) from error
        for name, at in zip(new, matched, strict=True):
            exact = self._exact.get(name)
            expression = None if at is None else self._positions[at]
            found = [position for position in (exact, expression) if position is not None]
            self._first[name] = min(found, default=None)

    def first(self, name: str) -> int | None:
        """Position of the first entry that matches `name`, or None."""
        if not self._expressions:
            return self._exact.get(name)
        if name not in self._first:
            self.prepare([name])
        return self._first[name]


@dataclass(frozen=True)
class CompressedTensorsRules(Rules):
    """`quant_method: compressed-tensors`: ignores first, then targets in order."""

    ignore: Patterns
    targets: Patterns
    target_names: tuple[str, ...]
    schemes: tuple[Scheme, ...]
    method: QuantMethod = QuantMethod.CompressedTensors

    @classmethod
    def read(
        cls, block: Mapping[str, Any], rename: Callable[[str], str]
    ) -> "CompressedTensorsRules":
        """From a `quantization_config`. Entries with a dot are renamed as the weights are."""
        targets: dict[str, Scheme] = {}
        groups = block.get("config_groups") or {}
        for group in groups.values() if isinstance(groups, Mapping) else ():
            if not isinstance(group, Mapping):
                raise WillNotLoad("`config_groups` must map names to groups")
            names = texts(group.get("targets"))
            if len(names) == 1 and names[0].endswith("Attention"):
                continue  # a KV cache group, which says nothing of weights
            for name in names:
                targets[_renamed(name, rename)] = _scheme(group)
        ignore = [_renamed(entry, rename) for entry in texts(block.get("ignore"))]
        return cls(Patterns(ignore), Patterns(targets), tuple(targets), tuple(targets.values()))

    def prepare(self, modules: Iterable[ServedModule]) -> None:
        """See `Rules.prepare`."""
        names = [name for module in modules for name in (module.name, *module.part_names())]
        self.ignore.prepare(names)
        self.targets.prepare(names)

    def scheme_of(self, module: ServedModule) -> Scheme | None:
        """See `Rules.scheme_of`. Of experts the server asks about the first one only."""
        if module.kind is ModuleKind.RoutedExperts:
            return self._of_experts(module)
        if self._is_ignored(module):
            return None
        position = self.targets.first(module.name)
        if position is None and module.parts:
            found = [self.targets.first(name) for name in module.part_names()]
            position = None if None in found else found[0]
        if position is None and module.kind is ModuleKind.Linear:
            position = self._class_target("ParallelLinear")
        return None if position is None else self.schemes[position]

    def _of_experts(self, module: ServedModule) -> Scheme | None:
        class_target = self._class_target("RoutedExperts")
        if class_target is None and "Linear" in self.target_names:
            class_target = self.target_names.index("Linear")
        answers = set()
        for name in module.part_names():
            position = None
            if self.ignore.first(name) is None:
                position = self.targets.first(name)
                position = class_target if position is None else position
            answers.add(None if position is None else self.schemes[position])
        if len(answers) > 1:
            raise WillNotLoad(
                f"the projections of '{module.name}' get different schemes, and a server needs one"
            )
        return answers.pop() if answers else None

    def _is_ignored(self, module: ServedModule) -> bool:
        if self.ignore.first(module.name) is not None:
            return True
        names = module.part_names()
        ignored = [name for name in names if self.ignore.first(name) is not None]
        if ignored and len(ignored) < len(names):
            missing = ", ".join(f"'{name}'" for name in names if name not in ignored)
            raise WillNotLoad(
                f"the ignore list covers only some parts of '{module.name}', not {missing}; "
                "a server asks about all of them, also about those that are not on disk"
            )
        return bool(ignored)

    def _class_target(self, class_name: str) -> int | None:
        for position, target in enumerate(self.target_names):
            if not target.startswith("re:") and target.lower() in class_name.lower():
                return position
        return None


def _renamed(entry: str, rename: Callable[[str], str]) -> str:
    return rename(entry) if "." in entry and not entry.startswith("re:") else entry


def _scheme(group: Mapping[str, Any]) -> Scheme:
    """The scheme that a server picks for one `config_groups` entry."""
    weights = group.get("weights")
    if not isinstance(weights, Mapping):
        return Scheme(WeightLayout.Other, Activations.Kept)
    inputs = group.get("input_activations")
    activations = Activations.Kept
    if isinstance(inputs, Mapping):
        activations = Activations.Dynamic if inputs.get("dynamic") is True else Activations.Static
    return Scheme(_weight_layout(weights), activations)


def _weight_layout(weights: Mapping[str, Any]) -> WeightLayout:
    bits, kind, strategy = (weights.get(key) for key in ("num_bits", "type", "strategy"))
    if kind != "float" or weights.get("symmetric", True) is not True:
        return WeightLayout.Other
    if bits == 4 and strategy == "tensor_group" and weights.get("group_size") == 16:
        return WeightLayout.Nvfp4
    if bits == 8:
        return {
            "channel": WeightLayout.Fp8Channel,
            "tensor": WeightLayout.Fp8Tensor,
            "block": WeightLayout.Fp8Block,
        }.get(str(strategy), WeightLayout.Other)
    return WeightLayout.Other
