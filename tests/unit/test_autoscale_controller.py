"""The external controller: what it sets, and when it keeps its hands off.

We test these aspects:
- what the law wants is set once, and told in metrics
- nothing is set on missing data, in a conflict, with `observeOnly`, or where the target is away
- two without an election do not pull in turn
- an edit is reported once and not fought, and a lost answer is no edit
- the controller and Ray's policy decide alike on the same readings
"""

import json
import time
from threading import Event

import pytest
from prometheus_client import CollectorRegistry

from halftone.scaling.acting.controlling import Controller, Look
from halftone.scaling.acting.deciding import Decider, Judgement
from halftone.scaling.acting.exporting import metrics_in
from halftone.scaling.acting.ray_carrier import Manner, RayCarrier
from halftone.scaling.acting.reloading import ReloadingDecider
from halftone.scaling.follower import Follower
from halftone.scaling.policy import Settings
from halftone.scaling.reading import Reading
from tests.acting_cases import CARD, Context, Kept, Recorded, Telling
from tests.fed_endpoints import CAPACITY, STEP_S, Fed

LEAD_S = 120.0


class World:
    """A controller of a target in memory, and its metrics."""

    def __init__(
        self,
        readings: list[Reading | Exception],
        target: Kept | None = None,
        *,
        observe_only: bool = False,
    ) -> None:
        self.target = target or Kept()
        self.registry = CollectorRegistry()
        self.time_s = 0.0
        self.decider = Decider(
            Recorded(readings), Follower(CAPACITY, Settings(lead_s=LEAD_S)), LEAD_S
        )  # fmt: skip
        metrics = metrics_in(self.registry, "model")
        self.controller = Controller(
            self.target, self.decider, metrics, observe_only=observe_only
        )  # fmt: skip

    def look(self, times: int = 1) -> Look | None:
        """The last of some looks."""
        found = None
        for _ in range(times):
            self.time_s += STEP_S
            found = self.controller.look(self.time_s)
        return found

    def metric(self, name: str, **labels: str) -> float | None:
        """Without the prefix that all have."""
        return self.registry.get_sample_value(
            f"halftone_scaling_{name}", {"model": "model", **labels}
        )  # fmt: skip


def loaded(looks: int = 40) -> list[Reading | Exception]:
    """Readings of some replicas' work, on two."""
    fed = Fed(ready=2)
    return [fed.next(200) for _ in range(looks)]


def test_what_the_law_wants_is_set_once_and_told() -> None:
    world = World(loaded())
    found = world.look(40)
    assert found is not None
    assert found.judgement.decision is not None
    wanted = found.judgement.decision.wanted
    assert world.target.count == wanted > 2
    assert len(world.target.was_set) == len(set(world.target.was_set))
    assert world.metric("desired_replicas") == wanted
    assert world.metric("decision_info", term="Rate") == 1
    assert world.metric("decision_info", term="Missing") == 0
    assert world.metric("asked_replicas", term="Rate") == pytest.approx(wanted, abs=1)
    assert world.metric("ready_replicas") == wanted
    assert world.metric("max_replicas") == 64
    assert world.metric("lead_seconds") == LEAD_S
    assert world.metric("capacity_ratio") == 1
    assert (world.metric("held"), world.metric("failed"), world.metric("leader")) == (0, 0, 1)


@pytest.mark.parametrize(
    "answer", [Fed(ready=2).next(0, missing=("Prometheus is away",)), RuntimeError("a bug")]
)
def test_nothing_is_set_on_missing_data(answer: Reading | Exception) -> None:
    world = World([answer])
    world.target.count = 20
    found = world.look(5)
    assert found is not None
    assert found.judgement.is_held
    assert world.target.was_set == []
    assert world.metric("held") == 1


def test_nothing_is_set_when_only_observing() -> None:
    world = World(loaded(), observe_only=True)
    world.look(40)
    assert world.target.was_set == []
    assert world.metric("observe_only") == 1
    wanted = world.metric("desired_replicas")
    assert wanted is not None
    assert wanted > 2


def test_an_edit_is_reported_once_and_not_fought() -> None:
    world = World(loaded(100))
    world.look(40)
    before = list(world.target.was_set)
    world.target.count = 33
    world.look(20)
    assert world.target.count == 33
    assert world.target.was_set == before
    assert len(world.target.told) == 1
    assert world.target.told[0].startswith("ScalingConflict: Somebody set 33 replicas")
    assert world.metric("conflict", kind="Edited") == 1
    world.target.count = before[-1]
    world.look()
    assert world.metric("conflict", kind="Edited") == 0


def test_two_without_an_election_do_not_pull_in_turn() -> None:
    busy = World(loaded(100))
    fed = Fed(ready=2)
    idle = World([fed.next(20) for _ in range(100)], busy.target)
    for _ in range(100):
        busy.look()
        idle.look()
    counts = busy.target.was_set
    assert max(counts) > 2
    assert counts == sorted(counts)
    assert idle.metric("conflict", kind="Edited") == 1


def test_another_scaler_of_the_target_is_left_to_it() -> None:
    world = World(loaded())
    world.target.rivals = ("the HorizontalPodAutoscaler 'cpu'",)
    world.look(40)
    assert world.target.was_set == []
    assert world.metric("conflict", kind="Rival") == 1
    world.target.rivals = ()
    world.look()
    assert world.target.was_set != []


def test_a_target_that_is_away_is_told_and_looked_at_again() -> None:
    world = World(loaded())
    world.target.broken = "Ray gives no answer."
    assert world.look(3) is None
    assert world.metric("failed") == 1
    world.target.broken = ""
    assert world.look() is not None
    assert world.metric("failed") == 0


def test_a_count_whose_answer_was_lost_is_no_edit() -> None:
    world = World(loaded())
    world.target.lost = True
    while not world.target.was_set:
        world.look()
    world.target.lost = False
    found = world.look()
    assert found is not None
    assert found.conflict is None


def test_it_ends_when_it_is_told_to() -> None:
    world = World(loaded())
    stop = Event()
    stop.set()
    world.controller.run(3600, stop)
    assert world.target.was_set == []


@pytest.fixture
def recorded() -> list[Reading]:
    """Readings of load that comes, misses, and goes."""
    fed, found = Fed(ready=2), []
    arrivals = [50] * 20 + [400] * 20 + [20] * 60
    for number, count in enumerate(arrivals):
        missing = ("Prometheus does not answer",) if number in (25, 26) else ()
        found.append(fed.next(count, missing=missing, waiting=number % 7))
    return found


def test_the_controller_and_rays_policy_decide_alike(recorded: list[Reading]) -> None:
    world = World(list(recorded))
    world.target.ready = 2
    by_controller = []
    for _ in recorded:
        found = world.look()
        assert found is not None
        by_controller.append(found.judgement.decision)
    told: list[Judgement] = []
    given = {"prometheus": "http://unasked", "model": "m", "card": CARD, "lead_s": LEAD_S}
    decider = ReloadingDecider(given, lambda _: Telling(recorded))
    policy = RayCarrier(decider, lambda: Manner(0.0, 60), told.append)
    while len(told) < len(recorded):
        policy(Context(2, 2))
        time.sleep(0.001)
    policy.end()
    by_policy = [one.decision for one in told[: len(recorded)]]
    assert by_policy == by_controller
    terms = {decision.term for decision in by_controller if decision is not None}
    assert {"Rate", "Missing"} < terms
    assert len({json.dumps(one.wanted) for one in by_controller if one is not None}) > 3
