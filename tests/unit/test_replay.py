"""A policy on the plant: when it is asked, what its answers do, and what the outcome counts.

We test these aspects: times and bounds of what is asked, readings that policies get, attainment,
cost from ask to gone, events, drops, the timeline, and that equal seeds give equal outcomes.
"""

from dataclasses import replace

import numpy as np
import pytest

from halftone.scaling.loads.load import Load
from halftone.scaling.replay import Objective, Outcome, attained, replay
from tests.scaling_cases import (
    Scripted,
    Steady,
    at_once,
    capacity,
    compile_plant,
    mixed,
    poisson,
    world,
)


@pytest.fixture(autouse=True, scope="module")
def compiled() -> None:
    compile_plant()


def same(one: Outcome, other: Outcome) -> bool:
    """Whether two outcomes are equal in every number."""
    arrays = zip(
        (one.ttft_s, one.itl_s, *vars(one.timeline).values()),
        (other.ttft_s, other.itl_s, *vars(other.timeline).values()),
        strict=True,
    )
    plain = [
        (each.attainment, each.replica_seconds, each.scale_events, each.preemptions, each.dropped)
        for each in (one, other)
    ]
    return plain[0] == plain[1] and all(
        np.array_equal(left, right, equal_nan=True) for left, right in arrays
    )


def test_a_policy_is_asked_from_the_beginning_until_all_is_answered() -> None:
    policy = Scripted((0.0, 1), interval_s=10.0)
    load = Load.of("two", [0.0, 41.0], [10, 10], [5, 1000])
    outcome = replay(world(), load, policy, name="scripted")
    assert [reading.time_s for reading in policy.readings] == [0.0, 10.0, 20.0, 30.0, 40.0, 50.0]
    assert outcome.policy == "scripted"
    assert outcome.ttft_s == pytest.approx([0.011, 0.011])
    assert outcome.itl_s == pytest.approx([0.01, 0.01])


def test_what_a_policy_wants_is_kept_within_the_bounds() -> None:
    load = poisson(2.0, 200.0, 100, 10)
    bounded = world(start=2, min_replicas=1, max_replicas=3, lead_s=1.0)
    for wanted, kept in ((0, 1), (7, 3), (-2, 1)):
        outcome = replay(bounded, load, Steady(wanted))
        assert outcome.timeline.wanted[-1] == kept
        assert outcome.timeline.ready[-1] == kept


def test_only_changes_of_what_is_wanted_are_events() -> None:
    load = poisson(2.0, 200.0, 100, 10)
    policy = Scripted((0.0, 1), (30.0, 2), (60.0, 2), (90.0, 1), (91.0, 3), (120.0, 3))
    outcome = replay(world(lead_s=1.0), load, policy)
    assert outcome.scale_events == 3


def test_a_constant_count_costs_its_number_until_the_last_answer() -> None:
    load = Load.of("one", [10.0], [10], [1000])
    outcome = replay(world(start=3), load, Steady(3))
    end = 10.0 + 0.011 + 999 * 0.01
    assert outcome.replica_seconds == pytest.approx(3 * end)
    assert outcome.mean_replicas == pytest.approx(3.0)
    assert outcome.scale_events == 0


def test_replicas_cost_from_the_ask_until_they_are_gone() -> None:
    load = Load.of("long", [0.0], [10], [10_001])
    policy = Scripted((0.0, 1), (15.0, 3), (75.0, 1))
    outcome = replay(world(lead_s=45.0), load, policy)
    end = 0.011 + 10_000 * 0.01
    assert outcome.replica_seconds == pytest.approx(end + 2 * 60.0)


def test_more_replicas_help_only_once_they_are_ready() -> None:
    # Requests of 0.5 s, 4 a second: one replica with one sequence each cannot, three can.
    load = poisson(4.0, 400.0, 4000, 1, seed=2)
    slow = world(capacity=capacity(max_sequences=1, token_budget=4096), lead_s=60.0)
    early, late = (
        replay(replace(slow, lead_s=lead), load, Scripted((0.0, 1), (15.0, 3)))
        for lead in (10.0, 60.0)
    )
    static = replay(slow, load, Steady(1))
    assert static.attainment < late.attainment < early.attainment
    assert early.timeline.ready[2] == 3
    assert late.timeline.ready[4] == 1


def test_attainment_needs_both_the_first_token_and_the_later_ones_in_time() -> None:
    load = Load.of("four", [0, 1, 2, 3], [4000] * 4, [10] * 4)
    ttft = np.array([3.4, 3.6, 3.4, np.nan])
    itl = np.array([0.1, 0.1, 0.11, np.nan])
    assert attained(Objective(), load, ttft, itl).tolist() == [True, False, False, False]


def test_a_single_token_has_no_later_ones_to_be_late() -> None:
    outcome = replay(world(), at_once(1, 10, 1), Steady(1))
    assert outcome.attainment == 1.0
    assert np.isnan(outcome.itl_s[0])


def test_what_is_dropped_has_no_times_and_attains_nothing() -> None:
    slow = world(capacity=capacity(max_sequences=1), client_timeout_s=2.0)
    outcome = replay(slow, at_once(4, 10_000, 1), Steady(1))
    assert outcome.dropped == 3
    assert np.isnan(outcome.ttft_s).sum() == 3
    assert outcome.attainment == 0.25


def test_preemptions_of_replicas_that_went_are_counted() -> None:
    tight = world(capacity=capacity(kv_blocks=40), start=2, lead_s=1.0)
    load = at_once(30, 60, 200)
    both = replay(tight, load, Steady(2))
    one_goes = replay(tight, load, Scripted((0.0, 2), (1.0, 1), interval_s=1.0))
    assert both.preemptions == one_goes.preemptions > 0


def test_the_timeline_has_a_row_a_scrape_of_what_was_true() -> None:
    load = Load.of("steady", np.arange(0.0, 90.0, 0.5) + 0.1, [100] * 180, [10] * 180)
    outcome = replay(world(lead_s=20.0), load, Scripted((0.0, 1), (30.0, 2)))
    line = outcome.timeline
    assert line.time_s.tolist() == [0.0, 15.0, 30.0, 45.0, 60.0, 75.0, 90.0]
    assert line.arrivals_per_s.tolist() == [0.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0]
    assert line.wanted.tolist() == [1, 1, 1, 2, 2, 2, 2]
    assert line.starting.tolist() == [0, 0, 0, 1, 0, 0, 0]
    assert line.ready.tolist() == [1, 1, 1, 1, 2, 2, 2]
    assert line.waiting.max() == 0
    assert 0 <= line.kv_usage.min() <= line.kv_usage.max() < 0.1


def test_from_nothing_the_first_request_waits_for_a_replica() -> None:
    cold = world(start=0, min_replicas=0, lead_s=50.0)
    outcome = replay(cold, at_once(3, 100, 5), Scripted((0.0, 0), (15.0, 1)))
    assert outcome.ttft_s.min() == pytest.approx(15.0 + 50.0 + 0.02)
    assert outcome.timeline.waiting[1] == 3


def test_equal_seeds_give_equal_outcomes_and_others_differ() -> None:
    load = mixed(600, seconds=120.0)
    drawn = world(start=3, lead_spread=0.3, lead_s=20.0, router="power-of-two", seed=1)
    plan = ((0.0, 3), (15.0, 6), (75.0, 2))
    first, again = (replay(drawn, load, Scripted(*plan)) for _ in range(2))
    other = replay(replace(drawn, seed=2), load, Scripted(*plan))
    assert same(first, again)
    assert not same(first, other)


def test_a_load_without_requests_is_over_at_once() -> None:
    outcome = replay(world(), Load.of("none", [], [], []), Steady(1))
    assert (outcome.attainment, outcome.replica_seconds, outcome.mean_replicas) == (1.0, 0.0, 0.0)
    assert len(outcome.timeline.time_s) == 1


def test_an_autoscaler_must_be_asked_now_and_then() -> None:
    with pytest.raises(ValueError, match="every 0"):
        replay(world(), at_once(1, 1, 1), Steady(1, interval_s=0.0))
