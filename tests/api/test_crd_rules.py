"""Every CEL rule of the CRD on the real API server: it accepts, and it refuses in its own words.

We test these aspects:
- each rule has a row of objects; a rule without one fails;
- what a rule must let pass is accepted, and what it must stop is refused with its message alone,
  at its place: no other rule hides it;
- a rule about new objects is a refusal of the model too, but for those of the work volume, which
  a laptop has no use for;
- blocks that may not change may neither change, come nor go; all other fields may change.
"""

import pytest

from tests.api.crd_asking import Said, create, model_refusal, store, update
from tests.api.crd_objects import REMOVED, WHOLE, Object, with_edits
from tests.api.crd_rules import BASES, ROWS, Row
from tests.cluster.client import Client
from tests.crd_schema import crd_schema, rules

RULES = {(rule.path, rule.message): rule for rule in rules(crd_schema())}
# In a cluster stages hand their work on; a laptop keeps it in its work directory.
ONLY_IN_A_CLUSTER = ("`workVolume` must be set unless", "`publish.s3` must be set when")


@pytest.fixture(scope="module")
def place(client: Client) -> str:
    """One namespace for all of them."""
    return client.namespace("crd-rules")


@pytest.fixture(scope="module")
def stored(client: Client, place: str) -> dict[str, Object]:
    """The objects that updates are tried on."""
    return {name: store(client, place, name, job) for name, job in BASES.items()}


def ask(client: Client, place: str, stored: dict[str, Object], row: Row, job: Object) -> Said:
    """What the server says to `job`: as an update for rules of transitions, else as new."""
    if RULES[row.path, row.message].is_transition:
        return update(client, stored[row.base], job)
    return create(client, place, job)


def test_every_rule_has_a_row_and_every_row_a_rule() -> None:
    assert {(row.path, row.message) for row in ROWS} == RULES.keys()
    assert all(row.passes and row.stops for row in ROWS)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.path} {row.message}"[:60])
def test_a_rule_accepts_and_refuses(
    client: Client, place: str, stored: dict[str, Object], row: Row
) -> None:
    is_transition = RULES[row.path, row.message].is_transition
    alike = not is_transition and not row.message.startswith(ONLY_IN_A_CLUSTER)
    for edits in row.passes:
        job = with_edits(BASES[row.base], edits)
        answer = ask(client, place, stored, row, job)
        assert answer.accepted is not None, (edits, answer.message)
        assert model_refusal(job) is None
    for edits in row.stops:
        job = with_edits(BASES[row.base], edits)
        answer = ask(client, place, stored, row, job)
        assert answer.accepted is None, edits
        assert answer.causes == ((row.path, row.message),), edits
        assert (model_refusal(job) is not None) is alike, edits


def test_what_may_change_can_be_changed(
    client: Client, place: str, stored: dict[str, Object]
) -> None:
    """Everything that is no block of the work itself: it is changed, taken away and put back."""
    changed = {
        "spec.parallelism": 7,
        "spec.suspend": False,
        "spec.activeDeadlineSeconds": 1,
        "spec.ttlSecondsAfterFinished": 0,
        "spec.serviceAccountName": "other",
        "spec.stages": [{"name": "Plan"}],
    }
    without = dict.fromkeys(changed, REMOVED)
    fixed = {rule.path for rule in RULES.values() if rule.rule == "self == oldSelf"}
    assert {f"spec.{name}" for name in WHOLE["claim"]["spec"]} - fixed == changed.keys()
    for edits in (changed, without):
        answer = update(client, stored["claim"], with_edits(WHOLE["claim"], edits))
        assert answer.accepted is not None, answer.message
