"""The words in which a quantization block answers: modules as a server names them, and schemes.

`halftone.checkpoint.serving_config` reads a block into `Rules`; `halftone.validate` asks them. No
method's own rules stand here.
"""

from collections.abc import Iterable
from enum import StrEnum
from typing import Any, Final, NamedTuple

from halftone.spec.formats import Format


class WeightLayout(StrEnum):
    """How the codes and scales of a matrix lie on disk."""

    Nvfp4 = "Nvfp4"
    Fp8Channel = "Fp8Channel"
    Fp8Tensor = "Fp8Tensor"
    Fp8Block = "Fp8Block"
    Other = "Other"  # a scheme that Halftone does not know (integers, MXFP4, ...)


class Activations(StrEnum):
    """What a scheme does to activations at run time."""

    Kept = "Kept"
    Dynamic = "Dynamic"  # scaled at run time, nothing stored
    Static = "Static"  # a scale is stored (for NVFP4 the global one)


class QuantMethod(StrEnum):
    """Who wrote the quantization block."""

    CompressedTensors = "compressed-tensors"
    ModelOpt = "modelopt"
    Fp8 = "fp8"
    Unknown = "unknown"
    Absent = "none"


class Scheme(NamedTuple):
    """What a server expects of a module's weights and does to its activations."""

    weights: WeightLayout
    activations: Activations


# The names of the schemes that compressed-tensors has presets for, and we write.
FORMATS_OF_SCHEMES: Final = {
    Scheme(WeightLayout.Nvfp4, Activations.Kept): Format.NVFP4A16,
    Scheme(WeightLayout.Nvfp4, Activations.Static): Format.NVFP4,
    Scheme(WeightLayout.Fp8Tensor, Activations.Static): Format.FP8,
    Scheme(WeightLayout.Fp8Channel, Activations.Dynamic): Format.FP8_DYNAMIC,
    Scheme(WeightLayout.Fp8Block, Activations.Dynamic): Format.FP8_BLOCK,
    Scheme(WeightLayout.Fp8Block, Activations.Kept): Format.FP8_BLOCK_A16,
}


class ModuleKind(StrEnum):
    """What a server builds for a module; targets may name it."""

    Linear = "Linear"
    RoutedExperts = "RoutedExperts"
    LmHead = "LmHead"
    Embedding = "Embedding"


class ServedModule(NamedTuple):
    """A module as the server names it; `parts` are the leaf names that are merged into it."""

    name: str
    kind: ModuleKind
    parts: tuple[str, ...] = ()

    def part_names(self) -> tuple[str, ...]:
        """The full names that a server asks about, whether or not they are on disk."""
        parent, _, _ = self.name.rpartition(".")
        if self.kind is ModuleKind.RoutedExperts:
            return tuple(f"{self.name}.0.{part}" for part in self.parts)
        return tuple(f"{parent}.{part}" for part in self.parts)


class WillNotLoad(Exception):
    """A server refuses this module; the message says why. A finding, not a failure of ours."""


class Rules:
    """One quantization block, ready to be asked about modules."""

    method: QuantMethod = QuantMethod.Absent

    def prepare(self, modules: Iterable[ServedModule]) -> None:
        """Look at all `modules` that will be asked about; one by one they may cost far more.

        Raises WillNotLoad for a list that cannot be held against names at all.
        """
        del modules

    def scheme_of(self, module: ServedModule) -> Scheme | None:
        """The scheme of `module`, None where it stays unquantized.

        Raises WillNotLoad where the server would refuse to build the module.
        """
        del module
        return None


class UnknownRules(Rules):
    """A method whose rules are not restated here; nothing is concluded from it."""

    method = QuantMethod.Unknown


def texts(value: Any) -> list[str]:
    """The strings of a list; nothing for anything else, since the block is a stranger's."""
    return [entry for entry in value if isinstance(entry, str)] if isinstance(value, list) else []
