"""What the replicas are doing, on one line: tokens a second, time to first token, cache, queue.

Called by `halftone serve`. It reads what Ray's agent on this machine exports for all replicas, the
same that Prometheus would; a replica that does nothing exports nothing, which counts as zero.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from time import monotonic
from typing import Final

from prometheus_client.parser import text_string_to_metric_families

from halftone.scaling.baselines.quantiles import histogram_quantile

_PREFIX: Final = "ray_vllm_"
_TOKENS: Final = f"{_PREFIX}generation_tokens_total"
_RUNNING: Final = f"{_PREFIX}num_requests_running"
_WAITING: Final = f"{_PREFIX}num_requests_waiting"
_CACHE: Final = f"{_PREFIX}kv_cache_usage_perc"
_FIRST: Final = f"{_PREFIX}time_to_first_token_seconds_bucket"


@dataclass(frozen=True)
class Reading:
    """All replicas together at one moment. `first` is the histogram of times to first tokens."""

    at: float
    tokens: float
    running: float
    waiting: float
    cache: float
    first: Mapping[float, float]


def read(text: str, at: float | None = None) -> Reading:
    """The reading in an exposition of Prometheus's."""
    sums = dict.fromkeys((_TOKENS, _RUNNING, _WAITING), 0.0)
    first: dict[float, float] = {}
    cache = 0.0
    for family in text_string_to_metric_families(text):
        for name, labels, value, *_ in family.samples:
            if name in sums:
                sums[name] += value
            elif name == _CACHE:
                cache = max(cache, value)  # the fullest replica
            elif name == _FIRST:
                bound = float(labels["le"])
                first[bound] = first.get(bound, 0.0) + value
    now = monotonic() if at is None else at
    return Reading(now, sums[_TOKENS], sums[_RUNNING], sums[_WAITING], cache, first)


def quantile(buckets: Mapping[float, float], share: float) -> float | None:
    """Seconds below which `share` of the observations lie; None without any. The highest bound is
    the unbounded one.
    """
    *bounds, above = sorted(buckets) or [math.inf]
    counts = [buckets.get(bound, 0.0) for bound in (*bounds, above)]
    found = histogram_quantile(share, bounds, counts) if bounds else math.nan
    return None if math.isnan(found) else found


def line(before: Reading, now: Reading) -> str:
    """What happened between two readings. A counter that fell belongs to replicas that are new."""
    seconds = max(now.at - before.at, 1e-9)
    rate = max(now.tokens - before.tokens, 0.0) / seconds
    first = {bound: n - before.first.get(bound, 0.0) for bound, n in now.first.items()}
    if any(value < 0 for value in first.values()):
        first = dict(now.first)
    return (
        f"{rate:,.1f} tok/s · TTFT p50 {_milliseconds(quantile(first, 0.5))} "
        f"p95 {_milliseconds(quantile(first, 0.95))} · KV {100 * now.cache:.0f} % · "
        f"{now.running:.0f} running, {now.waiting:.0f} waiting"
    )


def _milliseconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{1000 * seconds:,.0f} ms"
