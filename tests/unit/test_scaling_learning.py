"""The law where nobody gave a card: replicas say what they can do, through Prometheus.

We test these aspects:
- until one says it the count holds, and the reason names what is missing and the way out
- once it is known the law decides as with a card that was given
- what was found is kept, and looked at again every ten minutes
- a given lead wins over the card's warm-up, and leads are measured before anything is known
- whatever the reader raises holds the count
- Ray's policy without a card reads it from Prometheus; one that is given wins
"""

import logging
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qs

import pytest

from halftone.scaling.acting.deciding import Decider, Judgement
from halftone.scaling.acting.learning import AGAIN_S, LearningDecider
from halftone.scaling.capacity_fields import Stated
from halftone.scaling.follower import Follower
from halftone.scaling.inputs import queries
from halftone.scaling.inputs.counts import ReplicaCounts
from halftone.scaling.inputs.parsing import UnusableAnswer
from halftone.scaling.policy import Settings
from halftone.scaling.ray_policy import KVPressurePolicy
from halftone.scaling.reading import Reading
from tests.acting_cases import CARD, Context, Recorded, Telling
from tests.doubles.exporters import AnsweringServer
from tests.fed_endpoints import CAPACITY, Fed
from tests.input_samples import SAID, capacity_gauges, vector_of

LEAD_S = 120.0
SETTINGS = Settings(lead_s=300.0)
TOLD = Stated(CAPACITY, LEAD_S)
COUNTS = ReplicaCounts(2)


class Clock:
    """Seconds that pass when a test says so."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def loaded(looks: int = 40) -> list[Reading | Exception]:
    """Readings of four replicas' work, on two."""
    fed = Fed(ready=2)
    return [fed.next(200) for _ in range(looks)]


def learning(
    said: Stated | Exception | None, lead_s: float | None = None
) -> tuple[LearningDecider, Telling, Clock]:
    """One that reads forty readings of load."""
    reader, clock = Telling(loaded(), said), Clock()
    return LearningDecider(reader, SETTINGS, lead_s, 5.0, clock), reader, clock


def test_until_a_replica_says_it_the_count_holds_and_the_way_out_is_told() -> None:
    decider, reader, _ = learning(None)
    judgement = decider.decide(COUNTS)
    assert judgement.is_held
    assert judgement.wanted is None
    for part in ("`halftone_endpoint_capacity`", "`halftone bench`", "`autoscaling.capacity`"):
        assert part in judgement.reason
    assert judgement.lead_s == 300
    assert reader.asked == []


def test_once_it_is_known_the_law_decides_as_with_a_card() -> None:
    decider, reader, _ = learning(None)
    for _ in range(3):
        decider.decide(COUNTS)
    assert reader.times == 3
    reader.said = TOLD
    learned = [decider.decide(COUNTS) for _ in range(40)]
    given = Decider(
        Recorded(loaded()), Follower(CAPACITY, replace(SETTINGS, lead_s=LEAD_S), 5.0), LEAD_S
    )
    assert learned == [given.decide(COUNTS) for _ in range(40)]
    assert learned[-1].wanted is not None
    assert learned[-1].wanted > 2


def test_what_was_found_is_kept_and_looked_at_again_every_ten_minutes() -> None:
    decider, reader, clock = learning(TOLD)
    wanted = [decider.decide(COUNTS) for _ in range(40)][-1].wanted
    assert wanted is not None
    assert reader.times == 1
    for nothing in (None, UnusableAnswer("away")):
        reader.said = nothing
        clock.now += AGAIN_S
        assert decider.decide(COUNTS).wanted == wanted
    assert reader.times == 3
    reader.said = TOLD._replace(capacity=CAPACITY.faster(0.25))
    decider.decide(COUNTS)
    assert reader.times == 3
    clock.now += AGAIN_S
    fed = Fed(ready=2, time_s=600.0)
    reader.feed([fed.next(200) for _ in range(40)])
    slower = [decider.decide(COUNTS) for _ in range(40)][-1].wanted
    assert slower is not None
    assert slower > wanted


def test_a_given_lead_wins_and_leads_are_measured_from_the_beginning() -> None:
    assert learning(TOLD)[0].decide(COUNTS).lead_s == LEAD_S
    assert learning(TOLD, lead_s=77.0)[0].decide(COUNTS).lead_s == 77
    decider, reader, _ = learning(None)
    decider.observe(0.0, ReplicaCounts(0, 0))
    decider.observe(1.0, ReplicaCounts(0, 3))
    decider.observe(501.0, ReplicaCounts(3, 0))
    reader.said = TOLD
    assert decider.decide(COUNTS).lead_s == 500


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (UnusableAnswer("Prometheus at http://p does not answer: timed out"), "p does not answer"),
        (RuntimeError("a bug"), "RuntimeError: a bug"),
    ],
)
def test_whatever_the_reader_raises_holds_the_count(error: Exception, said: str) -> None:
    judgement = learning(error)[0].decide(COUNTS)
    assert judgement.is_held
    assert said in judgement.reason


def test_objectives_that_no_count_meets_are_warned_of_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    decider, _, clock = learning(TOLD)
    with caplog.at_level(logging.WARNING):
        decider.decide(COUNTS)
        clock.now += AGAIN_S
        decider.decide(COUNTS)
    assert [record.message[:30] for record in caplog.records] == ["A step with a whole token budg"]


@pytest.fixture
def prometheus() -> Iterator[tuple[str, list[str]]]:
    """One that knows what a replica of `qwen` can do, and nothing else; and what it was asked."""
    asked: list[str] = []

    def answer(body: bytes) -> tuple[int, bytes]:
        (query,) = parse_qs(body.decode())["query"]
        asked.append(query)
        known = query == queries.capacity("qwen", {})
        return 200, vector_of(capacity_gauges(SAID) if known else [])

    server = AnsweringServer(answer)
    server.start()
    yield server.origin, asked
    server.stop()


def held(prometheus: str, model: str, **more: Any) -> str:
    """Why Ray's policy holds the count, once it has looked."""
    policy = KVPressurePolicy(prometheus=prometheus, model=model, interval_s=0.01, **more)
    said = "not answered yet"
    while "not answered yet" in said:
        wanted, state = policy(Context(3, 3))
        assert wanted == 3
        said = state["held"]
        time.sleep(0.002)
    return said


def test_rays_policy_without_a_card_reads_what_replicas_say(
    prometheus: tuple[str, list[str]],
) -> None:
    url, asked = prometheus
    # It knows what a replica can do, so what it lacks is the load.
    assert "has no series of" in held(url, "qwen")
    assert asked[0] == queries.capacity("qwen", {})
    assert "until it is known what a replica can do" in held(url, "gemma")


def test_a_card_that_is_given_wins(prometheus: tuple[str, list[str]]) -> None:
    url, asked = prometheus
    assert "has no series of" in held(url, "qwen", card=CARD)
    assert queries.capacity("qwen", {}) not in asked


def test_a_judgement_that_waits_is_one_that_holds() -> None:
    judgement = learning(None)[0].decide(COUNTS)
    assert judgement == Judgement(COUNTS, None, judgement.reason, 300, most=64)
