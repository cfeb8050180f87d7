"""The law with arguments that change while it runs.

We test these aspects:
- what was learnt is kept when an argument changes: leads, what arrived, what replicas said, and
  whom the reader has seen
- arguments that cannot be used leave those before in place, and the reason and a mark say so
- another card behind the same path is taken
- the bound that is told is that of the arguments that count, and Ray is told it too
- what was decided while nobody carried it out is not carried out afterwards
"""

import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from halftone.scaling.acting.arguments import LONGEST_INTERVAL_S, Arguments
from halftone.scaling.acting.deciding import Judgement
from halftone.scaling.acting.ray_carrier import RayCarrier
from halftone.scaling.acting.ray_metrics import TOLD
from halftone.scaling.acting.reloading import ReloadingDecider
from halftone.scaling.acting.telling import tell_judgement
from halftone.scaling.capacity_fields import Stated
from halftone.scaling.demand import _GAP_S
from halftone.scaling.inputs.counts import ReplicaCounts
from halftone.scaling.policy import Term
from halftone.scaling.reading import Reading
from halftone.telemetry.scaling import ScalingMetrics, Set
from tests.acting_cases import CARD, Context, Telling
from tests.fed_endpoints import CAPACITY, Fed

COUNTS = ReplicaCounts(2)


class World:
    """A policy's file, what it decides by it, and every reader that was made for it."""

    def __init__(self, folder: Path, said: Stated | None = None, **arguments: Any) -> None:
        self.fed = Fed(ready=2)
        self.readers: list[Telling] = []
        self.file = folder / "policy.json"
        self.said = said
        self.arguments: dict[str, Any] = {}
        self.change(**arguments)
        given = {"prometheus": "http://unasked", "model": "m", "file": str(self.file)}
        self.decider = ReloadingDecider(given, self._reader)

    def change(self, **arguments: Any) -> None:
        """Another file."""
        self.arguments |= arguments
        self.file.write_text(json.dumps(self.arguments))

    def _reader(self, _: Arguments) -> Telling:
        self.readers.append(Telling((), self.said))
        return self.readers[-1]

    def look(self, arrivals: float, times: int = 1) -> Any:
        """The last judgement of some looks."""
        for _ in range(times):
            reading = self.fed.next(arrivals)
            for reader in self.readers:
                reader.feed([reading])
            judgement = self.decider.decide(COUNTS)
        return judgement


@pytest.fixture
def world(tmp_path: Path) -> World:
    """One that looked at four replicas' work for some minutes."""
    made = World(tmp_path, card=CARD, lead_s=100)
    made.decider.decide(COUNTS)
    made.look(120, times=30)
    return made


def test_what_arrived_is_remembered_over_a_change(world: World) -> None:
    before = world.look(120)
    world.change(settings={"theta": 0.45}, interval_s=7)
    after = world.look(120)
    assert before.decision.term is Term.Rate
    # Without a memory the first look after it would hold.
    assert after.decision.term is Term.Rate
    assert after.decision.wanted >= 2 * before.decision.wanted - 1
    assert len(world.decider.learned.memory.needs) == 32  # type: ignore[union-attr]
    assert world.decider.manner.interval_s == 7
    assert len(world.readers) == 1  # which knows whom it has seen
    world.change(selector={"namespace": "n"})
    world.look(120)
    assert len(world.readers) == 2


def test_measured_leads_outlive_a_change(world: World) -> None:
    seconds = 0.0
    for ready in range(2, 8):
        world.decider.observe(seconds, ReplicaCounts(ready, 1))
        seconds += 30
        world.decider.observe(seconds, ReplicaCounts(ready + 1))
    assert world.look(120).lead_s == 30
    world.change(lead_s=200)
    assert world.look(120).lead_s == 30


def test_what_replicas_said_outlives_a_change(tmp_path: Path) -> None:
    world = World(tmp_path, Stated(CAPACITY, 120.0))
    world.decider.decide(COUNTS)
    world.look(120, times=30)
    for reader in world.readers:
        reader.said = None
    world.change(settings={"theta": 0.8})
    assert world.look(120).decision.term is Term.Rate


def test_arguments_that_cannot_be_used_leave_those_before(world: World) -> None:
    well = world.look(120)
    world.change(lead_s="soon")
    judgement = world.look(120)
    assert (judgement.lead_s, judgement.decision.wanted) == (100, well.decision.wanted)
    assert "those before stand: ValueError" in judgement.reason
    assert judgement.refused
    world.change(lead_s=100)
    assert not world.look(120).refused


@pytest.mark.parametrize("value", ["0", "-8000", "inf", "nan"])
def test_a_card_of_no_replica_is_refused(world: World, value: str) -> None:
    well = world.look(120)
    rate = {"value": value, "standardError": "1"}
    world.change(card={**CARD, "prefillTokensPerSecond": rate})
    judgement = world.look(120)
    assert "a capacity must be of finite numbers" in judgement.refused
    assert judgement.decision.wanted == well.decision.wanted


def test_another_card_behind_the_same_path_is_taken(tmp_path: Path) -> None:
    card = tmp_path / "card.json"
    card.write_text(json.dumps(CARD))
    world = World(tmp_path, card=str(card))
    assert world.decider.decide(COUNTS).lead_s == 120
    card.write_text(json.dumps({**CARD, "warmUpSeconds": "44"}))
    assert world.decider.decide(COUNTS).lead_s == 44


def test_the_bound_that_is_told_is_that_of_the_arguments_that_count(tmp_path: Path) -> None:
    world = World(tmp_path, card=CARD, settings={"max_replicas": 5})
    assert world.decider.decide(COUNTS).most == 5
    world.change(settings={"max_replicas": 7})
    assert world.look(120).most == 7
    world.change(settings={"max_replicas": "many"})
    judgement = world.look(120)
    assert judgement.refused
    assert judgement.most == 7


def test_nobody_knows_a_bound_before_there_are_arguments() -> None:
    assert ReloadingDecider({"model": "m"}).decide(COUNTS).most is None


def test_ray_is_told_what_both_carriers_know() -> None:
    gauges: dict[str, float] = {}

    def make(name: str, *_: object) -> Set:
        return lambda value, by: gauges.update({f"{name} {sorted(by)}": value})

    metrics = ScalingMetrics("m", [str(term) for term in Term], make, TOLD)
    tell_judgement(metrics, Judgement(COUNTS, None, "why", 90.0, most=6))
    assert gauges["halftone_scaling_max_replicas ['model']"] == 6
    assert gauges["halftone_scaling_lead_seconds ['model']"] == 90
    gauges.clear()
    tell_judgement(metrics, Judgement(COUNTS, None, "why", 90.0))
    assert "halftone_scaling_max_replicas ['model']" not in gauges


class Slow(Telling):
    """A reader that takes its time once it is told to."""

    def __init__(self, fed: Fed, waits: threading.Event) -> None:
        super().__init__(())
        self.fed, self.waits = fed, waits

    def read(self, counts: ReplicaCounts) -> Reading:
        """Two replicas' work."""
        if self.waits.is_set():
            time.sleep(0.2)
        return self.fed.next(60)


def test_what_was_only_observed_is_never_carried_out(tmp_path: Path) -> None:
    file, fed, waits = tmp_path / "policy.json", Fed(ready=3), threading.Event()
    beside = {"prometheus": "http://unasked", "model": "m", "file": str(file)}
    settings = {"theta": 0.1, "max_replicas": 50}
    looked = {"card": CARD, "lead_s": 60, "interval_s": 0.005, "settings": settings}
    file.write_text(json.dumps({**looked, "observe_only": True}))
    decider = ReloadingDecider(beside, lambda _: Slow(fed, waits))
    policy = RayCarrier(decider, lambda: decider.manner, decider.tell)
    state: dict[str, Any] = {}
    while state.get("wanted", 0) <= 5:
        wanted, state = policy(Context(3, 3))
        assert wanted == 3
    assert state["held"] == "observeOnly"
    waits.set()
    new = file.with_suffix(".new")
    new.write_text(json.dumps({**looked, "settings": {**settings, "theta": 0.9}}))
    new.rename(file)
    while state.get("held") == "observeOnly":
        wanted, state = policy(Context(3, 3))
        assert wanted == 3
    policy.end()


def test_the_longest_interval_is_no_gap() -> None:
    assert 3 * LONGEST_INTERVAL_S <= _GAP_S
