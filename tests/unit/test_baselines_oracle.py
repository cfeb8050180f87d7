"""The oracle, and the table of policies.

We test these aspects: the cheapest course of counts against every other course; dips that are kept,
bursts that are not met, cold starts; what is late with how many; asking ahead; names of policies.
"""

from dataclasses import replace
from itertools import product

import numpy as np
import numpy.typing as npt
import pytest

from halftone.scaling.baselines.oracle import BIN_S, Oracle, cheapest, late_requests
from halftone.scaling.baselines.policies import POLICIES, make
from halftone.scaling.baselines.thresholds import Static
from halftone.scaling.capacity import CacheGroup, Capacity
from halftone.scaling.loads.generators import Lengths, generate
from halftone.scaling.loads.load import Load
from halftone.scaling.replay import Objective, World
from halftone.spec.errors import RefusedInput
from tests.scaling_readings import alike

Floats = npt.NDArray[np.float64]
CAPACITY = Capacity(8000, 0.02, 1e-7, 2e-4, 4000, (CacheGroup(16),), 512, 128)


def needing(*counts: int, requests: float = 100.0, most: int = 4) -> Floats:
    """All requests of a bin are late with fewer than its count, and none with as many."""
    return np.array([[requests * (n < count) for n in range(1, most + 1)] for count in counts])


def cost(counts: npt.ArrayLike, lead_bins: float, start: int) -> float:
    """Bins that are paid for: each, and the lead of each that was started."""
    course = np.concatenate(([start], np.asarray(counts)))
    return float(course[1:].sum() + lead_bins * np.maximum(np.diff(course), 0).sum())


def test_each_bin_gets_what_it_needs_where_starting_costs_nothing() -> None:
    assert cheapest(needing(2, 4, 1, 3), 0.0, 2, 0).tolist() == [2, 4, 1, 3]


def test_a_dip_that_is_shorter_than_a_start_is_kept() -> None:
    late = needing(3, 1, 1, 3, 1, 1, 1, 1, 1, 3)
    assert cheapest(late, 3 * BIN_S, 3, 0).tolist() == [3, 3, 3, 3, 1, 1, 1, 1, 1, 3]


def test_a_burst_of_few_requests_is_not_met() -> None:
    late = np.concatenate([needing(1), needing(4, requests=1.0), needing(1)])
    assert cheapest(late, 0.0, 1, allowed=2).tolist() == [1, 1, 1]
    assert cheapest(late, 0.0, 1, allowed=0).tolist() == [1, 4, 1]


def test_what_nobody_can_meet_in_time_is_not_counted() -> None:
    late = needing(3, 3, 3, 2, 2, 2)
    assert cheapest(late, 2 * BIN_S, 1, 0).tolist() == [1, 1, 3, 2, 2, 2]


@pytest.mark.parametrize("seed", range(5))
def test_no_course_with_as_few_late_requests_costs_less(seed: int) -> None:
    chance = np.random.default_rng(seed)
    late = np.sort(chance.integers(0, 60, (6, 3)), axis=1)[:, ::-1].astype(np.float64)
    found = cheapest(late, 1.5 * BIN_S, 2, allowed=30)
    bins = np.arange(len(late))
    missed = late[bins, found - 1].sum()
    for other in product((1, 2, 3), repeat=len(late)):
        course = np.array(other)
        if course[:2].max() > 2 or course[1] > course[0]:  # none is ready so early
            continue
        if late[bins, course - 1].sum() <= missed:
            assert cost(course, 1.5, 2) >= cost(found, 1.5, 2) - 1e-9


def steady(rate: float, prompt: int, output: int, minutes: int = 4) -> Load:
    count = round(rate * minutes * 60)
    times = (np.arange(count) + 0.5) / rate
    return Load.of("steady", times, np.full(count, prompt), np.full(count, output))


@pytest.mark.parametrize(
    ("capacity", "rate", "prompt", "output"),
    [
        (CAPACITY, 8, 1000, 50),
        (CAPACITY, 9, 200, 600),
        (replace(CAPACITY, kv_blocks=1000), 1, 8000, 300),  # two requests fill a replica
    ],
)
def test_a_steady_load_is_late_with_fewer_than_its_work_takes(
    capacity: Capacity, rate: float, prompt: int, output: int
) -> None:
    work = rate * capacity.work_s(prompt, output)
    late = late_requests(steady(rate, prompt, output), capacity, Objective(), 12)
    enough = int(np.argmax(late[2] == 0)) + 1
    assert work < enough <= np.ceil(work) + 1
    assert late[2, 0] == 60 * rate  # one replica: everybody


def test_an_empty_load_needs_one() -> None:
    late = late_requests(Load.of("x", [], [], []), CAPACITY, Objective(), 4)
    assert cheapest(late, 100.0, 3, 0).tolist() == [1]


def test_the_oracle_asks_ahead_and_never_for_less_than_is_needed_now() -> None:
    oracle = Oracle(np.array([2, 2, 5, 1]), ahead_s=45.0)
    asked = {t: oracle(alike(t, 2)) for t in (0.0, 45.0, 60.0, 90.0, 150.0, 180.0, 600.0)}
    assert asked == {0.0: 2, 45.0: 2, 60.0: 5, 90.0: 5, 150.0: 5, 180.0: 1, 600.0: 1}


LOAD = generate("step", prompt=Lengths(100, 0.5), output=Lengths(10, 0.5))
WORLD = World(CAPACITY, lead_s=100.0)


@pytest.mark.parametrize("name", POLICIES)
def test_every_policy_is_made_anew_and_says_a_count(name: str) -> None:
    one, other = make(name, WORLD, LOAD), make(name, WORLD, LOAD)
    assert one is not other
    assert one.interval_s > 0
    assert one(alike(0, 2, kv_usage=0.5)) >= 1


def test_a_static_count_is_the_peaks_need_or_a_number() -> None:
    found = [make(name, WORLD, LOAD) for name in ("static-N", "static-12")]
    assert [each.replicas for each in found if isinstance(each, Static)] == [1, 12]


@pytest.mark.parametrize("name", ["", "static-0", "static--1", "static-", "Oracle", "hpa"])
def test_an_unknown_policy_is_refused_with_the_names_of_all(name: str) -> None:
    with pytest.raises(RefusedInput, match="hpa-kv, keda-waiting") as refused:
        make(name, WORLD, LOAD)
    assert f"'{name}'" in refused.value.message
