"""Ray Serve's own autoscaling: a number of ongoing requests a replica, and delays.

Called by `policies`. The rule is `replica_queue_length_autoscaling_policy` of Ray 2.60 with the
defaults of its `AutoscalingConfig`. The number is what its documentation says to load-test for.
"""

import math
from collections import deque
from typing import Final

from halftone.scaling.capacity import Capacity
from halftone.scaling.reading import Reading

LOOK_BACK_S: Final = 30.0
UPSCALE_DELAY_S: Final = 30.0
DOWNSCALE_DELAY_S: Final = 600.0
# Of what a replica can do at most: where a load test sees latencies begin to rise.
_TESTED: Final = 0.8
# Replicas push what they have this often.
_PUSHED_S: Final = 10.0


class OngoingRequests:
    """Mean ongoing requests of the last 30 s over `target`, wanted for long enough in a row."""

    interval_s = _PUSHED_S

    def __init__(self, target: float) -> None:
        self.target = target
        self._seen: deque[tuple[float, float]] = deque()
        self._since_s: float | None = None
        self._upwards = False

    def __call__(self, reading: Reading) -> int:
        now, current = reading.time_s, reading.ready + reading.starting
        ongoing = sum(each.running + each.waiting for each in reading.replicas) + reading.held
        self._seen.append((now, ongoing))
        while self._seen[0][0] < now - LOOK_BACK_S:
            self._seen.popleft()
        mean = sum(count for _, count in self._seen) / len(self._seen)
        wanted = max(1, math.ceil(mean / self.target))
        if wanted == current:
            self._since_s = None
            return current
        if self._since_s is None or self._upwards != (wanted > current):
            self._since_s, self._upwards = now, wanted > current
        if now - self._since_s < (UPSCALE_DELAY_S if self._upwards else DOWNSCALE_DELAY_S):
            return current
        self._since_s = None
        return wanted


def load_tested_target(capacity: Capacity, prompt: float, output: float) -> float:
    """Ongoing requests at which a replica does four fifths of what it can; at least 1.

    As a load test would find it: a replica with more requests at a time shares the base of each
    step among more, until it does all it can. Mean lengths are in tokens.
    """
    least = capacity.work_s(prompt, output)
    most = capacity.sequences(prompt, output)
    steps = max(prompt / capacity.token_budget, output / most)
    own = least - capacity.step_base_s * steps
    at_a_time = capacity.step_base_s * output / (least / _TESTED - own)
    return max(1.0, min(most, at_a_time))
