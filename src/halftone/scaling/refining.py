"""How fast replicas really are, against what their capacity card says.

Called by `demand`. Pure; standard library only. Only a replica that had a long queue all the while
shows its speed: others may have been idle, or had too few requests for a full batch.
"""

import math
from dataclasses import dataclass
from typing import Final, Self

from halftone.scaling.capacity import Capacity
from halftone.scaling.reading import ReplicaReading

# What was measured counts half after this long.
_HALF_LIFE_S: Final = 600.0
# So much must have been measured before the card is corrected, replica-seconds.
_ENOUGH_S: Final = 120.0
# A queue is long when working it off would take this share of the time between two readings.
_LONG: Final = 0.5
# No replica is so far from its card; beyond it something else is wrong.
_LEAST, _MOST = 0.5, 2.0


@dataclass(frozen=True, slots=True)
class Measured:
    """Replica-seconds that saturated replicas took (`taken_s`), and what their card would have
    taken for the same tokens (`stated_s`); both forgetting.
    """

    stated_s: float = 0.0
    taken_s: float = 0.0

    @property
    def factor(self) -> float:
        """How many times as fast as stated; 1 until enough was measured."""
        if self.taken_s < _ENOUGH_S:
            return 1.0
        return min(max(self.stated_s / self.taken_s, _LEAST), _MOST)

    def after(self, seconds: float, stated_s: float, taken_s: float) -> Self:
        """With what the last `seconds` showed."""
        keep = math.pow(0.5, seconds / _HALF_LIFE_S)
        return type(self)(keep * self.stated_s + stated_s, keep * self.taken_s + taken_s)


def stated_s(
    before: ReplicaReading, now: ReplicaReading, capacity: Capacity, prompt: float, output: float
) -> float | None:
    """What the card says that a replica needed for its tokens between two readings.

    None unless it had a long queue at both. `prompt` and `output` are mean lengths of its requests.
    """
    queued_s = min(before.waiting, now.waiting) * capacity.work_s(prompt, output)
    if queued_s < _LONG * (now.time_s - before.time_s) or now.finished < before.finished:
        return None
    prefilled = max(0.0, now.prompt_tokens - before.prompt_tokens)
    computed = prefilled - max(0.0, now.cached_tokens - before.cached_tokens)
    generated = max(0.0, now.generation_tokens - before.generation_tokens)
    steps = max(computed / capacity.token_budget, generated / capacity.sequences(prompt, output))
    each = capacity.seconds_per_kv_token * (prompt + output / 2) + capacity.seconds_per_sequence
    return (
        computed / capacity.prefill_tokens_per_second
        + generated * each
        + capacity.step_base_s * steps
    )
