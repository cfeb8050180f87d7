"""Several replicas of the plant: who gets a request, who starts, who drains, and who pays.

We test these aspects: routers, requests that no replica can take yet, leads and what they cost,
fewer replicas wanted, clients that go, requests that never fit, the cost as a sum of lives, and
that nothing of it depends on anything but its arguments.
"""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from halftone.scaling.loads.load import Load
from halftone.scaling.plant import state
from halftone.scaling.plant.endpoint import Plant, answers
from tests.scaling_cases import (
    at_once,
    capacity,
    compile_plant,
    finished,
    mixed,
    poisson,
    world,
)

SLOW = capacity(max_sequences=1)  # one request at a time; 10,000 prompt tokens take 1.2 s


@pytest.fixture(autouse=True, scope="module")
def compiled() -> None:
    compile_plant()


def shares(plant: Plant) -> list[int]:
    """Requests that each of the first replicas got."""
    return [int(each) for each in np.bincount(plant.requests.replica)]


@pytest.mark.parametrize("router", ["least-loaded", "round-robin"])
def test_equal_replicas_get_equal_shares_in_turn(router: str) -> None:
    plant = finished(world(start=3, router=router), at_once(9, prompt=50, output=5))
    assert shares(plant) == [3, 3, 3]
    assert (np.diff(plant.requests.replica[:3]) != 0).all()


@pytest.mark.parametrize(
    ("router", "expected"), [("least-loaded", [1, 5]), ("round-robin", [3, 3])]
)
def test_only_a_router_that_looks_avoids_a_busy_replica(router: str, expected: list[int]) -> None:
    long = Load.of("one long", np.arange(6.0), [10] * 6, [2000, 1, 1, 1, 1, 1])
    plant = finished(world(start=2, router=router), long)
    busy = int(plant.requests.replica[0])
    assert [shares(plant)[busy], shares(plant)[1 - busy]] == expected


def test_the_better_of_two_is_the_least_loaded_where_there_are_two() -> None:
    long = Load.of("one long", np.arange(6.0), [10] * 6, [2000, 1, 1, 1, 1, 1])
    plant = finished(world(start=2, router="power-of-two"), long)
    busy = int(plant.requests.replica[0])
    # Idle ones are equal: the first drawn wins, and that is never the busy one.
    assert shares(plant)[busy] == 1


def test_the_better_of_two_spreads_a_crowd_evenly_but_not_in_turn() -> None:
    plant = finished(world(start=8, router="power-of-two"), at_once(400, prompt=50, output=5))
    assert sum(shares(plant)) == 400
    assert 44 <= min(shares(plant)) <= max(shares(plant)) <= 56
    assert len(set(plant.requests.replica[:8])) < 8


def test_an_unknown_router_is_an_error() -> None:
    with pytest.raises(ValueError, match="fastest"):
        Plant(world(router="fastest"), at_once(1, 1, 1))


def test_without_a_replica_requests_are_held_until_one_is_ready() -> None:
    plant = Plant(world(start=0), at_once(5, prompt=100, output=1))
    plant.run_until(10.0)
    assert (plant.held, plant.waiting()) == (5, 5)
    plant.scale(1)
    plant.run_until(69.9)
    assert (plant.held, plant.counts()) == (5, (0, 1, 0))
    plant.finish()
    assert plant.held == 0
    assert plant.requests.given_s.tolist() == [70.0] * 5
    assert plant.requests.first_s.min() == pytest.approx(70.02)


def test_a_replica_is_paid_for_from_the_ask_although_it_is_not_ready() -> None:
    plant = Plant(world(), at_once(1, 10, 1))
    plant.run_until(100.0)
    plant.scale(3)
    plant.run_until(150.0)
    assert plant.counts() == (1, 2, 0)
    assert plant.paid_s(150.0) == 150.0 + 2 * 50.0
    plant.run_until(160.0)
    assert plant.counts() == (3, 0, 0)


def test_leads_are_drawn_around_their_mean() -> None:
    plant = Plant(world(start=0, lead_s=200.0, lead_spread=0.2), at_once(1, 1, 1))
    plant.scale(300)
    leads = plant.replicas.ready_s[:300]
    assert leads.mean() == pytest.approx(200.0, rel=0.05)
    assert leads.std() == pytest.approx(40.0, rel=0.15)
    assert leads.min() > 0


def test_fewer_replicas_give_up_the_newest_that_start_before_any_drains() -> None:
    plant = Plant(world(start=2, lead_s=100.0), poisson(1.0, 300.0, 100, 10))
    plant.run_until(10.0)
    plant.scale(3)
    plant.run_until(20.0)
    plant.scale(5)
    assert plant.counts() == (2, 3, 0)
    plant.run_until(30.0)
    plant.scale(3)
    assert plant.counts() == (2, 1, 0)
    assert plant.lives == [(20.0, 30.0), (20.0, 30.0)]
    plant.run_until(110.0)
    assert plant.counts() == (3, 0, 0)


def test_the_least_loaded_drains_finishes_its_work_and_gets_no_more() -> None:
    load = Load.of("three", [0.0, 0.1, 0.2, 5.0, 5.1], [10] * 5, [3000, 1500, 3000, 5, 5])
    plant = Plant(world(start=2), load)
    plant.run_until(1.0)
    row = int(plant.requests.replica[1])
    plant.scale(1)
    assert plant.counts() == (1, 0, 1)
    assert plant.replicas.status[row] == state.DRAINING
    plant.finish()
    end = float(plant.requests.last_s[1])
    assert end == pytest.approx(15.1, abs=0.2)
    assert plant.lives == [(0.0, end)]
    assert (plant.requests.replica[3:] != row).all()
    assert (plant.requests.made == load.output).all()


def test_an_idle_replica_goes_at_once() -> None:
    plant = Plant(world(start=2), at_once(1, 10, 1))
    plant.run_until(40.0)
    plant.scale(1)
    assert (plant.counts(), plant.lives) == ((1, 0, 0), [(0.0, 40.0)])


def test_one_that_drains_does_not_come_back() -> None:
    plant = Plant(world(start=2), at_once(2, 10, 3000))
    plant.run_until(1.0)
    plant.scale(1)
    plant.scale(2)
    assert plant.counts() == (1, 1, 1)


def test_rows_of_replicas_that_went_are_used_again_without_their_past() -> None:
    plant = Plant(world(start=20), at_once(200, 50, 5))
    plant.run_until(100.0)
    for wanted in (1, 20, 1, 20):
        plant.scale(wanted)
        plant.run_until(plant.now_s + 100.0)
    assert len(plant.replicas) < 40
    assert len(plant.lives) == 38
    names = [each.name for each in plant.read().replicas]
    assert len(set(names)) == 20
    assert sum(each.finished for each in plant.read().replicas) == 10  # of the one that stayed


def test_clients_without_a_first_token_go_and_leave_nothing_behind() -> None:
    crowd = at_once(10, prompt=10_000, output=1)
    plant = finished(world(capacity=SLOW, client_timeout_s=5.0), crowd)
    ttft, itl = answers(plant)
    assert ttft[:4] == pytest.approx([1.2, 2.4, 3.6, 4.8])
    assert np.isnan(ttft[4:]).all()
    assert np.isnan(itl).all()
    assert plant.dropped == 6
    plant.run_until(40.0)
    assert plant.replicas.blocks[0] == plant.replicas.sequences[0] == plant.waiting() == 0
    assert plant.read().replicas[0].finished == 4


def test_clients_whose_answer_has_begun_stay() -> None:
    plant = finished(world(client_timeout_s=5.0), at_once(1, prompt=100, output=3000))
    assert plant.dropped == 0
    assert plant.last_answer_s == pytest.approx(30.0, abs=0.1)


def test_held_requests_lose_their_clients_too() -> None:
    plant = finished(world(start=0, client_timeout_s=5.0), at_once(3, 10, 1))
    assert (plant.dropped, plant.held, plant.waiting()) == (3, 0, 0)


def test_a_request_that_never_fits_is_refused_at_once_and_blocks_nobody() -> None:
    load = Load.of("long", [0.0, 0.0], [20_000, 10], [1, 1])
    plant = finished(world(), load)
    assert plant.requests.state.tolist() == [state.DROPPED, state.DONE]
    assert plant.last_answer_s == pytest.approx(0.011)


def test_a_load_that_nobody_can_answer_is_said_and_not_waited_for() -> None:
    plant = Plant(world(start=0, client_timeout_s=math.inf), at_once(1, 10, 1))
    with pytest.raises(RuntimeError, match="no replica"):
        plant.finish()


def test_time_does_not_go_back() -> None:
    plant = Plant(world(), at_once(1, 10, 1))
    plant.run_until(5.0)
    with pytest.raises(ValueError, match="cannot go back"):
        plant.run_until(4.0)


def test_how_often_somebody_looks_changes_nothing() -> None:
    load = mixed(400, seconds=60.0)
    tight = world(capacity=capacity(kv_blocks=100), start=2, router="power-of-two", seed=4)
    once, often = Plant(tight, load), Plant(tight, load)
    once.run_until(90.0)
    for moment in np.arange(0.0, 90.0, 0.37):
        often.run_until(float(moment))
    often.run_until(90.0)
    assert once.preemptions == often.preemptions > 0
    for name in once.requests.dtype.names:
        np.testing.assert_array_equal(once.requests[name], often.requests[name])


@given(
    seed=st.integers(0, 10_000),
    plan=st.lists(st.integers(0, 5), min_size=1, max_size=8),
    router=st.sampled_from(state.ROUTERS),
    timeout=st.sampled_from([2.0, 300.0]),
)
@settings(max_examples=25)
def test_every_request_is_settled_once_and_every_life_is_paid(
    seed: int, plan: list[int], router: str, timeout: float
) -> None:
    tight = capacity(kv_blocks=80, token_budget=128)
    surroundings = world(
        capacity=tight, start=2, lead_s=7.0, lead_spread=0.5, router=router, seed=seed
    )
    load = mixed(150, seconds=40.0, seed=seed, most=1500)
    plant = Plant(surroundings, load)
    for step, wanted in enumerate(plan):
        plant.run_until(5.0 * step)
        plant.scale(wanted)
    plant.run_until(5.0 * len(plan))
    plant.scale(2)
    plant.finish()
    plant.run_until(plant.now_s + 60.0)
    requests = plant.requests
    done = requests.state == state.DONE
    assert set(requests.state) <= {state.DONE, state.DROPPED}
    assert (requests.made[done] == load.output[done]).all()
    assert plant.dropped == np.count_nonzero(~done)
    assert (requests.first_s[done] > load.arrival_s[done]).all()
    assert (plant.replicas.blocks == 0).all()
    assert (plant.replicas.waiting == 0).all()
    plant.scale(0)
    assert plant.counts() == (0, 0, 0)
    lives = sum(gone - asked for asked, gone in plant.lives)
    assert plant.paid_s(plant.now_s) == pytest.approx(lives)
