"""What baselines see of the last scrapes, and quantiles of histograms.

We test these aspects: quantiles as Prometheus's documentation computes them; counters over a
window, resets, replicas that come and go; peaks of gauges.
"""

import math

import pytest

from halftone.scaling.baselines.quantiles import histogram_quantile
from halftone.scaling.baselines.scrapes import Scrapes
from halftone.scaling.reading import ReplicaReading
from tests.scaling_readings import reading, replica


@pytest.mark.parametrize(
    ("share", "counts", "expected"),
    [
        (0.5, (10, 10, 10, 10), 0.5),  # half of the way into the first bucket, from 0
        (0.9, (0, 10, 10, 10), 1 + 0.9),  # nine tenths of the way from 1 to 2
        (0.75, (4, 8, 8, 8), 1.5),
        (0.5, (5, 10, 10, 10), 1.0),  # exactly at a bound
        (0.9, (0, 0, 5, 10), 4.0),  # above every bound: the highest is all that is known
        (0.9, (0, 0, 9, 10), 4.0),
        (0.0, (0, 4, 8, 8), 0.0),
        (1.0, (0, 4, 8, 8), 4.0),
    ],
)
def test_a_quantile_lies_where_prometheus_says(
    share: float, counts: tuple[float, ...], expected: float
) -> None:
    assert histogram_quantile(share, (1.0, 2.0, 4.0), counts) == pytest.approx(expected)


def test_nothing_observed_has_no_quantile() -> None:
    assert math.isnan(histogram_quantile(0.9, (1.0, 2.0), (0, 0, 0)))


def test_a_histogram_without_its_last_bucket_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="a count for each bound"):
        histogram_quantile(0.9, (1.0, 2.0), (0, 0))


def finished(one: ReplicaReading) -> float:
    return one.finished


def seen(window_s: float, *rows: tuple[float, dict[str, float]]) -> Scrapes:
    """Scrapes of (second, {replica: finished})."""
    scrapes = Scrapes(window_s)
    for time_s, counts in rows:
        replicas = [replica(name, time_s, finished=count) for name, count in counts.items()]
        scrapes.add(reading(time_s, replicas))
    return scrapes


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([], 0),
        ([(0, {"a": 5})], 0),  # one sample has no increase
        ([(0, {"a": 5}), (15, {"a": 9})], 4),
        ([(0, {"a": 5, "b": 1}), (15, {"a": 9, "b": 3})], 6),
        ([(0, {"a": 5}), (15, {"a": 2}), (30, {"a": 6})], 2 + 4),  # it began anew
        ([(0, {"a": 5}), (15, {"a": 9, "b": 100}), (30, {"a": 9, "b": 103})], 4 + 3),
        ([(0, {"a": 5, "b": 1}), (15, {"a": 6, "b": 4}), (30, {"a": 8})], 1 + 2 + 3),
        ([(0, {"a": 0}), (15, {"a": 7}), (60, {"a": 9}), (75, {"a": 10})], 1),  # 15 s: outside
        ([(0, {"b": 0}), (15, {"b": 7}), (90, {"a": 9})], 0),  # gone for longer than the window
    ],
)
def test_counters_grow_over_a_window(
    rows: list[tuple[float, dict[str, float]]], expected: float
) -> None:
    assert seen(60, *rows).increase(finished) == expected


def test_a_scrape_that_is_shown_twice_counts_once() -> None:
    scrapes = seen(60, (0, {"a": 1}), (15, {"a": 4}))
    scrapes.add(reading(20, [replica("a", 15, finished=4)]))
    assert scrapes.increase(finished) == 3


def test_the_buckets_of_a_histogram_grow_and_begin_anew_together() -> None:
    scrapes = Scrapes(60)
    for time_s, counts in ((0, (1.0, 5.0)), (15, (2.0, 7.0)), (30, (2.0, 3.0))):
        scrapes.add(reading(time_s, [replica("a", time_s, ttft=counts), replica("b", time_s)]))
    # The third scrape is of a process that began anew, though its first bucket is as high.
    assert scrapes.increases(lambda each: each.ttft) == [1 + 2, 2 + 3]


def test_peaks_are_those_of_the_window_in_the_order_of_the_reading() -> None:
    scrapes = Scrapes(60)
    for time_s, a, b in ((0, 9, 1), (15, 2, 7), (70, 3, 4)):
        now = reading(time_s, [replica("b", time_s, waiting=b), replica("a", time_s, waiting=a)])
        scrapes.add(now)
    assert scrapes.peaks(now, lambda each: each.waiting) == [7, 3]
