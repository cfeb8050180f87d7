"""Counts what speculative decoding drafted and what of it was taken, for `GET /halftone/engine`.

The counters of `/metrics` go through Ray's agents, which a client of the endpoint does not reach.
Called by the replica once its engine is made. Runs in the environment that has vLLM only.
"""

from typing import Any

from vllm.config import VllmConfig
from vllm.v1.metrics.loggers import AggregateStatLoggerBase
from vllm.v1.metrics.stats import IterationStats, MultiModalCacheStats, SchedulerStats

from halftone.serve.measuring.engine_document import Speculation


def count_speculation(client: Any) -> "SpeculationCounter":
    """Of vLLM's `AsyncLLM`; it counts nothing where `disable_log_stats` is set."""
    counter = SpeculationCounter(client.vllm_config, [0])
    if client.logger_manager is not None:
        client.logger_manager.stat_loggers.append(counter)
    return counter


class SpeculationCounter(AggregateStatLoggerBase):  # type: ignore[misc]  # vLLM has no types here
    """One of vLLM's loggers, over all engines of a client."""

    def __init__(self, vllm_config: VllmConfig, engine_indexes: list[int]) -> None:
        del engine_indexes
        self._speculates = vllm_config.speculative_config is not None
        self._drafts = 0
        self._accepted = 0

    def record(
        self,
        scheduler_stats: SchedulerStats | None,
        iteration_stats: IterationStats | None,
        mm_cache_stats: MultiModalCacheStats | None = None,
        engine_idx: int = 0,
    ) -> None:
        """Called by vLLM after each step of an engine."""
        del iteration_stats, mm_cache_stats, engine_idx
        stats: Any = scheduler_stats and scheduler_stats.spec_decoding_stats
        if stats:
            self._drafts += stats.num_drafts
            self._accepted += stats.num_accepted_tokens

    def log_engine_initialized(self) -> None:
        """There is nothing to say of that."""

    @property
    def found(self) -> Speculation | None:
        """Since the engine started; None where it does not speculate."""
        if not self._speculates:
            return None
        return Speculation(drafts=self._drafts, acceptedTokens=self._accepted)
