"""What a scraper sees of the plant, and how late.

We test these aspects: a reading is between one and two intervals old, counters and gauges are those
of its scrape, histograms are cumulative over vLLM's bounds, replicas that are new or drain, and
that the replica counts are not late.
"""

import math

import pytest

from halftone.scaling.loads.load import Load
from halftone.scaling.plant.endpoint import Plant
from halftone.scaling.reading import ITL_BOUNDS, TTFT_BOUNDS
from tests.scaling_cases import at_once, capacity, compile_plant, poisson, world


@pytest.fixture(autouse=True, scope="module")
def compiled() -> None:
    compile_plant()


@pytest.mark.parametrize(
    ("now", "scraped"),
    [(0.0, -15.0), (14.9, -15.0), (15.0, 0.0), (29.9, 0.0), (30.0, 15.0), (46.0, 30.0)],
)
def test_a_reading_is_one_to_two_intervals_old(now: float, scraped: float) -> None:
    plant = Plant(world(start=2), poisson(1.0, 60.0, 100, 10))
    plant.run_until(now)
    reading = plant.read()
    assert reading.time_s == now
    assert {each.time_s for each in reading.replicas} == {scraped}


def test_a_scrape_holds_what_was_true_then_and_not_later() -> None:
    load = Load.of("two", [1.0, 16.0], [100, 60], [5, 7])
    plant = Plant(world(), load)
    plant.run_until(29.0)
    assert plant.read().replicas[0].finished == 0
    plant.run_until(31.0)
    [seen] = plant.read().replicas
    assert (seen.finished, seen.generation_tokens, seen.prompt_tokens) == (1, 5, 100)
    plant.run_until(46.0)
    [seen] = plant.read().replicas
    assert (seen.finished_prompt_tokens, seen.finished_output_tokens) == (160, 12)


def test_another_interval_is_scraped_at_its_own_times() -> None:
    plant = Plant(world(scrape_interval_s=2.0), poisson(5.0, 20.0, 100, 10))
    plant.run_until(9.0)
    assert plant.read().replicas[0].time_s == 6.0


def test_gauges_are_those_that_the_last_step_left() -> None:
    crowded = capacity(max_sequences=4, kv_blocks=100)
    seldom = world(capacity=crowded, scrape_interval_s=2.0)
    plant = Plant(seldom, at_once(10, prompt=160, output=900))
    plant.run_until(2.0)
    before = plant.read().replicas[0]
    running, blocks = int(plant.replicas.sequences[0]), int(plant.replicas.blocks[0])
    plant.run_until(4.0)
    [seen] = plant.read().replicas
    assert (before.running, before.waiting, before.kv_usage) == (0, 0, 0)  # nothing had run at 0
    assert (seen.running, seen.waiting) == (running, 10 - running) == (4, 6)
    assert seen.kv_usage == pytest.approx(blocks / 100, abs=0.04)  # but for the step that began
    assert seen.kv_usage > 0.5


def test_what_is_held_in_front_is_late_too() -> None:
    plant = Plant(world(start=0), Load.of("held", [1.0, 2.0, 16.0], [9] * 3, [9] * 3))
    plant.run_until(20.0)
    assert (plant.held, plant.read().held) == (3, 0)
    plant.run_until(31.0)
    assert plant.read().held == 2


def test_histograms_are_cumulative_and_end_with_the_count() -> None:
    plant = Plant(world(), poisson(4.0, 60.0, 300, 20))
    plant.finish()
    plant.run_until(plant.now_s + 30.0)
    [seen] = plant.read().replicas
    first = plant.requests.first_s - plant.requests.given_s
    assert len(seen.ttft) == len(TTFT_BOUNDS) + 1
    assert len(seen.itl) == len(ITL_BOUNDS) + 1
    for bound, count in zip((*TTFT_BOUNDS, math.inf), seen.ttft, strict=True):
        assert count == (first <= bound).sum()
    assert seen.itl[-1] == seen.generation_tokens - seen.finished
    assert list(seen.itl) == sorted(seen.itl)


def test_a_replica_that_was_not_ready_at_the_scrape_is_read_as_having_served_nothing() -> None:
    plant = Plant(world(lead_s=20.0), poisson(4.0, 120.0, 300, 20))
    plant.run_until(30.0)
    plant.scale(2)
    plant.run_until(58.0)
    old, new = plant.read().replicas
    assert old.finished > 0
    assert (new.finished, new.running, new.ttft[-1], new.time_s) == (0, 0, 0, 30.0)
    plant.run_until(90.0)
    assert plant.read().replicas[1].finished > 0


def test_counts_are_not_late_and_only_ready_replicas_are_read() -> None:
    plant = Plant(world(start=2), at_once(4, 10, 3000))
    plant.run_until(1.0)
    plant.scale(1)
    plant.scale(3)
    reading = plant.read()
    assert (reading.ready, reading.starting, reading.draining) == (1, 2, 1)
    assert len(reading.replicas) == 1
    assert reading.missing == ()


def test_an_aborted_request_is_not_counted_as_finished() -> None:
    one = capacity(max_sequences=1)
    plant = Plant(world(capacity=one, client_timeout_s=2.0), at_once(4, 10_000, 1))
    plant.finish()
    plant.run_until(45.0)
    assert plant.read().replicas[0].finished == 1
    assert plant.dropped == 3


def test_a_replica_does_not_know_how_long_a_request_was_held_in_front() -> None:
    plant = Plant(world(start=0), at_once(5, prompt=100, output=1))
    plant.scale(1)  # ready after a minute
    plant.run_until(95.0)
    [seen] = plant.read().replicas
    within = dict(zip(TTFT_BOUNDS, seen.ttft, strict=False))
    assert within[0.1] == seen.finished == 5
    assert plant.requests.first_s.min() > 60
