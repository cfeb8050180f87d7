"""Publishers to the Hub that race, and some that are killed: a reader sees the old or the new.

Where a publisher is killed is counted in requests and bytes at the double, never in time.
"""

import random
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from halftone.spec.artifacts import Artifact
from halftone.spec.names import Reason
from halftone.spec.targets import Existing
from halftone.stores.hub_target import HubArtifactTarget
from tests.doubles.hub_server import Place, Seen
from tests.doubles.hub_writing import HubWritingDouble
from tests.drafts import publish, refused, shows, tag_of
from tests.publisher import start_publisher

NAME = "org/name"


@pytest.fixture
def target(hub: HubWritingDouble) -> HubArtifactTarget:
    return HubArtifactTarget(NAME, waits=(0.0, 0.0, 0.0))


@pytest.mark.parametrize("existing", list(Existing))
def test_of_two_publishers_the_later_judges_again(
    existing: Existing,
    hub: HubWritingDouble,
    target: HubArtifactTarget,
    tree: Path,
    first: Artifact,
    second: Artifact,
    tmp_path: Path,
) -> None:
    rival = HubArtifactTarget(NAME, waits=())
    raced: list[Artifact] = []

    def race(request: Seen) -> None:
        if request.place is Place.Card and not raced:  # all files are up, the commit comes next
            hub.arrived = lambda _: None
            raced.append(publish(rival, tmp_path / "other", second))

    hub.arrived = race
    if existing is Existing.Refuse:
        assert refused(target, tree, first).reason is Reason.TargetOccupied
        assert shows(hub, second, tmp_path)
    else:
        publish(target, tree, first, existing)
        assert shows(hub, first, tmp_path)
        assert shows(hub, second, tmp_path, tag_of(second))
    assert raced


def test_of_two_publishers_of_the_same_both_end_with_one_commit(
    hub: HubWritingDouble, target: HubArtifactTarget, tree: Path, first: Artifact, tmp_path: Path
) -> None:
    rival = HubArtifactTarget(NAME, waits=())
    raced: list[Artifact] = []

    def race(request: Seen) -> None:
        if request.place is Place.Card and not raced:
            hub.arrived = lambda _: None
            raced.append(publish(rival, tree, first))

    hub.arrived = race
    assert [publish(target, tree, first)] == raced
    assert len(hub.repositories[NAME].commits) == 2
    assert shows(hub, first, tmp_path)


class Killer:
    """Kills a publisher once so many requests, or so many bytes of bodies, have arrived."""

    def __init__(self, hub: HubWritingDouble, tree: Path, artifact: Artifact) -> None:
        self.hub = hub
        self.tree = tree
        self.requests = self.bytes = 0
        self.lock = threading.Lock()
        tree.with_suffix(".json").write_bytes(artifact.to_bytes())

    def run(
        self,
        requests: int | None = None,
        received: int | None = None,
        at: Callable[[Seen], bool] = lambda _: False,
    ) -> int:
        """Publish in another process, killed at a point if one is given; its return code."""
        self.requests = self.bytes = 0
        process = start_publisher("hub", self.tree, NAME)

        def count(more_requests: int, more_bytes: int) -> None:
            with self.lock:
                self.requests += more_requests
                self.bytes += more_bytes
                if requests == self.requests or (received is not None and self.bytes > received):
                    process.kill()

        def arrived(request: Seen) -> None:
            count(1, 0)
            if at(request):
                process.kill()

        self.hub.arrived = arrived
        self.hub.received = lambda nbytes: count(0, nbytes)
        _, err = process.communicate()
        self.hub.arrived, self.hub.received = lambda _: None, lambda _: None
        assert process.returncode in (0, -9), err
        return process.returncode


def kill_and_resume(
    points: int,
    hub: HubWritingDouble,
    target: HubArtifactTarget,
    first: Artifact,
    second: Artifact,
    tmp_path: Path,
) -> None:
    """Replace the first by the second, killed at seeded requests and bytes, then resumed."""
    publish(target, tmp_path / "tree", first)
    before = list(hub.repositories[NAME].commits)
    killer = Killer(hub, tmp_path / "other", second)
    assert killer.run() == 0
    requests, nbytes = killer.requests, killer.bytes
    assert requests > 30
    numbers = random.Random(11)
    kills = [(numbers.randrange(1, requests - 1), None) for _ in range(points - points // 3)]
    kills += [(None, numbers.randrange(nbytes)) for _ in range(points // 3)]  # type: ignore[misc]
    for kill in kills:
        repository = hub.repositories[NAME]
        repository.commits[:], repository.tags = list(before), {tag_of(first): before[-1][0]}
        repository.large = {
            file.sha256: file.content for _, files in before for file in files.values()
        }

        assert killer.run(*kill) == -9, kill
        assert shows(hub, first, tmp_path) or shows(hub, second, tmp_path), kill
        waiting = set(repository.large)
        hub.requests.clear()

        publish(target, tmp_path / "other", second, Existing.Replace)

        assert shows(hub, second, tmp_path), kill
        assert shows(hub, first, tmp_path, tag_of(first)), kill
        assert len(repository.commits) == len(before) + 1, kill
        assert set(repository.tags) == {tag_of(first), tag_of(second)}, kill
        again = {request.path.split("/")[3] for request in hub.seen(Place.Storage)}
        assert not waiting & again, kill  # what had come is not sent again


def test_a_publish_killed_at_three_points_goes_on(
    hub: HubWritingDouble,
    target: HubArtifactTarget,
    first: Artifact,
    second: Artifact,
    tmp_path: Path,
) -> None:
    kill_and_resume(3, hub, target, first, second, tmp_path)


def test_a_publish_killed_between_commit_and_tag_only_lacks_its_tag(
    hub: HubWritingDouble, target: HubArtifactTarget, first: Artifact, tree: Path, tmp_path: Path
) -> None:
    killer = Killer(hub, tree, first)
    killed = killer.run(at=lambda request: request.place is Place.Refs)
    assert (killed, hub.repositories[NAME].tags) == (-9, {})
    assert shows(hub, first, tmp_path)
    hub.requests.clear()

    published = publish(target, tree, first)

    assert hub.repositories[NAME].tags == {tag_of(first): published.revision}
    assert {request.place for request in hub.requests if request.method == "POST"} == {Place.Tag}


@pytest.mark.soak
def test_a_publish_killed_at_twenty_points_goes_on(
    hub: HubWritingDouble,
    target: HubArtifactTarget,
    first: Artifact,
    second: Artifact,
    tmp_path: Path,
) -> None:
    kill_and_resume(20, hub, target, first, second, tmp_path)
