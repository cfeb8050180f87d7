"""What a run comes to, in the figures that the table, the JSON and benchmarks all have.

    [figures(outcome) for outcome in outcomes]

Called by `halftone replay` and by benchmarks.
"""

from typing import Any, Final

import numpy as np

from halftone.scaling.loads.load import Floats
from halftone.scaling.replay import Outcome

HOUR_S: Final = 3600.0
_PERCENTILES: Final = {"p50": 50, "p90": 90, "p99": 99}


def figures(outcome: Outcome) -> dict[str, Any]:
    """A row of `halftone replay --json`: shares of 1, hours, seconds, counts.

    Percentiles are over requests that have the figure, so not over dropped ones; None without any.
    """
    return {
        "policy": outcome.policy,
        "attainment": outcome.attainment,
        "replicaHours": outcome.replica_seconds / HOUR_S,
        "meanReplicas": outcome.mean_replicas,
        "ttft": percentiles(outcome.ttft_s),
        "itl": percentiles(outcome.itl_s),
        "scaleEvents": outcome.scale_events,
        "preemptions": outcome.preemptions,
        "dropped": outcome.dropped,
    }


def percentiles(seconds: Floats) -> dict[str, float | None]:
    """p50, p90 and p99 of those that are no NaN, in seconds."""
    there = seconds[~np.isnan(seconds)]
    if not len(there):
        return dict.fromkeys(_PERCENTILES)
    found = np.percentile(there, list(_PERCENTILES.values()))
    return dict(zip(_PERCENTILES, found.tolist(), strict=True))
