"""Files that somebody else put into a repository of the Hub beside the artifact."""

from pathlib import Path

from halftone.spec.artifacts import Artifact
from halftone.spec.names import Reason
from halftone.spec.targets import Existing
from halftone.stores.hub_target import HubArtifactTarget
from tests.doubles.hub_writing import HubWritingDouble
from tests.drafts import publish, refused, shows

NAME = "org/name"


def test_a_file_that_would_spoil_the_next_artifact_is_named(
    hub: HubWritingDouble, tree: Path, first: Artifact, second: Artifact, tmp_path: Path
) -> None:
    target = HubArtifactTarget(NAME, waits=())
    publish(target, tree, first)
    repository = hub.repositories[NAME]
    repository.put("logo.png", b"a picture")

    error = refused(target, tmp_path / "other", second, Existing.Replace)

    assert error.reason is Reason.TargetOccupied
    assert "holds 'logo.png', which is no file of its artifact" in str(error)
    assert len(repository.commits) == 3
    assert publish(target, tree, first).checkpointDigest == first.checkpointDigest


def test_capacity_cards_and_what_is_replaced_are_no_strangers(
    hub: HubWritingDouble, tree: Path, first: Artifact, second: Artifact, tmp_path: Path
) -> None:
    target = HubArtifactTarget(NAME, waits=())
    publish(target, tree, first)
    hub.repositories[NAME].put("capacity/card.json", b"{}")
    hub.repositories[NAME].put("evidence/task.json", b"{}")

    publish(target, tmp_path / "other", second, Existing.Replace)

    assert shows(hub, second, tmp_path)
