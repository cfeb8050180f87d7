"""What a Hub that fails does to a publish: it is waited out, or told, and never half visible.

The real huggingface_hub talks to a double that answers wrongly, slowly, late or not at all.
"""

from pathlib import Path

import pytest

from halftone.spec.artifacts import Artifact
from halftone.spec.errors import RefusedInput
from halftone.spec.names import Reason
from halftone.stores.hub_target import HubArtifactTarget
from tests.doubles.hub_server import Fault, Place
from tests.doubles.hub_writing import HubWritingDouble
from tests.drafts import TOKEN, is_untouched, publish, put, refused, shows, tag_of, write_tree

NAME = "org/name"


@pytest.fixture
def target(hub: HubWritingDouble) -> HubArtifactTarget:
    return HubArtifactTarget(NAME, waits=(0.0, 0.0, 0.0))


BURSTS = [
    (Place.Description, Fault.Unavailable, 3),
    (Place.Create, Fault.Broken, 2),
    (Place.Preupload, Fault.Unavailable, 1),
    (Place.Batch, Fault.Broken, 1),
    (Place.Storage, Fault.Unavailable, 2),
    (Place.Storage, Fault.Reset, 2),
    (Place.Storage, Fault.Slow, 4),
    (Place.Storage, Fault.Lost, 1),
    (Place.Storage, Fault.Expired, 2),
    (Place.Complete, Fault.Broken, 1),
    (Place.Verify, Fault.Unavailable, 1),
    (Place.Card, Fault.Unavailable, 1),
    (Place.Commit, Fault.Unavailable, 3),
    (Place.Commit, Fault.Reset, 2),
    (Place.Commit, Fault.Moved, 2),
    (Place.Commit, Fault.Lost, 1),
    (Place.Tag, Fault.Broken, 2),
    (Place.Tag, Fault.Lost, 1),
    (Place.Refs, Fault.Reset, 1),
]


@pytest.mark.parametrize(("place", "fault", "times"), BURSTS)
def test_a_burst_of_faults_is_waited_out(
    place: Place,
    fault: Fault,
    times: int,
    hub: HubWritingDouble,
    target: HubArtifactTarget,
    tree: Path,
    first: Artifact,
    tmp_path: Path,
) -> None:
    hub.fail(place, fault, times)

    published = publish(target, tree, first)

    assert hub.next_fault(place) is None
    assert shows(hub, first, tmp_path)
    assert len(hub.repositories[NAME].commits) == 2
    assert published.revision == hub.repositories[NAME].head
    assert hub.repositories[NAME].tags == {tag_of(first): published.revision}


def test_a_file_that_arrives_broken_is_sent_again(
    hub: HubWritingDouble, target: HubArtifactTarget, tmp_path: Path
) -> None:
    tree = tmp_path / "tree"
    artifact = write_tree(tree, shard_bytes=50_000)  # each in one part
    hub.fail(Place.Storage, Fault.OtherBytes)

    publish(target, tree, artifact)

    assert shows(hub, artifact, tmp_path)
    assert len(hub.seen(Place.Storage)) == 4


@pytest.mark.parametrize(
    ("place", "fault", "reason", "words"),
    [
        (Place.Create, Fault.Forbidden, Reason.AccessDenied, "set HF_TOKEN to a token that may"),
        (Place.Preupload, Fault.Unauthorized, Reason.AccessDenied, "set HF_TOKEN to a token"),
        (Place.Batch, Fault.Quota, Reason.QuotaExceeded, "storage limit reached"),
        (Place.Batch, Fault.TooLarge, Reason.QuotaExceeded, "Payload Too Large"),
        (Place.Storage, Fault.Expired, Reason.AccessDenied, "Request has expired"),
        (Place.Commit, Fault.Quota, Reason.QuotaExceeded, "get more storage"),
        (Place.Commit, Fault.Unauthorized, Reason.AccessDenied, "set HF_TOKEN to a token"),
        (Place.Commit, Fault.Moved, Reason.StoreUnavailable, "something else was committed each"),
        (Place.Commit, Fault.Broken, Reason.StoreUnavailable, "answered 500"),
        (Place.Commit, Fault.Reset, Reason.StoreUnavailable, "did not answer"),
        (Place.Description, Fault.Garbage, Reason.StoreUnavailable, "check HF_ENDPOINT and any"),
        (Place.Batch, Fault.Garbage, Reason.StoreUnavailable, "check HF_ENDPOINT and any proxy"),
    ],
)
def test_a_fault_that_stays_is_told_and_nothing_is_visible(
    place: Place,
    fault: Fault,
    reason: Reason,
    words: str,
    hub: HubWritingDouble,
    target: HubArtifactTarget,
    tree: Path,
    first: Artifact,
    tmp_path: Path,
) -> None:
    hub.fail(place, fault, times=99)

    error = refused(target, tree, first)

    assert error.reason is reason
    assert words in str(error)
    assert str(error).endswith(".")
    assert "signature" not in str(error)
    assert is_untouched(hub)

    while hub.next_fault(place):
        pass
    publish(target, tree, first)
    assert shows(hub, first, tmp_path)


def test_a_hub_that_is_not_there_is_a_fault_of_the_environment(
    tree: Path, first: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with HubWritingDouble(TOKEN) as gone:
        monkeypatch.setenv("HF_ENDPOINT", gone.endpoint)

    error = refused(HubArtifactTarget(NAME, waits=(0.0,)), tree, first)

    assert error.reason is Reason.StoreUnavailable
    assert "check the network and HF_ENDPOINT" in str(error)


@pytest.mark.parametrize("fault", [None, Fault.Moved, Fault.Lost, Fault.Unavailable])
def test_cards_come_in_one_commit_and_only_once(
    fault: Fault | None,
    hub: HubWritingDouble,
    target: HubArtifactTarget,
    tree: Path,
    first: Artifact,
) -> None:
    cards = {"capacity/cpu.json": b"{}", "capacity/cpu.json.sig": b"signature"}
    for path, content in cards.items():
        put(tree / path, content)
    with pytest.raises(RefusedInput, match="publish it first"):
        target.add_cards(tree, list(cards))
    publish(target, tree, first)
    before = hub.repositories[NAME].files()
    if fault is not None:
        hub.fail(Place.Commit, fault)

    for _ in range(2):
        target.add_cards(tree, list(cards))
        assert hub.repositories[NAME].files() == before | cards
        assert len(hub.repositories[NAME].commits) == 3

    put(tree / "capacity/cpu.json", b'{"of": "another run"}')
    target.add_cards(tree, list(cards))
    assert hub.repositories[NAME].files()["capacity/cpu.json"] == b'{"of": "another run"}'
