"""Quantiles of histograms, as Prometheus's `histogram_quantile` computes them.

Called by baselines that act on latencies, and by the live line of `halftone serve`. Pure.
"""

import math
from collections.abc import Sequence


def histogram_quantile(share: float, bounds: Sequence[float], counts: Sequence[float]) -> float:
    """The value below which `share` (0 to 1) of the observations lie; NaN without observations.

    `bounds` are the buckets' upper ends, `counts` how many observations lie at or below each, and
    one more for the unbounded bucket. Within a bucket observations are taken to be spread evenly;
    in the unbounded one the highest bound is all that is known.

    Raises ValueError where there is not one count more than there are bounds.
    """
    if len(counts) != len(bounds) + 1:
        raise ValueError("a histogram has a count for each bound, and one for what is above")
    total = counts[-1]
    if not total > 0:
        return math.nan
    rank = share * total
    place = next(index for index, count in enumerate(counts) if count >= rank)
    if place == len(bounds):
        return bounds[-1]
    lower, below = (bounds[place - 1], counts[place - 1]) if place else (0.0, 0.0)
    inside = counts[place] - below
    if not inside > 0:  # a share of 0, and an empty first bucket
        return lower
    return lower + (bounds[place] - lower) * (rank - below) / inside
