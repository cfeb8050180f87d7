"""The kernels that vLLM should choose (`kernels.yaml`), and what a loaded engine did instead.

Called by `engine_loads` and, where an endpoint starts, by `halftone.serve.kernel_check`. A format
served by another kernel is another arithmetic than the one that was meant, often weight-only and
without a word. On a CPU our own kernels serve and nothing is judged.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final, Protocol

import yaml

_TABLE: Final = Path(__file__).with_name("kernels.yaml")
# Kernels that compute no quantized weight, whatever else the model has.
_UNQUANTIZED: Final = ("Unquantized",)


class LoadedEngine(Protocol):
    """What is asked of an engine: `serving.session.EngineFacts`, or an endpoint's own facts.

    `engine` is `vllm VERSION`, `capability` a GPU's compute capability, such as `10.0`, and
    `kernels` are the names of the classes that compute quantized layers.
    """

    @property
    def engine(self) -> str: ...
    @property
    def device(self) -> str: ...
    @property
    def capability(self) -> str | None: ...
    @property
    def emulated(self) -> bool: ...
    @property
    def kernels(self) -> tuple[str, ...]: ...


@dataclass(frozen=True)
class WrongKernel:
    """What was found instead, as a sentence; `kernel` is None where none was found."""

    message: str
    kernel: str | None = None


def too_old(engine: str) -> str | None:
    """A sentence where `engine`, `vllm VERSION`, is older than the table's first; else None."""
    oldest = _table()["minimumVersion"]
    if _numbers(engine.rpartition(" ")[2]) >= _numbers(oldest):
        return None
    return (
        f"{engine} is older than {oldest}, the first that reads these checkpoints rightly; update "
        "vLLM."
    )


def unexpected_kernel(facts: LoadedEngine, formats: Iterable[str]) -> WrongKernel | None:
    """The first disagreement of engine and table; None for a CPU or an unknown device."""
    if facts.emulated:
        return None
    if (old := too_old(facts.engine)) is not None:
        return WrongKernel(old)
    expected = _row(facts.capability)
    if expected is None:
        return None
    allowed: set[str] = set()
    for fmt in sorted(set(formats) & expected.keys()):
        allowed |= set(expected[fmt])
        if not set(expected[fmt]) & set(facts.kernels):
            return WrongKernel(
                f"No layer is served by a kernel for {fmt} on {facts.device}: expected one of "
                f"{', '.join(expected[fmt])}, found {', '.join(facts.kernels) or 'none'}."
            )
    strange = [k for k in facts.kernels if k not in allowed and not k.startswith(_UNQUANTIZED)]
    if allowed and strange:
        return WrongKernel(
            f"`{strange[0]}` serves layers on {facts.device}, which is not a kernel for "
            f"{', '.join(sorted(set(formats)))} there; look in the log for why vLLM chose it.",
            strange[0],
        )
    return None


@cache
def _table() -> dict[str, Any]:
    table: dict[str, Any] = yaml.safe_load(_TABLE.read_text(encoding="utf-8"))
    return table


def _row(capability: str | None) -> dict[str, list[str]] | None:
    """The formats of the device with this compute capability."""
    if capability is None:
        return None
    for row in _table()["devices"]:
        if row["capability"] in {capability, capability.partition(".")[0]}:
            formats: dict[str, list[str]] = row["formats"]
            return formats
    return None


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version.partition("+")[0])[:3])
