"""Outcomes of replays that never ran, for tests of what is made of them.

Called by unit tests of the table and of the plot.
"""

from typing import Any

import numpy as np

from halftone.scaling.replay import Outcome, Timeline


def outcome(policy: str, **fields: Any) -> Outcome:
    """Four requests, one of them dropped, over five minutes on two replicas; changed."""
    times = np.arange(0.0, 300.0, 15.0)
    steady = np.full(len(times), 2.0)
    return Outcome(
        **{
            "policy": policy,
            "attainment": 0.75,
            "replica_seconds": 600.0,
            "mean_replicas": 2.0,
            "ttft_s": np.array([0.1, 0.2, 0.3, np.nan]),
            "itl_s": np.array([0.02, 0.03, 0.04, np.nan]),
            "scale_events": 3,
            "preemptions": 4,
            "dropped": 1,
            "timeline": Timeline(
                times, steady, steady, steady, 0 * steady, 0.25 * steady, 100 * steady
            ),
            **fields,
        }
    )
