"""The law with arguments that change while it runs.

We test these aspects:
- what was learnt, leads and what arrived, is kept when an argument changes
- arguments that cannot be used leave those before in place, and every reason says so
- the same arguments are no change, another card behind the same path is one
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from halftone.scaling.acting.arranged import Arranged
from halftone.scaling.inputs.counts import ReplicaCounts
from tests.acting_cases import CARD
from tests.servers.ports import free_port

COUNTS = ReplicaCounts(2, 0, 0, frozenset({"a", "b"}))


class Said:
    """A source whose answer a test changes."""

    def __init__(self, **arguments: Any) -> None:
        unheard = f"http://127.0.0.1:{free_port()}"
        self.arguments: Mapping[str, Any] = {"prometheus": unheard, "model": "m", "card": CARD}
        self.change(**arguments)

    def change(self, **arguments: Any) -> None:
        self.arguments = {**self.arguments, **arguments}

    def __call__(self) -> Mapping[str, Any]:
        return self.arguments


def test_measured_leads_outlive_a_change() -> None:
    said = Said(lead_s=100)
    arranged = Arranged(said)
    assert arranged.decide(COUNTS).lead_s == 100
    seconds = 0.0
    for ready in range(2, 8):
        arranged.observe(seconds, ReplicaCounts(ready, 1, 0, frozenset()))
        seconds += 30
        arranged.observe(seconds, ReplicaCounts(ready + 1, 0, 0, frozenset()))
    assert arranged.decide(COUNTS).lead_s == 30
    said.change(settings={"theta": 0.5}, lead_s=200, interval_s=7, observe_only=True)
    assert arranged.decide(COUNTS).lead_s == 30
    assert (arranged.manner.interval_s, arranged.manner.observe_only) == (7, True)


def test_arguments_that_cannot_be_used_leave_those_before() -> None:
    said = Said(lead_s=100)
    arranged = Arranged(said)
    well = arranged.decide(COUNTS)
    said.change(lead_s="soon")
    judgement = arranged.decide(COUNTS)
    assert judgement.lead_s == 100
    assert judgement.reason.startswith(well.reason[:40])
    assert "those before stand: ValueError" in judgement.reason
    said.change(lead_s=100)
    assert "stand" not in arranged.decide(COUNTS).reason


def test_another_card_behind_the_same_path_is_taken(tmp_path: Path) -> None:
    card = tmp_path / "card.json"
    card.write_text(json.dumps(CARD))
    arranged = Arranged(Said(card=str(card)))
    assert arranged.decide(COUNTS).lead_s == 120
    card.write_text(json.dumps({**CARD, "warmUpSeconds": "44"}))
    assert arranged.decide(COUNTS).lead_s == 44
