"""llm-d's law on latencies over their objectives: the best published result on a ramp.

Called by `policies`. The rule and its constants are those of llm-d's guide to autoscaling on
objectives (KEDA and predicted latency). It reads latencies that a router predicts, or else those
that were measured; these here are measured, from vLLM's own histograms.
"""

import math
from typing import Final

from halftone.scaling.baselines.horizontal import (
    SYNC_S,
    Behaviour,
    Horizontal,
    Limit,
    replicas_for_total,
)
from halftone.scaling.baselines.quantiles import histogram_quantile
from halftone.scaling.baselines.scrapes import Histogram, Scrapes
from halftone.scaling.reading import ITL_BOUNDS, TTFT_BOUNDS, Reading

QUANTILE: Final = 0.9
RATE_WINDOW_S: Final = 60.0
CLAMP: Final = 2.0
# Share of the newest value in the moving average.
NEWEST: Final = 0.6
SCALE_OUT: Final = 0.55
SCALE_IN: Final = 0.40
BEHAVIOUR: Final = Behaviour(
    up=Limit(100, 4, 60), down=Limit(0, 1, 120), up_window_s=30, down_window_s=180
)


class LatencyRatio:
    """P90 of TTFT over `ttft_s` or P90 of ITL over `itl_s`, whichever is worse, held in a band.

    Objectives are in seconds. `ratio` is the smoothed one; without traffic it falls to 0.
    """

    interval_s = SYNC_S

    def __init__(self, ttft_s: float, itl_s: float) -> None:
        self.ttft_s = ttft_s
        self.itl_s = itl_s
        self.ratio: float | None = None
        self._scrapes = Scrapes(RATE_WINDOW_S)
        self._horizontal = Horizontal(BEHAVIOUR)

    def __call__(self, reading: Reading) -> int:
        self._scrapes.add(reading)
        newest = min(self._measured(), CLAMP)
        before = newest if self.ratio is None else self.ratio
        self.ratio = NEWEST * newest + (1 - NEWEST) * before
        current = reading.ready + reading.starting
        asked = desired(self.ratio, current, reading.ready)
        # The formula's answer is a metric whose target is 1, so the tolerance holds for it too.
        return self._horizontal.scale(
            reading.time_s, current, replicas_for_total(asked, current, 1.0)
        )

    def _measured(self) -> float:
        ttft = self._p90(lambda each: each.ttft, TTFT_BOUNDS) / self.ttft_s
        itl = self._p90(lambda each: each.itl, ITL_BOUNDS) / self.itl_s
        return max(ttft, itl)

    def _p90(self, histogram: Histogram, bounds: tuple[float, ...]) -> float:
        counts = self._scrapes.increases(histogram)
        quantile = histogram_quantile(QUANTILE, bounds, counts) if counts else math.nan
        return 0.0 if math.isnan(quantile) else quantile


def desired(ratio: float, replicas: int, ready: int) -> int:
    """What the law asks for where `ready` of `replicas` are ready and the ratio is `ratio`.

    Replicas that start are credited when more are wanted, not when fewer are.
    """
    credited = ratio * ready / replicas if 0 < ready < replicas else ratio
    if credited > SCALE_OUT:
        return replicas + math.ceil(replicas * (credited / SCALE_OUT - 1))
    if ratio < SCALE_IN:
        return replicas - math.floor(replicas * (1 - ratio / SCALE_IN))
    return replicas
