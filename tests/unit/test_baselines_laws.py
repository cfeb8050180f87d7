"""Laws that others published for replicas of vLLM, each against a table from its formula.

We test these aspects: llm-d's latency ratio (the band, the credit for replicas that start, clamp,
average, counters that begin anew, speed limits); its autoscaler of version 1; Ray's ongoing
requests with delays, and the number that a load test would give.
"""

from itertools import pairwise

import pytest

from halftone.scaling.baselines.latency_ratio import LatencyRatio, desired
from halftone.scaling.baselines.ongoing import OngoingRequests, load_tested_target
from halftone.scaling.baselines.spare_capacity import SpareCapacity, step
from halftone.scaling.capacity import CacheGroup, Capacity
from tests.scaling_readings import alike, latencies, reading, replica


@pytest.mark.parametrize(
    ("ratio", "replicas", "ready", "expected"),
    [
        (0.55, 4, 4, 4),
        (0.56, 4, 4, 5),  # 4 + ceil(4 · 0.018)
        (0.825, 4, 4, 6),  # 4 + ceil(4 · 0.5)
        (2.0, 3, 3, 11),  # 3 + ceil(3 · 2.636)
        (1.1, 6, 3, 6),  # half are ready: 0.55 is in the band
        (1.6, 6, 3, 9),  # 6 + ceil(6 · 0.4545)
        (0.6, 8, 4, 8),  # above the band as measured, below it when credited: nothing
        (1.0, 4, 0, 8),  # none ready: no credit
        (0.40, 4, 4, 4),
        (0.39, 4, 4, 4),  # 4 - floor(4 · 0.025)
        (0.30, 4, 4, 3),
        (0.10, 8, 8, 2),
        (0.0, 8, 8, 0),
        (0.39, 40, 40, 39),
        (0.0, 8, 4, 0),  # fewer are wanted by what was measured, without credit
    ],
)
def test_the_latency_ratio_is_held_in_its_band(
    ratio: float, replicas: int, ready: int, expected: int
) -> None:
    assert desired(ratio, replicas, ready) == expected


def measured(policy: LatencyRatio, time_s: float, ttft: list[float], itl: list[float]) -> int:
    """What `policy` wants of two replicas that have measured these since they began."""
    rows = [replica(name, time_s, **latencies(ttft, itl)) for name in "ab"]
    return policy(reading(time_s, rows))


def test_the_worse_of_both_latencies_counts_and_is_clamped() -> None:
    policy = LatencyRatio(ttft_s=3.0, itl_s=0.1)
    measured(policy, 0, [], [])
    assert policy.ratio == 0.0
    # P90 of TTFT in (1, 2.5]: 1 + 0.9 · 1.5. It is 0.783 of 3 s, ITL's is above twice 0.1 s.
    measured(policy, 15, [2.0] * 10, [])
    assert policy.ratio == pytest.approx(0.6 * 2.35 / 3)
    measured(policy, 30, [2.0] * 10, [0.6] * 10)
    assert policy.ratio == pytest.approx(0.6 * 2.0 + 0.4 * 0.6 * 2.35 / 3)


def test_without_traffic_the_ratio_falls_and_replicas_go_one_in_two_minutes() -> None:
    policy = LatencyRatio(ttft_s=3.0, itl_s=0.1)
    count, seen = 6, []
    for turn in range(40):
        count = policy(alike(15.0 * turn, count, ttft=latencies([2.0])["ttft"]))
        seen.append(count)
    assert seen[0] == 6
    # The window of 180 s holds the first count for as long; then one goes every 120 s.
    assert [seen.index(count) * 15 for count in (5, 4, 3, 2)] == [180, 300, 420, 540]
    assert {a - b for a, b in pairwise(seen)} == {0, 1}


def test_scale_out_waits_half_a_minute_and_at_most_doubles_or_adds_four() -> None:
    policy = LatencyRatio(ttft_s=3.0, itl_s=0.1)
    count, seen = 2, []
    for turn in range(7):
        rows = [replica(x, 15.0 * turn, **latencies([20.0] * 10 * turn)) for x in "ab"]
        count = policy(reading(15.0 * turn, rows, starting=count - 2))
        seen.append(count)
    # 1.2 asks for 5 and counts once its window is over; then four more in a minute are the most;
    # then 2 of 6 are ready, which makes 0.67 of 2 and asks for 8.
    assert seen == [2, 2, 5, 6, 6, 6, 8]


def test_counters_that_begin_anew_are_no_traffic_backwards() -> None:
    policy = LatencyRatio(ttft_s=3.0, itl_s=0.1)
    measured(policy, 0, [2.0] * 50, [])
    measured(policy, 15, [2.0] * 10, [])  # all ten came after the start
    assert policy.ratio == pytest.approx(0.6 * 2.35 / 3)


@pytest.mark.parametrize(
    ("kv", "queues", "expected"),
    [
        ([0.5, 0.5], [0, 0], 0),  # one alone would have 1.0
        ([0.3, 0.3], [0, 0], -1),  # one alone has 0.6: 0.2 to spare
        ([0.35, 0.35], [0, 0], -1),  # 0.7: exactly 0.10 to spare
        ([0.36, 0.35], [0, 0], 0),
        ([0.1, 0.1], [1, 1], -1),  # a queue of 2: exactly 3 to spare
        ([0.1, 0.1], [2, 1], 0),
        ([0.71, 0.71], [0, 0], 1),  # 0.09 to spare
        ([0.1, 0.1], [2.5, 2.5], 1),  # a queue of 2.5 to spare
        ([0.79, 0.1], [0, 0], 0),  # 0.355 to spare on average
        ([0.85, 0.1], [0, 0], 0),  # the full one does not count, and one remains
        ([0.1, 0.1, 0.1], [9, 0, 0], -1),
        ([0.85, 0.9], [0, 0], 1),
        ([0.1, 0.1], [5, 7], 1),
        ([0.1], [0], 0),
    ],
)
def test_one_replica_more_or_fewer_by_spare_capacity(
    kv: list[float], queues: list[float], expected: int
) -> None:
    assert step(kv, queues) == expected


def test_wva_looks_once_a_minute_at_the_peaks_of_that_minute() -> None:
    policy = SpareCapacity()
    queues = [0.0, 0.0, 9.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    counts = [policy(alike(15.0 * turn, 3, waiting=q)) for turn, q in enumerate(queues)]
    assert counts == [3, 3, 3, 3, 4, 3, 3, 3, 2]


def test_wva_waits_for_what_starts() -> None:
    def after_a_minute(starting: int, kv: float) -> int:
        policy = SpareCapacity()
        policy(alike(0, 3, starting=starting))
        return policy(alike(60, 3, starting=starting, kv_usage=kv))

    assert after_a_minute(0, 0.9) == 4
    assert after_a_minute(1, 0.9) == 4
    assert after_a_minute(3, 0.9) == 6
    assert after_a_minute(0, 0.1) == 2
    assert after_a_minute(1, 0.1) == 4


def ongoing(*rows: tuple[float, float], start: int = 4) -> list[int]:
    """What Ray's rule with a target of 10 wants, of (second, requests); all replicas are ready."""
    policy, counts = OngoingRequests(10), [start]
    for time_s, requests in rows:
        now = alike(time_s, counts[-1], running=requests / counts[-1])
        counts.append(policy(now))
    return counts[1:]


def test_ray_adds_after_thirty_seconds_of_wanting_more() -> None:
    rows = [(t, 71.0) for t in (0, 10, 20, 30, 40, 50)]
    assert ongoing(*rows) == [4, 4, 4, 8, 8, 8]


def test_ray_forgets_a_wish_that_does_not_last() -> None:
    rows = [(0, 60.0), (10, 60.0), (20, 0.0), (30, 0.0), (40, 60.0), (50, 60.0), (60, 60.0)]
    assert ongoing(*rows, start=4) == [4] * 7


def test_ray_takes_away_after_ten_minutes() -> None:
    rows = [(10.0 * turn, 11.0) for turn in range(63)]
    counts = ongoing(*rows)
    assert counts[:60] == [4] * 60
    assert counts[60:] == [2, 2, 2]


def test_ray_counts_what_waits_everywhere() -> None:
    policy = OngoingRequests(10)
    rows = [replica("a", running=15, waiting=5)]
    for time_s in (0, 10, 20, 30):
        count = policy(reading(time_s, rows, held=21))
    assert count == 5


def test_the_target_of_a_load_test_is_where_a_replica_does_four_fifths_of_its_most() -> None:
    capacity = Capacity(8000, 0.02, 1e-7, 2e-4, 100_000, (CacheGroup(16),), 512, 64)
    target = load_tested_target(capacity, 1000, 200)
    assert 1 < target < 64
    # Work of a request when so many share each step, against the least that it can be.
    work = capacity.work_s(1000, 200)
    shared = work - 0.02 * 200 / 64 + 0.02 * 200 / target
    assert work / shared == pytest.approx(0.8)


def test_the_target_is_one_request_at_least() -> None:
    slow = Capacity(8000, 1e-6, 1e-3, 0.0, 100_000, (CacheGroup(16),), 512, 64)
    assert load_tested_target(slow, 1000, 200) == 1.0
