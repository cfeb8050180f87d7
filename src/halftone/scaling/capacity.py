"""What one replica can do, in the terms of the work formula: seconds, tokens, blocks.

Used by the policy, by the plant and by baselines. Standard library only.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Self

# Blocks that a scheduler keeps busy: beyond this share it preempts.
USABLE: Final = 0.9


@dataclass(frozen=True, slots=True)
class CacheGroup:
    """One KV-cache group of vLLM, whose blocks come from the pool that all groups share.

    A group of full attention grows with the request: `most` is None. A window grows until `most`
    blocks, which is what vLLM sets aside while it prefills; where `window` (tokens) is known too,
    a request that decodes holds the window alone. State pins `most` whatever the length: `pinned`.
    """

    block_tokens: int
    most: int | None = None
    pinned: bool = False
    window: int | None = None

    def blocks(self, tokens: float) -> float:
        """Blocks that a request of `tokens` tokens holds."""
        if self.pinned and self.most is not None:
            return self.most
        needed = math.ceil(tokens / self.block_tokens)
        if self.window is not None:
            needed -= int(max(0.0, tokens - self.window) // self.block_tokens)
        return needed if self.most is None else min(needed, self.most)


@dataclass(frozen=True, slots=True)
class Capacity:
    """One replica on one device.

    A step takes `step_base_s + seconds_per_kv_token * KV tokens + seconds_per_sequence * decoding
    sequences + prefill tokens / prefill_tokens_per_second`. `kv_blocks` are those that requests may
    use, for all `groups` together. `token_budget` bounds the tokens of a step, `max_sequences` its
    sequences.
    """

    prefill_tokens_per_second: float
    step_base_s: float
    seconds_per_kv_token: float
    seconds_per_sequence: float
    kv_blocks: int
    groups: tuple[CacheGroup, ...]
    token_budget: int
    max_sequences: int

    @classmethod
    def from_card(cls, card: Mapping[str, Any]) -> Self:
        """Of a capacity card as its JSON says (`halftone.spec.capacity.CapacityCard`).

        Raises KeyError, TypeError or ValueError for what is no card; readers check that before.
        """
        groups = tuple(_group(each) for each in card["cacheGroups"])
        return cls(
            prefill_tokens_per_second=float(card["prefillTokensPerSecond"]["value"]),
            step_base_s=float(card["stepBaseSeconds"]["value"]),
            seconds_per_kv_token=float(card["secondsPerKvToken"]["value"]),
            seconds_per_sequence=float(card["secondsPerSequence"]["value"]),
            kv_blocks=int(card["kvBlocks"]) - 1,  # vLLM never hands out the first
            groups=groups,
            token_budget=int(card["tokenBudget"]),
            max_sequences=int(card["maxSequences"]),
        )

    def faster(self, factor: float) -> Self:
        """The same replica when all that it computes takes 1 / `factor` of the time."""
        return replace(
            self,
            prefill_tokens_per_second=self.prefill_tokens_per_second * factor,
            step_base_s=self.step_base_s / factor,
            seconds_per_kv_token=self.seconds_per_kv_token / factor,
            seconds_per_sequence=self.seconds_per_sequence / factor,
        )

    def blocks(self, tokens: float) -> float:
        """KV blocks that a request of `tokens` tokens holds, over all groups."""
        return sum(group.blocks(tokens) for group in self.groups)

    def sequences(self, prompt: float, output: float) -> float:
        """How many requests of these lengths run at once; at least 1."""
        held = max(1.0, self.blocks(prompt + output / 2))
        return max(1.0, min(self.max_sequences, USABLE * self.kv_blocks / held))

    def work_s(self, prompt: float, output: float, computed: float | None = None) -> float:
        """Replica-seconds that a request takes when its replica is as full as it should be.

        The formula of `docs/scaling.md`: prefill, plus decoding at the cost of the tokens and of
        the sequence, plus this request's share of the base of each step. `computed` are the prompt
        tokens that no prefix cache held; all of them where it is None.
        """
        fresh = prompt if computed is None else computed
        tokens = self.seconds_per_kv_token * (prompt + output / 2)
        steps = max(fresh / self.token_budget, output / self.sequences(prompt, output))
        return (
            fresh / self.prefill_tokens_per_second
            + output * (tokens + self.seconds_per_sequence)
            + self.step_base_s * steps
        )

    def longest_step_s(self, kv_tokens: float, sequences: float) -> float:
        """A step that carries a whole budget of prefill beside `sequences` that decode."""
        return (
            self.step_base_s
            + self.token_budget / self.prefill_tokens_per_second
            + self.seconds_per_kv_token * kv_tokens
            + self.seconds_per_sequence * sequences
        )


def _group(stated: Mapping[str, Any]) -> CacheGroup:
    most = int(stated["blocksPerRequest"])
    if not most:
        return CacheGroup(int(stated["blockTokens"]))
    windowed = "Window" in stated["kind"] or "Chunked" in stated["kind"]
    return CacheGroup(int(stated["blockTokens"]), most, pinned=not windowed)
