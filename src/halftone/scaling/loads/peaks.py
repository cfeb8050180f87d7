"""How much work a load is, and how many replicas its peak needs.

Called by `halftone replay`, which scales a load so that its peak needs a given number, and by
baselines that know the load. It knows no policy.
"""

import math
from typing import Final

import numpy as np

from halftone.scaling.capacity import Capacity
from halftone.scaling.loads.load import Floats, Load

# The peak is what the load needs: a queue takes up bursts as long as few requests wait in it for
# longer than a usual objective. The busiest minute would be far too few for a load that comes in
# bursts of seconds.
_BIN_S: Final = 1.0
_WAIT_S: Final = 2.0
_LATE_SHARE: Final = 0.01
_LEVELS: Final = 32
# As near as this is near enough.
_CLOSE: Final = 0.005
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
    """The least work per second (replica-seconds) that must be done for all but `_LATE_SHARE` of
    the requests to wait at most `_WAIT_S` behind the work before them.

    One queue for all, second by second. The mean of a load of one second; 0 of an empty one.
    """
    if not len(load):
        return 0.0
    second = (load.arrival_s // _BIN_S).astype(np.int64)
    arrived = np.bincount(second, weights=works(load, capacity)) / _BIN_S
    requests = np.bincount(second).astype(np.float64)
    low, high = float(arrived.mean()), float(arrived.max())
    while high - low > _CLOSE * high:
        levels = np.linspace(low, high, _LEVELS)
        enough = _late(arrived, requests, levels) <= _LATE_SHARE * len(load)
        found = int(np.argmax(enough)) if enough.any() else _LEVELS - 1
        low, high = float(levels[max(found - 1, 0)]), float(levels[found])
        if not found:
            break
    return high


def _late(arrived: Floats, requests: Floats, levels: Floats) -> Floats:
    """Requests that wait longer than `_WAIT_S`, for each of `levels`; float64."""
    queue = np.zeros(len(levels))
    late = np.zeros(len(levels))
    for work, count in zip(arrived.tolist(), requests.tolist(), strict=True):
        if count:
            late += count * (queue > levels * _WAIT_S)
        queue = np.maximum(queue + (work - levels) * _BIN_S, 0.0)
    return late


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
