"""What is known of the load from one reading to the next.

We test these aspects:
- arrivals are what finished plus what is in flight more, so a queue hides none
- lengths follow what finishes, and are not guessed too short while little has
- what a prefix cache held is no work
- a long queue shows how fast replicas are, a short one does not, and the card is corrected
- what was measured corrects the card that it was measured against, and no other
- a replica that was not read for a while is counted from where it was
"""

from dataclasses import replace

import pytest

from halftone.scaling.demand import Demand, observed
from halftone.scaling.reading import Reading
from tests.fed_endpoints import CAPACITY, OUTPUT, PROMPT, STEP_S, Fed

WORK_S = CAPACITY.work_s(PROMPT, OUTPUT)


def known(fed: Fed, arrivals: list[float], waiting: float = 0.0) -> Demand:
    """After a first reading and one for each of `arrivals`."""
    demand = observed(fed.next(0), CAPACITY, None)
    for count in arrivals:
        demand = observed(fed.next(count, waiting=waiting), CAPACITY, demand)
    return demand


def test_requests_that_wait_have_arrived() -> None:
    fed = Fed()
    demand = known(fed, [40])
    demand = observed(fed.next(10, waiting=30), CAPACITY, demand)
    assert demand.rows[-1].arrivals == pytest.approx(40)
    demand = observed(fed.next(70, waiting=0), CAPACITY, demand)
    assert demand.rows[-1].arrivals == pytest.approx(40)


def test_requests_that_are_held_in_front_have_arrived_once() -> None:
    fed = Fed()
    demand = known(fed, [0])
    demand = observed(replace(fed.next(0), held=25), CAPACITY, demand)
    assert demand.rows[-1].arrivals == pytest.approx(25)
    demand = observed(fed.next(0, waiting=25), CAPACITY, demand)
    assert demand.rows[-1].arrivals == pytest.approx(0)


def test_what_was_counted_too_early_is_taken_off_the_next_row() -> None:
    fed = Fed()
    demand = known(fed, [40])
    first = observed(fed.next(0, waiting=20), CAPACITY, demand)
    late = observed(fed.next(0), CAPACITY, first)  # 20 less in flight, and none has finished yet
    assert late.rows[-1].arrivals == 0
    assert late.carried == pytest.approx(-20)
    assert observed(fed.next(50), CAPACITY, late).rows[-1].arrivals == pytest.approx(30)


def test_lengths_follow_what_finishes() -> None:
    demand = known(Fed(), [400] * 8)
    assert demand.lengths.prompt == pytest.approx(PROMPT)
    assert demand.lengths.output == pytest.approx(OUTPUT, rel=0.02)
    assert demand.rows[-1].work_s == pytest.approx(400 * WORK_S, rel=0.02)


def test_long_answers_that_have_not_ended_are_not_taken_for_short_ones() -> None:
    fed = Fed()
    demand = known(fed, [0])
    generating = fed.next(0)
    busy = tuple(replace(each, generation_tokens=3000.0) for each in generating.replicas)
    demand = observed(replace(generating, replicas=busy), CAPACITY, demand)
    assert demand.lengths.output == 1000


def test_what_a_prefix_cache_held_is_no_work() -> None:
    fed = Fed()
    demand = known(fed, [200] * 4)
    reading = fed.next(200)
    held = tuple(replace(each, cached_tokens=0.8 * each.prompt_tokens) for each in reading.replicas)
    after = observed(replace(reading, replicas=held), CAPACITY, demand)
    assert after.lengths.computed < after.lengths.prompt
    assert after.rows[-1].work_s < demand.rows[-1].work_s


@pytest.mark.parametrize("speed", [0.8, 1.25])
def test_a_long_queue_shows_how_fast_replicas_are(speed: float) -> None:
    done = speed * 2 * STEP_S / WORK_S
    demand = known(Fed(), [done] * 20, waiting=1000.0)
    assert demand.measured.factor == pytest.approx(speed, rel=0.03)
    card = demand.rows[1].work_s / demand.rows[1].arrivals
    assert demand.rows[-1].work_s / max(demand.rows[-1].arrivals, 1) == pytest.approx(
        card / speed, rel=0.05
    )


def test_what_was_measured_corrects_no_other_card() -> None:
    fed, done = Fed(), 0.8 * 2 * STEP_S / WORK_S
    demand = known(fed, [done] * 20, waiting=1000.0)
    # What `halftone bench` finds of such replicas, given in the place of the card that was wrong.
    true = CAPACITY.faster(demand.measured.factor)
    after = observed(fed.next(done, waiting=1000.0), true, demand)
    assert after.measured.factor == 1
    before, last = (row.work_s / row.arrivals for row in after.rows[-2:])
    assert last == pytest.approx(before, rel=0.02)


def test_a_short_queue_shows_nothing() -> None:
    demand = known(Fed(), [10] * 40, waiting=2.0)
    assert demand.measured.factor == 1


def test_no_replica_is_taken_to_be_far_from_its_card() -> None:
    demand = known(Fed(), [1] * 40, waiting=5000.0)
    assert demand.measured.factor == 0.5


def test_a_replica_that_was_not_read_is_counted_from_where_it_was() -> None:
    fed = Fed()
    demand = known(fed, [100] * 4)
    reading = fed.next(100)
    demand = observed(_without(reading, "replica-1"), CAPACITY, demand)
    assert demand.rows[-1].arrivals == pytest.approx(50)
    demand = observed(fed.next(100), CAPACITY, demand)
    assert demand.rows[-1].arrivals == pytest.approx(50 + 100)


def _without(reading: Reading, name: str) -> Reading:
    return replace(reading, replicas=tuple(e for e in reading.replicas if e.name != name))
