"""Counts that are fixed, and the threshold rules in common use: an HPA, and KEDA's two.

Called by `policies`. Every rule here is someone else's, with the thresholds that they published.
"""

from typing import Final

from halftone.scaling.baselines.horizontal import (
    SYNC_S,
    Horizontal,
    replicas_for_pods,
    replicas_for_total,
)
from halftone.scaling.baselines.scrapes import Scrapes
from halftone.scaling.reading import Reading

# llm-d's HPA on saturation: KV use of 0.70 and 2 waiting requests, each a mean over pods.
KV_TARGET: Final = 0.70
HPA_WAITING: Final = 2.0
# vLLM's production stack: KEDA adds a replica for every 5 waiting requests.
KEDA_WAITING: Final = 5.0
# llm-d's token-aware rule: seconds of prefill that may wait at a replica, and how full its cache
# may be.
BACKLOG_S: Final = 1.5
OCCUPANCY: Final = 0.8
# Prompts are as long as those that finished in this time were.
_LENGTHS_S: Final = 300.0


class Static:
    """Always `replicas`."""

    interval_s = SYNC_S

    def __init__(self, replicas: int) -> None:
        self.replicas = replicas

    def __call__(self, reading: Reading) -> int:
        return self.replicas


class HpaOnKv:
    """An HPA on two metrics of pods, KV use and waiting requests; the larger count counts.

    Defaults of Kubernetes for all else: every 15 s, tolerance 0.1, a window of 300 s for scale-in.
    """

    interval_s = SYNC_S

    def __init__(self) -> None:
        self._horizontal = Horizontal()

    def __call__(self, reading: Reading) -> int:
        kv = replicas_for_pods([x.kv_usage for x in reading.replicas], reading.starting, KV_TARGET)
        queues = [each.waiting for each in reading.replicas]
        waiting = replicas_for_pods(queues, reading.starting, HPA_WAITING)
        return self._horizontal.scale(reading.time_s, _current(reading), max(kv, waiting))


class KedaOnWaiting:
    """KEDA with one trigger: all waiting requests over 5, through the HPA that KEDA makes.

    KEDA's own cooldown of 300 s is for the last replica alone, which is never given up here; above
    it the HPA's window of 300 s does the same.
    """

    interval_s = SYNC_S

    def __init__(self) -> None:
        self._horizontal = Horizontal()

    def __call__(self, reading: Reading) -> int:
        current = _current(reading)
        waiting = sum(each.waiting for each in reading.replicas)
        asked = replicas_for_total(waiting, current, KEDA_WAITING) if reading.replicas else current
        return self._horizontal.scale(reading.time_s, current, asked)


class KedaOnTokens:
    """KEDA with two triggers: seconds of prefill that wait over 1.5, and filled caches over 0.8.

    The published rule reads prompt tokens that were handed to a replica and are not prefilled yet
    from its router. vLLM exports requests that wait, not tokens: those times the mean of what
    recent prompts had to compute.
    """

    interval_s = SYNC_S

    def __init__(self, prefill_tokens_per_second: float) -> None:
        self.prefill_tokens_per_second = prefill_tokens_per_second
        self._horizontal = Horizontal()
        self._scrapes = Scrapes(_LENGTHS_S)

    def __call__(self, reading: Reading) -> int:
        self._scrapes.add(reading)
        current = _current(reading)
        if not reading.replicas:
            return self._horizontal.scale(reading.time_s, current, current)
        waiting = sum(each.waiting for each in reading.replicas)
        backlog_s = waiting * self._computed_prompt() / self.prefill_tokens_per_second
        filled = sum(each.kv_usage for each in reading.replicas)
        asked = max(
            replicas_for_total(backlog_s, current, BACKLOG_S),
            replicas_for_total(filled, current, OCCUPANCY),
        )
        return self._horizontal.scale(reading.time_s, current, asked)

    def _computed_prompt(self) -> float:
        """Mean prompt tokens of a request that no cache held; 0 before one has finished."""
        finished = self._scrapes.increase(lambda each: each.finished)
        if not finished:
            return 0.0
        prompt = self._scrapes.increase(lambda each: each.finished_prompt_tokens) / finished
        read = self._scrapes.increase(lambda each: each.prompt_tokens)
        cached = self._scrapes.increase(lambda each: each.cached_tokens)
        return prompt * (1 - min(1.0, cached / read) if read else 1.0)


def _current(reading: Reading) -> int:
    """A Deployment's replicas: those that end are no longer among them."""
    return reading.ready + reading.starting
