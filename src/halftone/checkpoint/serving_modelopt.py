"""How vLLM 0.32 reads `quant_method: modelopt` and `fp8`: everything but what is listed.

ModelOpt's list holds wildcards and, from older exports, parts of names; the `fp8` list (DeepSeek,
Qwen) holds exact names. Called by `serving_config` only.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Final

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

_ALGORITHMS: Final[dict[str, Scheme]] = {
    "NVFP4": Scheme(WeightLayout.Nvfp4, Activations.Static),
    "W4A16_NVFP4": Scheme(WeightLayout.Nvfp4, Activations.Kept),
    "FP8": Scheme(WeightLayout.Fp8Tensor, Activations.Static),
    "FP8_PER_CHANNEL_PER_TOKEN": Scheme(WeightLayout.Fp8Channel, Activations.Dynamic),
    "FP8_PB_WO": Scheme(WeightLayout.Fp8Block, Activations.Dynamic),
    "FP8_BLOCK_SCALES": Scheme(WeightLayout.Fp8Block, Activations.Dynamic),
    "MXFP8": Scheme(WeightLayout.Other, Activations.Dynamic),
}
# Of a whole model, the server takes routed experts in these for experts in FP8.
_EXPERTS_ARE_PER_TENSOR: Final = {"FP8_PER_CHANNEL_PER_TOKEN", "FP8_PB_WO", "FP8_BLOCK_SCALES"}
_FOUR_BIT_ALGORITHMS: Final = {"NVFP4", "W4A16_NVFP4"}


@dataclass(frozen=True)
class ModelOptRules(Rules):
    """`quant_method: modelopt`: one algorithm for all that is not excluded, or one per layer."""

    algorithm: str
    excluded: tuple[str, ...]
    layers: Mapping[str, str]  # MIXED_PRECISION: module name -> algorithm
    method: QuantMethod = QuantMethod.ModelOpt

    @classmethod
    def read(cls, block: Mapping[str, Any], rename: Callable[[str], str]) -> "ModelOptRules":
        """From `quantization_config`, or the `quantization` part of `hf_quant_config.json`."""
        inner = block.get("quantization")
        settings = inner if isinstance(inner, Mapping) else block
        algorithm = str(settings.get("quant_algo") or "").upper()
        if algorithm != "MIXED_PRECISION" and algorithm not in _ALGORITHMS:
            raise WillNotLoad(f"`quant_algo` '{algorithm}' is not one that a server knows")
        excluded: list[str] = []
        for entry in texts(settings.get("ignore", settings.get("exclude_modules"))):
            if len(entry) >= 2 and entry.endswith("*") and entry[-2] != ".":
                excluded += [rename(entry[:-1]), rename(entry[:-1] + ".*")]
            else:
                excluded.append(rename(entry) if "." in entry else entry)
        layers = settings.get("quantized_layers")
        per_layer = {
            rename(name): str(what.get("quant_algo", "")).upper()
            for name, what in (layers.items() if isinstance(layers, Mapping) else ())
            if isinstance(what, Mapping)
        }
        return cls(algorithm, tuple(excluded), per_layer)

    def scheme_of(self, module: ServedModule) -> Scheme | None:
        """See `Rules.scheme_of`."""
        if self._is_excluded(module):
            return None
        if module.kind is ModuleKind.Embedding:
            return None
        if module.name == "mtp.fc" and self.algorithm in _FOUR_BIT_ALGORITHMS:
            return None  # vLLM builds it unquantized whatever the list says
        if self.algorithm != "MIXED_PRECISION":
            towers = ("vision_tower", "vision_model", "vit_large_projector")
            if any(tower in module.name for tower in towers):
                return None
            experts = module.kind is ModuleKind.RoutedExperts
            if experts and self.algorithm in _EXPERTS_ARE_PER_TENSOR:
                return _ALGORITHMS["FP8"]
            return _ALGORITHMS[self.algorithm]
        algorithm = self._layer_algorithm(module)
        if module.kind is ModuleKind.RoutedExperts and algorithm in _EXPERTS_ARE_PER_TENSOR:
            raise WillNotLoad(
                f"`quantized_layers` gives '{module.name}' {algorithm}, and a server does not load "
                "routed experts in that from this layout"
            )
        return None if algorithm is None else _ALGORITHMS.get(algorithm)

    def _is_excluded(self, module: ServedModule) -> bool:
        if not self.excluded:
            return False
        if _is_skipped(module, self.excluded):
            return True
        plain = module.name.removeprefix("language_model.")
        return any(
            entry in module.name or entry in plain or fnmatchcase(module.name, entry)
            for entry in self.excluded
        )

    def _layer_algorithm(self, module: ServedModule) -> str | None:
        if module.name in self.layers:
            return self.layers[module.name]
        found = {self.layers[name] for name in module.part_names() if name in self.layers}
        if len(found) > 1 and module.kind is ModuleKind.Linear:
            raise WillNotLoad(
                f"`quantized_layers` gives the parts of '{module.name}' different algorithms, "
                f"{', '.join(sorted(found))}, and a server needs one"
            )
        if len(found) == 1 and module.kind is ModuleKind.Linear:
            return found.pop()
        # Of anything that lies inside, or for experts beside, the server takes the first entry.
        starts = [module.name + "."]
        if module.name.endswith(".experts"):
            starts.append(module.name.removesuffix("experts"))
        for start in starts:
            for name, algorithm in self.layers.items():
                if name.startswith(start):
                    return algorithm
        return None


@dataclass(frozen=True)
class Fp8Rules(Rules):
    """`quant_method: fp8`: every linear layer, but those listed by exact name."""

    excluded: tuple[str, ...]
    scheme: Scheme
    method: QuantMethod = QuantMethod.Fp8

    @classmethod
    def read(cls, block: Mapping[str, Any], rename: Callable[[str], str]) -> "Fp8Rules":
        """From a `quantization_config` with `weight_block_size` and `activation_scheme`."""
        listed = block.get("ignored_layers") or block.get("modules_to_not_convert")
        layout = WeightLayout.Fp8Block if block.get("weight_block_size") else WeightLayout.Fp8Tensor
        static = block.get("activation_scheme") == "static"
        activations = Activations.Static if static else Activations.Dynamic
        excluded = tuple(rename(entry) for entry in texts(listed))
        return cls(excluded, Scheme(layout, activations))

    def scheme_of(self, module: ServedModule) -> Scheme | None:
        """See `Rules.scheme_of`."""
        if module.kind in {ModuleKind.LmHead, ModuleKind.Embedding}:
            return None
        return None if _is_skipped(module, self.excluded) else self.scheme


def _is_skipped(module: ServedModule, excluded: Sequence[str]) -> bool:
    """Exact names: all parts of a merged module are listed, or none."""
    if module.name in excluded:
        return True
    if module.kind is ModuleKind.RoutedExperts:
        return any(module.name in entry for entry in excluded if "experts" in entry)
    names = module.part_names()
    listed = [name in excluded for name in names]
    if any(listed) and not all(listed):
        missing = ", ".join(f"'{n}'" for n, there in zip(names, listed, strict=True) if not there)
        raise WillNotLoad(
            f"the list of excluded modules names only some parts of '{module.name}', not "
            f"{missing}; a server asks about all of them, also about those that are not on disk"
        )
    return any(listed)
