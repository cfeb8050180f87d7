"""Loads of known shapes, and how many replicas a peak needs.

We test these aspects: rates, means and durations of each shape; equal seeds give equal loads; even
arrivals; the work of requests is the capacity's; the peak is found, and a load is scaled to it.
"""

import numpy as np
import pytest

from halftone.scaling.capacity import CacheGroup, Capacity
from halftone.scaling.loads.generators import SHAPES, Lengths, generate
from halftone.scaling.loads.load import Load
from halftone.scaling.loads.peaks import BUSY, peak_factor, peak_level, peak_need, works
from halftone.spec.errors import RefusedInput

CAPACITY = Capacity(8000, 0.02, 1e-7, 2e-4, 4000, (CacheGroup(16),), 512, 128)


def rate(load: Load, first: float, last: float) -> float:
    """Requests per second between two times."""
    return float(np.count_nonzero((load.arrival_s >= first) & (load.arrival_s < last))) / (
        last - first
    )


@pytest.mark.parametrize(
    ("shape", "seconds", "rates"),
    [
        ("ramp", 2430, [(0, 330, 2), (330, 690, 4), (1410, 1770, 10), (2130, 2430, 1)]),
        ("step", 2400, [(0, 600, 2), (600, 2400, 10)]),
        ("square", 3600, [(0, 600, 2), (600, 1200, 10), (1200, 1800, 2), (3000, 3600, 10)]),
        ("diurnal", 7200, [(0, 600, 1.1), (3300, 3900, 9.9), (6600, 7200, 1.1)]),
    ],
)
def test_each_shape_has_its_rates(
    shape: str, seconds: float, rates: list[tuple[float, float, float]]
) -> None:
    load = generate(shape, seed=1)
    assert seconds - 10 < load.duration_s < seconds
    for first, last, expected in rates:
        count = expected * (last - first)
        assert rate(load, first, last) == pytest.approx(expected, rel=4 / np.sqrt(count))


def test_lengths_have_their_means_and_spreads() -> None:
    load = generate("diurnal", seed=2)
    assert load.prompt.mean() == pytest.approx(1155, rel=0.03)
    assert load.prompt.std() == pytest.approx(0.96 * 1155, rel=0.1)
    assert load.output.mean() == pytest.approx(211, rel=0.03)
    assert load.output.min() >= 1
    ramp = generate("ramp")
    assert ramp.prompt.mean() == pytest.approx(4000, rel=0.01)
    assert ramp.output.std() == pytest.approx(80, rel=0.1)


def test_lengths_stay_between_one_and_their_most() -> None:
    drawn = Lengths(2, 3.0, most=10).draw(10_000, np.random.default_rng(0))
    assert (drawn.min(), drawn.max()) == (1, 20)


def test_equal_seeds_give_equal_loads_and_others_do_not() -> None:
    one, same, other = generate("ramp", 1), generate("ramp", 1), generate("ramp", 2)
    assert np.array_equal(one.arrival_s, same.arrival_s)
    assert np.array_equal(one.prompt, same.prompt)
    assert not np.array_equal(one.arrival_s[:100], other.arrival_s[:100])


def test_even_arrivals_are_as_far_apart_as_the_rate_says() -> None:
    load = generate("step", even=True)
    assert len(load) == 2 * 600 + 10 * 1800
    assert np.diff(load.arrival_s[:1200]) == pytest.approx(0.5)
    assert np.diff(load.arrival_s[1200:]) == pytest.approx(0.1)


def test_other_lengths_may_be_given() -> None:
    load = generate("step", prompt=Lengths(50, 0.0), output=Lengths(7, 0.0))
    assert set(load.prompt.tolist()) == {50}
    assert set(load.output.tolist()) == {7}


def test_an_unknown_shape_is_refused_with_the_names_of_all() -> None:
    with pytest.raises(RefusedInput, match=f"choose one of {', '.join(SHAPES)}"):
        generate("spiral")


def test_work_is_what_the_capacity_says_of_what_a_cache_did_not_hold() -> None:
    load = Load.of("x", [0, 1, 2], [100, 100, 900], [10, 10, 50], [0, 60, 0])
    assert works(load, CAPACITY).tolist() == [
        CAPACITY.work_s(100, 10),
        CAPACITY.work_s(100, 10, 40),
        CAPACITY.work_s(900, 50),
    ]


def test_the_peak_is_what_keeps_all_but_a_few_from_waiting() -> None:
    quiet, busy = np.linspace(0, 599, 60), np.linspace(600.1, 1199.9, 3000)
    load = Load.of("x", np.concatenate([quiet, busy]), np.full(3060, 800), np.full(3060, 100))
    each = CAPACITY.work_s(800, 100)
    assert peak_level(load, CAPACITY) == pytest.approx(3000 * each / 600, rel=0.02)
    assert peak_need(load, CAPACITY) == round(3000 * each / 600 / BUSY + 0.25)


def test_a_queue_takes_up_a_burst_that_few_wait_behind() -> None:
    even = np.arange(0, 2000, 2.0)
    burst = np.full(8, 1000.5)
    load = Load.of("x", np.concatenate([even, burst]), np.full(1008, 800), np.full(1008, 100))
    each = CAPACITY.work_s(800, 100)
    assert peak_level(load, CAPACITY) < 4 * each


def test_the_peak_of_a_second_is_its_mean() -> None:
    load = Load.of("x", np.linspace(0, 0.9, 40), np.full(40, 800), np.full(40, 100))
    assert peak_level(load, CAPACITY) == pytest.approx(40 * CAPACITY.work_s(800, 100))


def test_an_empty_load_needs_one_replica_and_has_no_factor() -> None:
    empty = Load.of("x", [], [], [])
    assert peak_need(empty, CAPACITY) == 1
    with pytest.raises(ValueError, match="no peak"):
        peak_factor(empty, CAPACITY)


@pytest.mark.parametrize("shape", ["ramp", "step", "square"])
def test_a_load_that_is_scaled_by_its_factor_needs_as_many_replicas(shape: str) -> None:
    load = generate(shape, seed=3)
    scaled = load.scaled(peak_factor(load, CAPACITY, 12), seed=4)
    assert peak_level(scaled, CAPACITY) / BUSY == pytest.approx(12, rel=0.12)
