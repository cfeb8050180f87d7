"""Threshold rules, each against a table from its published formula.

We test these aspects: Kubernetes' rule for pods, with some not ready, and for totals; windows and
limits of speed; the HPA on KV use and waiting requests; KEDA on waiting requests, and on tokens.
"""

from collections.abc import Callable, Sequence

import pytest

from halftone.scaling.baselines.horizontal import (
    Behaviour,
    Horizontal,
    Limit,
    replicas_for_pods,
    replicas_for_total,
)
from halftone.scaling.baselines.thresholds import HpaOnKv, KedaOnTokens, KedaOnWaiting, Static
from halftone.scaling.reading import Reading
from halftone.scaling.replay import Autoscaler
from tests.scaling_readings import alike, reading, replica


@pytest.mark.parametrize(
    ("values", "starting", "expected"),
    [
        ([0.70, 0.70], 0, 2),
        ([0.76, 0.76], 0, 2),  # 1.09 times the target is within the tolerance
        ([0.78, 0.78], 0, 3),  # ceil(2 · 1.114)
        ([1.0, 1.0, 1.0, 1.0], 0, 6),  # ceil(4 · 1.43)
        ([0.35, 0.35, 0.35, 0.35], 0, 2),
        ([0.64, 0.64], 0, 2),
        ([0.0, 0.0], 0, 0),
        ([1.0, 1.0], 2, 4),  # with two that start the mean is 0.5: more would be its opposite
        ([1.0, 1.0, 1.0, 1.0], 1, 6),  # mean 0.8 over 5: ceil(5 · 1.143)
        ([1.0, 1.0, 1.0], 1, 4),  # mean 0.75: within the tolerance
        ([0.2, 0.2], 2, 1),  # fewer are wanted: those that start do not count
        ([], 3, 3),
    ],
)
def test_an_hpa_wants_the_count_at_which_the_mean_is_the_target(
    values: Sequence[float], starting: int, expected: int
) -> None:
    assert replicas_for_pods(values, starting, 0.70) == expected


@pytest.mark.parametrize(
    ("total", "current", "expected"),
    [
        (10, 2, 2),
        (10.9, 2, 2),
        (11.5, 2, 3),
        (26, 2, 6),
        (4, 2, 1),
        (0, 2, 0),
        (9, 2, 2),
        (7, 0, 2),
    ],
)
def test_a_total_is_shared_by_as_many_as_take_the_target(
    total: float, current: int, expected: int
) -> None:
    assert replicas_for_total(total, current, 5) == expected


def scaled(behaviour: Behaviour, *asked: tuple[float, int], start: int) -> list[int]:
    """The counts that come of what is asked for at each second."""
    horizontal, counts = Horizontal(behaviour), [start]
    for time_s, wanted in asked:
        counts.append(horizontal.scale(time_s, counts[-1], wanted))
    return counts[1:]


def test_scale_in_waits_for_the_most_of_the_window() -> None:
    rows = [(0, 2), (15, 2), (150, 5), (299, 2), (300, 2), (449, 2), (450, 2)]
    # What was there at first counts as asked for.
    assert scaled(Behaviour(), *rows, start=8) == [8, 8, 8, 8, 5, 5, 2]


def test_scale_out_doubles_or_adds_four_in_fifteen_seconds() -> None:
    rows = [(0, 40), (5, 40), (15, 40), (30, 40), (45, 40)]
    assert scaled(Behaviour(), *rows, start=1) == [5, 5, 10, 20, 40]


def test_scale_out_may_wait_for_the_least_of_a_window() -> None:
    rows = [(0, 8), (15, 8), (30, 6), (45, 8), (59, 8), (60, 8)]
    assert scaled(Behaviour(up_window_s=30), *rows, start=4) == [4, 4, 6, 6, 6, 8]


def test_scale_in_may_be_one_at_a_time() -> None:
    slow = Behaviour(down=Limit(0, 1, 120), down_window_s=0)
    rows = [(0, 1), (60, 1), (119, 1), (120, 1), (240, 1)]
    assert scaled(slow, *rows, start=8) == [7, 7, 7, 6, 5]


def test_never_fewer_than_one() -> None:
    assert scaled(Behaviour(down_window_s=0), (0, 0), start=1) == [1]


def test_a_static_count_stays() -> None:
    assert Static(7)(alike(0, 2, waiting=900.0)) == 7


def first(policy: Callable[[], Autoscaler], now: Reading) -> int:
    return policy()(now)


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        (alike(0, 4, kv_usage=0.7, waiting=2.0), 4),
        (alike(0, 4, kv_usage=0.95), 6),  # ceil(4 · 0.95 / 0.7)
        (alike(0, 4, kv_usage=0.1, waiting=3.0), 6),  # the queue wants more than the cache
        (alike(0, 4, kv_usage=0.1, waiting=30.0), 8),  # ceil(60), and twice as many at most
        (alike(0, 4, starting=4, kv_usage=0.95, waiting=0.0), 8),  # four are on their way
        (alike(0, 0, starting=3), 3),
    ],
)
def test_hpa_kv(now: Reading, expected: int) -> None:
    assert first(HpaOnKv, now) == expected


def test_hpa_kv_gives_up_after_its_window() -> None:
    policy = HpaOnKv()
    assert [policy(alike(t, 4, kv_usage=0.1)) for t in (0, 15, 285, 300)] == [4, 4, 4, 1]


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        (reading(0, [replica("a", waiting=3), replica("b", waiting=3)]), 2),  # 6 over 5
        (reading(0, [replica("a", waiting=11), replica("b", waiting=1)]), 3),
        (alike(0, 4, waiting=50.0), 8),
        (alike(0, 4, waiting=7.0), 6),
        (alike(0, 2, starting=4, waiting=14.0), 6),  # 28 over 5, and 6 are coming
        (alike(0, 0, starting=2), 2),
    ],
)
def test_keda_waiting(now: Reading, expected: int) -> None:
    assert first(KedaOnWaiting, now) == expected


def on_tokens(now: Reading, prompt: float, cached: float = 0.0) -> int:
    """KEDA on tokens after 100 requests of `prompt` tokens, a share `cached` of which was held."""
    policy = KedaOnTokens(10_000)
    before = [replica(each.name, now.time_s - 15) for each in now.replicas]
    policy(reading(now.time_s - 15, before, now.starting))
    counters = {
        "finished": 100.0,
        "finished_prompt_tokens": 100 * prompt,
        "prompt_tokens": 100 * prompt,
        "cached_tokens": 100 * prompt * cached,
    }
    rows = [
        replica(x.name, x.time_s, kv_usage=x.kv_usage, waiting=x.waiting, **counters)
        for x in now.replicas
    ]
    return policy(reading(now.time_s, rows, now.starting))


@pytest.mark.parametrize(
    ("now", "prompt", "cached", "expected"),
    [
        # 40 · 2000 tokens take 8 s: ceil(8 / 1.5).
        (alike(15, 4, waiting=10.0, kv_usage=0.1), 2000, 0.0, 6),
        # Three quarters are held: 2 s, ceil(2 / 1.5), but the window has the first reading's 4.
        (alike(15, 4, waiting=10.0, kv_usage=0.8), 2000, 0.75, 4),
        (alike(15, 4, waiting=0.0, kv_usage=1.0), 2000, 0.0, 5),  # 4 full caches over 0.8
        (alike(15, 4, waiting=0.0, kv_usage=0.87), 2000, 0.0, 4),  # within the tolerance
    ],
)
def test_keda_tokens(now: Reading, prompt: float, cached: float, expected: int) -> None:
    assert on_tokens(now, prompt, cached) == expected


def test_keda_tokens_knows_no_lengths_before_a_request_has_finished() -> None:
    assert KedaOnTokens(10_000)(alike(0, 2, waiting=50.0, kv_usage=0.8)) == 2
