"""What each term of the law asks for, in replicas, from what arrived, what waits and what is held.

Called by `policy`. Pure; standard library only. `docs/scaling.md` has the formulas.
"""

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from halftone.scaling.capacity import USABLE, Capacity
from halftone.scaling.demand import Demand, Row
from halftone.scaling.reading import Reading

# The level looks back so far, ...
_TREND_S: Final = 300.0
# ... and its shorter mean so far: long enough for noise, short enough for a step.
_MINUTE_S: Final = 60.0
# A slope is trusted so far ahead, and for so much growth.
_AHEAD_S: Final = 300.0
_MOST_GROWTH: Final = 1.15
# A jump is believed as far as it exceeds the noise of so many standard errors.
_SURE: Final = 2.0
# The reserve replays so much of the past.
_REPLAYED_S: Final = 1800.0
# A mean this much above all before it is a climb, and counts as one so long; but not so soon after
# the beginning, for all load begins with a rise from nothing.
_CLIMB: Final = 1.15
_CLIMBING_S: Final = 600.0
_BEGUN_S: Final = 300.0
# A rise that comes again may lead this share above the most that was seen: after the first climb,
# and after a later one, for a climb of equal steps is a smaller share of what it has reached. That
# one goes on for a whole lead, so for longer leads than the trend's reach it is as much more.
_ABOVE_ONCE: Final = 0.5
_ABOVE: Final = 0.25
# Load is bursty when neighbouring intervals differ more than Poisson arrivals would, ...
_DISPERSION: Final = 3.0
# ... by this share of the mean at least.
_BURST_SHARE: Final = 0.35
_LEAST_ROWS: Final = 12
# Fewer rows than these have no slope.
_LEAST_TREND: Final = 4
# Of the differences so many may be steps.
_STEPS_SHARE: Final = 0.1
# A step explains the past better than a line when it leaves less than this share of the error.
_STEP_ERROR: Final = 0.7
# A memory term is not to ask for more than this above what the arriving work needs.
_MEMORY_MARGIN: Final = 1.15
# What is left of a queue when new replicas come keeps no replica if it is less than this each.
_CLEAR_S: Final = 45.0
# While a queue grows what arrives is underestimated, for long answers have not ended yet; and one
# replica too few is asked for a whole lead time later.
_HURRY: Final = 0.75


@dataclass(frozen=True, slots=True)
class Level:
    """Arriving work in replicas kept busy (replica-seconds per second), and where it goes."""

    now: float
    slope: float  # per second
    forecast: float


def recent(rows: Sequence[Row], seconds: float) -> Sequence[Row]:
    """Those of the last `seconds`."""
    if not rows:
        return ()
    since = rows[-1].time_s - seconds
    return [row for row in rows if row.time_s > since]


def level(rows: Sequence[Row], lead_s: float, age_s: float, bursty: bool) -> Level:
    """The trend's end and its forecast.

    On load that is not bursty a jump counts at once, as far as it is surely more than noise; the
    minute's mean counts whole on load that is.
    """
    if not rows:
        return Level(0.0, 0.0, 0.0)
    past = recent(rows, _TREND_S)
    now, slope = _trend(past)
    if bursty:
        now = max(now, _mean(recent(rows, _MINUTE_S)))
    else:
        now = max([now, *(_surely(past[-count:]) for count in (1, 2, 4))])
    ahead = min(lead_s, _AHEAD_S) + age_s
    forecast = min(_MOST_GROWTH * now, now + max(0.0, slope) * ahead)
    return Level(now, slope, forecast)


def is_bursty(rows: Sequence[Row]) -> bool:
    """Whether neighbouring intervals differ by more than chance and a trend explain.

    The largest differences are left out, so that a few steps make no load bursty.
    """
    past = recent(rows, _REPLAYED_S)
    if len(past) < _LEAST_ROWS:
        return False
    rates = [row.arrivals / row.seconds for row in past]
    mean = sum(rates) / len(rates)
    if not mean:
        return False
    squares = sorted((after - before) ** 2 for before, after in pairwise(rates))
    usual = squares[: len(squares) - math.ceil(_STEPS_SHARE * len(squares))]
    spread = sum(usual) / len(usual) / 2
    seconds = sum(row.seconds for row in past) / len(past)
    return spread * seconds / mean > _DISPERSION and math.sqrt(spread) / mean > _BURST_SHARE


def rise(rows: Sequence[Row], lead_s: float, now: float, kept_s: float) -> float:
    """The level that would follow if load rose again as it did of late within a lead time.

    The largest rise of the minute's mean within a lead and a minute, of those that ended in the
    last `kept_s`, less what chance may have added, on top of `now`. It leads no higher than the
    largest mean of that time, unless that was reached just now: a climb often goes on.
    """
    means = _minute_means(rows)
    if not means:
        return now
    span, since_s = lead_s + _MINUTE_S, means[-1][0] - kept_s
    lowest: deque[tuple[float, float]] = deque()
    most = highest = 0.0
    for time_s, mean, noise in means:
        while lowest and lowest[0][0] < time_s - span:
            lowest.popleft()
        sure = mean - noise
        if time_s > since_s:
            most = max(most, sure - lowest[0][1]) if lowest else most
            highest = max(highest, sure)
        while lowest and lowest[-1][1] >= mean:
            lowest.pop()
        lowest.append((time_s, mean))
    return min(now + most, max((1 + _above(means, lead_s)) * highest, now))


def _above(means: Sequence[tuple[float, float, float]], lead_s: float) -> float:
    """How far above what was seen a climb leads that is on now; 0 where there is none.

    One climb may be a step. Several are a slope, which goes on for a whole lead.
    """
    climbs = 0
    climbed_s = before_s = -math.inf
    for (time_s, mean, noise), known in zip(means, _highest_before(means), strict=True):
        if 0 < _CLIMB * known < mean - noise and time_s - means[0][0] > _BEGUN_S:
            # Rows may be far apart, so the one before must have been far from the climb too.
            climbs += before_s - climbed_s > _MINUTE_S
            climbed_s = time_s
        before_s = time_s
    if means[-1][0] - climbed_s >= _CLIMBING_S:
        return 0.0
    return _ABOVE * max(1.0, lead_s / _AHEAD_S) if climbs > 1 else _ABOVE_ONCE


def _highest_before(means: Sequence[tuple[float, float, float]]) -> list[float]:
    """For each, the highest of those that were over two minutes before."""
    found = []
    highest, at = 0.0, 0
    for time_s, _, _ in means:
        while means[at][0] < time_s - 2 * _MINUTE_S:
            highest = max(highest, means[at][1] - means[at][2])
            at += 1
        found.append(highest)
    return found


def _minute_means(rows: Sequence[Row]) -> list[tuple[float, float, float]]:
    """(time, mean over the minute before, its standard error) at each row of a whole minute."""
    found = []
    work = seconds = arrivals = 0.0
    first = 0
    for row in rows:
        work, seconds, arrivals = work + row.work_s, seconds + row.seconds, arrivals + row.arrivals
        while seconds - rows[first].seconds >= _MINUTE_S - 1:
            gone = rows[first]
            work, seconds = work - gone.work_s, seconds - gone.seconds
            arrivals, first = arrivals - gone.arrivals, first + 1
        if seconds >= _MINUTE_S - 1:
            mean = work / seconds
            found.append((row.time_s, mean, mean * math.sqrt(2 / max(arrivals, 1.0))))
    return found


def memory(reading: Reading, demand: Demand, capacity: Capacity, rate: float) -> float:
    """Replicas whose KV blocks hold what is in use and what the queue will need.

    The queue's part is bounded by what the arriving work needs: a queue is worked off, it does not
    stay. What is in use counts whole, however little arrives.
    """
    room = USABLE * capacity.kv_blocks
    used = sum(each.kv_usage for each in reading.replicas) * capacity.kv_blocks / room
    lengths = demand.lengths
    each = capacity.blocks(lengths.prompt + lengths.output / 2)
    waiting = sum(each.waiting for each in reading.replicas) + reading.held
    return max(used, min(used + waiting * each / room, _MEMORY_MARGIN * rate))


def backlog(
    reading: Reading, now: Level, work_s: float, lead_s: float, ttft_s: float, theta: float
) -> float:
    """Replicas for what arrives, and in place of those that will still work off a real queue.

    Ready replicas take from the queue until new ones can be ready, starting ones for half of that
    time on average. What is left then keeps the ready ones from what arrives.
    """
    waiting = sum(each.waiting for each in reading.replicas) + reading.held
    queued_s = waiting * work_s
    if queued_s <= ttft_s * max(1, reading.ready) or waiting < max(1, reading.ready):
        return 0.0
    left_s = queued_s + lead_s * (now.now - reading.ready - reading.starting / 2)
    if left_s <= 0:
        return 0.0
    return now.now / (_HURRY * theta) + min(reading.ready, left_s / _CLEAR_S)


def reserve(rows: Sequence[Row], ttft_s: float, missed_share: float, most: int) -> float:
    """The fewest replicas that would have kept the last half hour within the objective.

    A fluid replay: work arrives in a row's time, `count` replicas take from it, and what waits
    longer than `ttft_s` has missed. At most `missed_share` of the work may. 0 without any work.
    """
    past = recent(rows, _REPLAYED_S)
    total = sum(row.work_s for row in past)
    if not total:
        return 0.0
    low, high = 0, most
    while low < high:
        count = (low + high) // 2
        if count and _missed(past, count, ttft_s) <= missed_share * total:
            high = count
        else:
            low = count + 1
    return float(low)


def _missed(rows: Sequence[Row], count: int, ttft_s: float) -> float:
    """Work that had to wait longer than `ttft_s` behind other work, replica-seconds."""
    queued = missed = 0.0
    bound = ttft_s * count * USABLE
    for row in rows:
        before = queued
        queued = max(0.0, queued + row.work_s - count * USABLE * row.seconds)
        over = _share_above(before, queued, bound)
        missed += over * row.work_s
    return missed


def _share_above(before: float, after: float, bound: float) -> float:
    """Of a straight way from `before` to `after`, the share above `bound`."""
    low, high = min(before, after), max(before, after)
    if high <= bound:
        return 0.0
    if low >= bound:
        return 1.0
    return (high - bound) / (high - low)


def _mean(rows: Sequence[Row]) -> float:
    seconds = sum(row.seconds for row in rows)
    return sum(row.work_s for row in rows) / seconds if seconds else 0.0


def _surely(rows: Sequence[Row]) -> float:
    """The mean, less what chance may have added: arrivals are counted, so theirs is known."""
    arrivals = sum(row.arrivals for row in rows)
    if not arrivals:
        return 0.0
    return _mean(rows) * max(0.0, 1 - _SURE / math.sqrt(arrivals))


def _trend(rows: Sequence[Row]) -> tuple[float, float]:
    """End and slope of what fits the rates best: a straight line, or a step and then no slope.

    Least squares, weighted by time. A line through a step would see a climb that does not go on.
    """
    weight = sum(row.seconds for row in rows)
    mean = _mean(rows)
    if len(rows) < _LEAST_TREND or not weight:
        return mean, 0.0
    rates = [row.work_s / row.seconds for row in rows]
    middles = [row.time_s - row.seconds / 2 for row in rows]
    weights = [row.seconds for row in rows]
    centre = sum(m * w for m, w in zip(middles, weights, strict=True)) / weight
    spread = sum((m - centre) ** 2 * w for m, w in zip(middles, weights, strict=True))
    slope = 0.0
    if spread:
        product = zip(middles, rates, weights, strict=True)
        slope = sum((m - centre) * rate * w for m, rate, w in product) / spread
    squares = sum((rate - mean) ** 2 * w for rate, w in zip(rates, weights, strict=True))
    line_error = squares - slope**2 * spread
    if slope**2 * spread * (len(rows) - 2) < _SURE**2 * line_error:
        slope, line_error = 0.0, squares  # a slope that chance explains is none
    step_error, after = _step(rates, weights, mean, squares)
    if step_error < _STEP_ERROR * line_error:
        return after, 0.0
    return max(0.0, mean + slope * (rows[-1].time_s - centre)), slope


def _step(
    rates: Sequence[float], weights: Sequence[float], mean: float, squares: float
) -> tuple[float, float]:
    """What the best single step leaves of `squares`, and the mean after it."""
    total, weight = sum(r * w for r, w in zip(rates, weights, strict=True)), sum(weights)
    best, after = squares, mean
    left_sum = left = 0.0
    for rate, length in zip(rates[:-1], weights[:-1], strict=True):
        left_sum, left = left_sum + rate * length, left + length
        right = (total - left_sum) / (weight - left)
        explained = left * (left_sum / left - mean) ** 2 + (weight - left) * (right - mean) ** 2
        if squares - explained < best:
            best, after = squares - explained, right
    return best, after
