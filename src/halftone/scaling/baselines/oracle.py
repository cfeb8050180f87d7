"""The limit: counts of one who knows every request before it comes.

Called by `policies`. It is no way to scale; it shows what no way to scale can do better by much.

Time is cut into bins of a minute. For each bin and each count it is known how many requests would
wait too long, and from that the cheapest course of counts is found by dynamic programming: a
replica is paid for in every bin, and before its first one for the time that it takes to start. So a
dip that is shorter than that is no saving, and a burst is met only where it is worth it.
"""

import math
from typing import Final

import numpy as np

from halftone.scaling.capacity import Capacity
from halftone.scaling.loads.load import Floats, Integers, Load
from halftone.scaling.loads.peaks import works
from halftone.scaling.reading import Reading
from halftone.scaling.replay import Objective

BIN_S: Final = 60
# Of all requests so many may wait too long; each would cost more than all the others.
LATE_SHARE: Final = 0.005
# Of the time that an objective leaves for waiting so much can be used: requests are not spread as
# evenly over replicas as in the sums below. With this the plant is late about as often.
_WAITING_SHARE: Final = 0.75
# Leads vary; nine of ten are over after the mean and this many standard deviations.
P90_DEVIATIONS: Final = 1.28
# The price of a late request, in minutes of a replica: from nothing to more than any load pays.
_PRICES: Final = (1e-4, 1e4)
_HALVINGS: Final = 24


class Oracle:
    """`needs` replicas are ready in each `BIN_S` seconds; they are asked for `ahead_s` before."""

    interval_s = 15.0

    def __init__(self, needs: Integers, ahead_s: float) -> None:
        self.needs = needs
        self.ahead_s = ahead_s

    def __call__(self, reading: Reading) -> int:
        first = max(0, int(reading.time_s // BIN_S))
        last = max(0, int((reading.time_s + self.interval_s + self.ahead_s) // BIN_S))
        window = self.needs[first : last + 1]
        return int(window.max()) if len(window) else 1


def cheapest(late: Floats, ahead_s: float, start: int, allowed: float) -> Integers:
    """The counts, one a bin, that cost least while at most `allowed` requests are late.

    `late[bin, n]` are requests of the bin that are late with n + 1 replicas, and the first column
    of those with none is not there. `start` replicas are there at first, and no further one before
    `ahead_s`; what is late for that reason is beside `allowed`. Starting costs `ahead_s` each.
    """
    most = late.shape[1]
    counts = np.arange(1, most + 1, dtype=np.int64)
    raised = np.maximum(counts[:, None] - counts[None, :], 0)
    starting = raised * (ahead_s / BIN_S)
    none_yet = math.ceil(ahead_s / BIN_S)
    first = np.where(counts <= start, 0.0, np.inf)

    def course(price: float) -> Integers:
        costs, came = first, []
        for place, row in enumerate(late):
            steps = np.where(raised > 0, np.inf, 0.0) if place < none_yet else starting
            reached = costs[None, :] + steps
            best = reached.argmin(axis=1)
            came.append(best)
            costs = reached[counts - 1, best] + counts + price * row
        chosen = [int(costs.argmin())]
        for best in reversed(came[1:]):
            chosen.append(int(best[chosen[-1]]))
        return counts[chosen[::-1]]

    def missed(needed: Integers) -> float:
        return float(late[np.arange(len(late)), needed - 1].sum())

    low, high = _PRICES
    bearable = missed(course(high)) + allowed
    for _ in range(_HALVINGS):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if missed(course(middle)) <= bearable else (middle, high)
    return course(high)


def late_requests(load: Load, capacity: Capacity, objective: Objective, most: int) -> Floats:
    """Requests that would wait too long: a row a bin, a column for each of 1 to `most` replicas.

    Prompts wait in one queue for what decoding leaves of the replicas' time, second by second.
    Blocks need no sum of their own: the fewer requests fit, the more of each step one has to pay.
    """
    if not len(load):
        return np.zeros((1, most))
    decoding = _decoding(load, capacity)
    length = len(decoding)
    arrived = load.arrival_s.astype(np.int64)
    prefill = np.bincount(arrived, _prefill_s(load, capacity), minlength=length)
    requests = np.bincount(arrived, minlength=length).astype(np.float64)
    counts = np.arange(1, most + 1, dtype=np.float64)
    allowed_s = _WAITING_SHARE * objective.ttft_s
    late = np.zeros((length // BIN_S, most))
    queues = np.zeros(most)
    for second in range(length):
        free = np.maximum(counts - decoding[second], 0.0)
        queues = np.maximum(queues + prefill[second] - free, 0.0)
        late[second // BIN_S] += requests[second] * (queues > free * allowed_s)
        if second % BIN_S == BIN_S - 1:  # with so few it would not have come to this
            queues = np.minimum(queues, free * allowed_s)
    return late


def _prefill_s(load: Load, capacity: Capacity) -> Floats:
    seconds: Floats = (load.prompt - load.cached) / capacity.prefill_tokens_per_second
    return seconds


def _decoding(load: Load, capacity: Capacity) -> Floats:
    """Replica-seconds per second that decoding takes, for whole bins until the last answer.

    An answer's work is spread over the time that it takes at a usual step.
    """
    lasts = load.output * _usual_step_s(load, capacity)
    first = load.arrival_s.astype(np.int64)
    last = np.maximum(first + 1, (load.arrival_s + lasts).astype(np.int64))
    length = math.ceil((int(last.max()) + 1) / BIN_S) * BIN_S
    each = (works(load, capacity) - _prefill_s(load, capacity)) / (last - first)
    change = np.bincount(first, each, length + 1) - np.bincount(last, each, length + 1)
    return np.cumsum(change)[:length]


def _usual_step_s(load: Load, capacity: Capacity) -> float:
    """A step of a replica that is half full with requests of the mean lengths."""
    prompt, output = float(load.prompt.mean()), float(load.output.mean())
    running = capacity.sequences(prompt, output) / 2
    tokens = running * (prompt + output / 2)
    return (
        capacity.step_base_s
        + capacity.seconds_per_kv_token * tokens
        + capacity.seconds_per_sequence * running
    )
