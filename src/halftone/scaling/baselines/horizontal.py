"""Kubernetes' HorizontalPodAutoscaler, as its documentation describes it; KEDA scales through one.

Called by the baselines that need one. The rules are those of `autoscaling/v2`: a tolerance, pods
that are not ready yet, windows that damp, and limits of how fast.
"""

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

# `--horizontal-pod-autoscaler-sync-period` and `--horizontal-pod-autoscaler-tolerance`.
SYNC_S: Final = 15.0
TOLERANCE: Final = 0.1


def replicas_for_pods(values: Sequence[float], starting: int, target: float) -> int:
    """Replicas for a metric of type `Pods`: `values` of the ready ones, `target` their mean.

    A pod that is not ready counts as one without load where more are wanted, and not at all where
    fewer are. What that turns into its opposite, or into nothing, changes nothing.
    """
    current = len(values) + starting
    if not values:
        return current
    ratio = sum(values) / len(values) / target
    if not (starting and ratio > 1):
        return current if abs(ratio - 1) <= TOLERANCE else math.ceil(ratio * len(values))
    damped = sum(values) / current / target
    if damped <= 1 + TOLERANCE:
        return current
    return max(current, math.ceil(damped * current))


def replicas_for_total(total: float, current: int, target: float) -> int:
    """Replicas for an external metric with an `AverageValue`: ceil(total / target).

    `current` stays where that is within the tolerance.
    """
    if current and abs(total / (target * current) - 1) <= TOLERANCE:
        return current
    return math.ceil(total / target)


@dataclass(frozen=True, slots=True)
class Limit:
    """In `period_s` at most `percent` of the replicas or `count`, whichever is more."""

    percent: float
    count: int
    period_s: float

    def most(self, replicas: int) -> int:
        """How many `replicas` may become more, or fewer."""
        return max(math.ceil(replicas * self.percent / 100), self.count)


@dataclass(frozen=True, slots=True)
class Behaviour:
    """`spec.behavior`; as it stands here it has Kubernetes' defaults."""

    up: Limit = Limit(100, 4, 15)
    down: Limit = Limit(100, 0, 15)
    up_window_s: float = 0.0
    down_window_s: float = 300.0


class Horizontal:
    """Turns what metrics ask for into what is set, with a memory of both."""

    def __init__(self, behaviour: Behaviour = Behaviour()) -> None:
        self.behaviour = behaviour
        self._asked: deque[tuple[float, int]] = deque()
        self._changes: deque[tuple[float, int]] = deque()

    def scale(self, time_s: float, current: int, asked: int) -> int:
        """The count to set at `time_s`, where there are `current`; at least 1."""
        rules = self.behaviour
        damped = self._damp(time_s, current, max(1, asked))
        if damped > current:
            start = current - self._changed(time_s, rules.up.period_s)
            damped = min(damped, max(current, start + rules.up.most(start)))
        elif damped < current:
            start = current - self._changed(time_s, rules.down.period_s)
            damped = max(damped, min(current, start - rules.down.most(start)))
        if damped != current:
            self._changes.append((time_s, damped - current))
        return damped

    def _damp(self, time_s: float, current: int, asked: int) -> int:
        """Up only to the least, and down only to the most, that was asked for in the windows."""
        rules = self.behaviour
        if not self._asked:  # the controller begins with what it finds
            self._asked.append((time_s, current))
        longest = max(rules.up_window_s, rules.down_window_s)
        while self._asked and self._asked[0][0] <= time_s - longest:
            self._asked.popleft()

        def within(window_s: float) -> list[int]:
            return [asked, *(count for when, count in self._asked if when > time_s - window_s)]

        least, most = min(within(rules.up_window_s)), max(within(rules.down_window_s))
        self._asked.append((time_s, asked))
        return min(max(current, least), most)

    def _changed(self, time_s: float, period_s: float) -> int:
        """By how many replicas there are more than `period_s` ago."""
        periods = (self.behaviour.up.period_s, self.behaviour.down.period_s)
        while self._changes and self._changes[0][0] <= time_s - max(periods):
            self._changes.popleft()
        return sum(by for when, by in self._changes if when > time_s - period_s)
