"""How much work a load is, and how many replicas its peak needs.

Called by `halftone replay`, which scales a load so that its peak needs a given number, and by
baselines that know the load. It knows no policy.
"""

import math
from typing import Final

import numpy as np

from halftone.scaling.capacity import Capacity
from halftone.scaling.loads.load import Floats, Load

# The peak is the minute with the most work: what comes faster is what queues are for, and what is
# spread over more is a level, which a burst in it does not change.
_PEAK_S: Final = 60.0
# What a replica's time may be taken to before requests wait too long; more than the law itself
# allows.
BUSY: Final = 0.9
# A peak that is a quarter of a replica above a whole number is within what BUSY leaves free.
_ROUNDING: Final = 0.25


def works(load: Load, capacity: Capacity) -> Floats:
    """Replica-seconds of each request, as `Capacity.work_s` says; a warm cache is counted in."""
    rows = np.stack([load.prompt, load.output, load.prompt - load.cached], axis=1)
    kinds, which = np.unique(rows, axis=0, return_inverse=True)
    worth = [capacity.work_s(prompt, output, fresh) for prompt, output, fresh in kinds.tolist()]
    return np.asarray(worth, np.float64)[which.reshape(-1)]


def peak_level(load: Load, capacity: Capacity) -> float:
    """Replica-seconds of work that arrive per second in the minute that has the most.

    Of a load that is shorter, the mean; 0 of an empty one.
    """
    if not len(load):
        return 0.0
    minute = (load.arrival_s // _PEAK_S).astype(np.int64)
    sums = np.bincount(minute, weights=works(load, capacity))
    return float(sums.max() / min(_PEAK_S, max(load.duration_s, 1.0)))


def peak_need(load: Load, capacity: Capacity) -> int:
    """Replicas that the peak needs when each may be busy for `BUSY` of its time; at least 1."""
    return max(1, math.ceil(peak_level(load, capacity) / BUSY - _ROUNDING))


def peak_factor(load: Load, capacity: Capacity, replicas: int = 8) -> float:
    """What to scale the load's rate by, so that its peak needs `replicas`.

    Raises ValueError for a load without requests.
    """
    level = peak_level(load, capacity)
    if not level:
        raise ValueError("an empty load has no peak")
    return replicas * BUSY / level
