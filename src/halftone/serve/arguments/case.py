"""What is to be served, with what, and what stands in the way of it.

`engine_arguments` gathers a `Case`; `requirements` and `mode_needs` judge it. Pure.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from halftone.checkpoint.serving_modes import ModeKey, ModeRow, find_row
from halftone.serve.arguments.checkpoint_facts import CheckpointFacts
from halftone.serve.arguments.device import DeviceFacts
from halftone.spec.names import Reason
from halftone.spec.serving import Accelerator, Endpoint, ServingMode


class Obstacle(NamedTuple):
    """Why it cannot be, as a sentence that names `subject` and the way out."""

    reason: Reason
    subject: str
    message: str


@dataclass(frozen=True)
class Case:
    """An endpoint, the facts of its checkpoint and draft, and the device."""

    endpoint: Endpoint
    model: CheckpointFacts
    draft: CheckpointFacts | None
    device: DeviceFacts

    @property
    def given(self) -> Mapping[str, Any]:
        """The endpoint's own arguments of vLLM, which win."""
        return self.endpoint.engineArguments

    @property
    def on_cpu(self) -> bool:
        """Whether our plugin computes as a GPU would."""
        return self.device.accelerator is Accelerator.CPU

    @cached_property
    def rows(self) -> dict[ServingMode, ModeRow | None]:
        """The table's row of each mode."""
        key = ModeKey(
            family=self.model.family,
            formats=self.model.formats,
            towers=self.model.towers,
            draft=None if self.draft is None else self.draft.model_type,
        )
        return {mode: find_row(mode, key) for mode in self.modes}

    @property
    def modes(self) -> tuple[ServingMode, ...]:
        """The endpoint's, and `text` where it names none of `text` and `multimodal`."""
        modes = self.endpoint.modes
        senses = {ServingMode.Text, ServingMode.Multimodal}
        return modes if senses & set(modes) else (ServingMode.Text, *modes)

    @property
    def models(self) -> tuple[CheckpointFacts, ...]:
        """The checkpoint and its draft."""
        return (self.model,) if self.draft is None else (self.model, self.draft)


def asks_for_fp8_cache(endpoint: Endpoint, model: CheckpointFacts) -> bool:
    """Whether the cache will be FP8: its own argument says so, else `config.json`, else a mode."""
    given = endpoint.engineArguments.get("kv_cache_dtype")
    if given not in (None, "auto"):
        return str(given).startswith("fp8")
    if given is None and ServingMode.LongContext in endpoint.modes:
        return True
    return model.fp8_cache
