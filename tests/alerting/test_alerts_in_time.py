"""A replica that stands still, a KV cache that is full, a publish that is refused: who hears when.

We test these aspects:
- while all is well nobody is told of anything;
- each of the three reaches Alertmanager's receiver within the time that docs/runbooks states;
- what is said names the one that it is about, in whole sentences, and leads to a runbook;
- once the fault is mended, the receiver is told that it is over.

By hand, with `make e2e-alerts`, some twelve minutes. What runs, and what stands in for a node, says
`place`. The line of events at the end is for whoever reads along.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime
from random import Random
from typing import Any, Final

import pytest

from tests.alerting.place import (
    FILLED,
    GROUP_INTERVAL_S,
    JOB,
    NAMESPACE,
    OPERATOR,
    STOPPED,
    Place,
    place,
)
from tests.asking_load import Body, Load
from tests.contract.test_chart_alerts import HOME
from tests.planted import WRONG_KEY
from tests.stated_times import RUNBOOKS, known_s, within_s

pytestmark = pytest.mark.serve_env

LABELS: Final = {
    "ReplicaDown": {
        "model_name": STOPPED,
        "namespace": NAMESPACE,
        "replica": f"{STOPPED}-0",
    },
    "KvCacheSaturated": {"model_name": FILLED, "namespace": NAMESPACE},
    "PublishFailing": {
        "condition": "Published",
        "status": "False",
        "reason": "AccessDenied",
        "namespace": OPERATOR,
    },
}
# So many requests that the blocks are in use and others wait, also while this process gets no time
# of a busy machine: fewer were answered within a scrape, and the cache was empty at the next one.
AT_ONCE: Final = 600
_FILLS_WITHIN_S: Final = 120.0


@dataclass
class Fault:
    """When one began and was mended, and what the receiver was told; seconds of the clock."""

    began: float
    mended: float = 0.0
    firing: dict[str, Any] = field(default_factory=dict)
    resolved: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Story:
    """All that happened: alerts that somebody was told of before, and each fault by its alert."""

    before: list[str]
    faults: dict[str, Fault]


class Acts:
    """Does and mends what goes wrong at `here`; each alert has its own three verbs."""

    def __init__(self, here: Place) -> None:
        self._here = here
        self._stopped, self._flood = ExitStack(), ExitStack()
        self.faults: dict[str, Fault] = {}

    def __enter__(self) -> "Acts":
        return self

    def __exit__(self, *error: object) -> None:
        self._flood.close()
        self._stopped.close()  # what stands still could not be ended

    def begin(self) -> None:
        """All three at once."""
        self.faults["ReplicaDown"] = Fault(time.time())
        self._stopped.enter_context(self._here.replicas[STOPPED].halted())
        self._flood.enter_context(Load(self._here.url(FILLED), _flood(), at_once=AT_ONCE))
        publisher = self._here.store.publisher
        text = publisher.credentials_file
        self._here.publishers_key(text.replace(publisher.secret_key, WRONG_KEY))
        self._here.stages.held = None
        _until(self._here.is_filled)
        self.faults["KvCacheSaturated"] = Fault(time.time())
        row = self._here.world.wait_for(JOB, "Published", "False")
        since = datetime.fromisoformat(row["lastTransitionTime"]).timestamp()
        self.faults["PublishFailing"] = Fault(since)

    def mend(self, alert: str) -> None:
        """As a runbook has it, and until it is seen that all is well again."""
        if alert == "ReplicaDown":
            self._stopped.close()
        elif alert == "KvCacheSaturated":
            self._flood.close()
            _until(self._here.is_idle)
        else:
            self._here.publishers_key(self._here.store.publisher.credentials_file)
            self._here.world.retry(JOB, "1")
            self._here.world.wait_for(JOB, "Published", "True")
        self.faults[alert].mended = time.time()


def _flood() -> Iterator[Body]:
    """Answers of all lengths, so that few end at a time."""
    numbers = Random(0)
    while True:
        body = {"model": FILLED, "prompt": list(range(100, 300)), "ignore_eos": True}
        yield {**body, "max_tokens": numbers.randrange(50, 300)}


def _until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _FILLS_WITHIN_S
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.5)


def _ends_within(alert: str) -> float:
    """Seconds from what mended it until the receiver knows."""
    return known_s(alert) + GROUP_INTERVAL_S


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    """The whole of it, which takes as long as the slowest alert."""
    with place(tmp_path_factory.mktemp("alerting")) as here, Acts(here) as acts:
        before = [
            each["labels"]["alertname"] for n in here.webhook.notified for each in n["alerts"]
        ]
        acts.begin()
        # The one that is told of first first: no other one's time is over meanwhile.
        for alert in sorted(acts.faults, key=within_s):
            fault = acts.faults[alert]
            fault.firing = _heard(here, alert, "firing", fault.began + within_s(alert))
            if alert == "PublishFailing":  # there is time to see its end, too
                acts.mend(alert)
        for alert, fault in acts.faults.items():
            if not fault.mended:
                acts.mend(alert)
        for alert, fault in acts.faults.items():
            fault.resolved = _heard(here, alert, "resolved", fault.mended + _ends_within(alert))
        _print(here, acts.faults)
        yield Story(before, acts.faults)


def _heard(here: Place, alert: str, status: str, deadline: float) -> dict[str, Any]:
    """What the receiver was told; nothing if it is not by then."""
    while not (told := here.webhook.told(alert, status)) and time.time() < deadline:
        time.sleep(0.2)
    return told[0] if told else {}


def _print(here: Place, faults: dict[str, Fault]) -> None:
    """A line for each event, in seconds since the first fault."""
    events = [(fault.began, f"{name}: the fault") for name, fault in faults.items()]
    events += [(fault.mended, f"{name}: mended") for name, fault in faults.items()]
    for notification in here.webhook.notified:
        for each in notification["alerts"]:
            name = each["labels"]["alertname"]
            stated = f", at most {within_s(name):.0f} s after its fault" if name in faults else ""
            told = f"told: {name} {each['status']}"
            events.append((each["receivedAt"], told + stated * (each["status"] == "firing")))
    first = min(at for at, _ in events)
    print()
    for at, what in sorted(events):
        print(f"{at - first:7.1f} s  {what}")


def test_while_all_is_well_nobody_is_told_of_anything(story: Story) -> None:
    assert story.before == []


@pytest.mark.parametrize("alert", sorted(LABELS))
def test_each_fault_is_told_of_within_the_stated_time(story: Story, alert: str) -> None:
    fault = story.faults[alert]
    assert fault.firing, "nobody was told in time"
    assert 0 < fault.firing["receivedAt"] - fault.began <= within_s(alert)


@pytest.mark.parametrize("alert", sorted(LABELS))
def test_what_is_told_says_of_whom_and_what_to_do(story: Story, alert: str) -> None:
    told = story.faults[alert].firing
    assert told["labels"] == {"alertname": alert, "severity": "warning", **LABELS[alert]}
    said = told["annotations"]
    assert said["runbook_url"] == HOME + alert
    assert (RUNBOOKS / f"{alert}.md").is_file()
    for text in (said["summary"], said["description"]):
        assert "<no value>" not in text
        assert "{{" not in text
        assert text.endswith(".")
    (named,) = {"model_name", "reason"} & LABELS[alert].keys()
    assert LABELS[alert][named] in said["summary"]


@pytest.mark.parametrize("alert", sorted(LABELS))
def test_the_end_of_each_fault_is_told_of(story: Story, alert: str) -> None:
    fault = story.faults[alert]
    assert fault.resolved, "nobody was told that it is over"
    assert fault.resolved["labels"] == fault.firing["labels"]
    assert fault.resolved["receivedAt"] > fault.mended
