"""Publishers to a directory that are killed: a reader sees the old artifact or the new one.

Where a publisher is killed is counted in calls of the file system, never in time.
"""

import random
import shutil
from pathlib import Path

import pytest

from halftone.spec.artifacts import Artifact
from halftone.spec.targets import Existing
from halftone.stores.directory_target import DirectoryArtifactTarget
from tests.drafts import holds, publish
from tests.publisher import start_publisher


@pytest.fixture
def target(tmp_path: Path) -> DirectoryArtifactTarget:
    (tmp_path / "site").mkdir()
    return DirectoryArtifactTarget(tmp_path / "site" / "model")


def names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


def kept_name(artifact: Artifact) -> str:
    return f"model.{artifact.checkpointDigest[:12]}"


def killed_at(event: int, tmp_path: Path, artifact: Artifact, tree: Path) -> int:
    """Publish in another process, killed at `event`; how many events it saw if it ended itself."""
    tree.with_suffix(".json").write_bytes(artifact.to_bytes())
    process = start_publisher("directory", tree, tmp_path / "site" / "model", str(event))
    out, err = process.communicate()
    assert process.returncode == (-9 if event else 0), err
    return 0 if event else int(out.splitlines()[-1])


def kill_and_resume(
    points: int | None, seed: int, tmp_path: Path, first: Artifact, second: Artifact
) -> None:
    """Replace the first by the second, killed at `points` seeded events (None: at every one)."""
    site = tmp_path / "site"
    target = DirectoryArtifactTarget(site / "model")
    other = tmp_path / "other"
    publish(target, tmp_path / "tree", first)
    events = killed_at(0, tmp_path, second, other)
    assert events > 30
    every = range(1, events + 1)
    chosen = every if points is None else random.Random(seed).sample(every, points)
    for event in chosen:
        publish(target, tmp_path / "tree", first, Existing.Replace)
        for leftover in target.leftovers():
            target.remove(leftover)
        assert names(site) == {"model"}

        killed_at(event, tmp_path, second, other)
        model = site / "model"
        assert holds(model, first) or holds(model, second), event

        assert publish(target, other, second, Existing.Replace) == target.current()
        assert holds(model, second), event
        assert holds(site / kept_name(first), first), event
        assert names(site) == {"model", kept_name(first)}, event


def test_a_replacement_killed_at_three_points_goes_on(
    target: DirectoryArtifactTarget, first: Artifact, second: Artifact, tmp_path: Path
) -> None:
    kill_and_resume(3, 4, tmp_path, first, second)


@pytest.mark.soak
def test_a_replacement_killed_at_every_point_goes_on(
    target: DirectoryArtifactTarget, first: Artifact, second: Artifact, tmp_path: Path
) -> None:
    kill_and_resume(None, 0, tmp_path, first, second)


def test_a_first_publish_killed_at_three_points_shows_nothing_or_all(
    target: DirectoryArtifactTarget, second: Artifact, tmp_path: Path
) -> None:
    site, other = tmp_path / "site", tmp_path / "other"
    events = killed_at(0, tmp_path, second, other)
    for event in random.Random(7).sample(range(1, events + 1), 3):
        shutil.rmtree(site)
        site.mkdir()

        killed_at(event, tmp_path, second, other)
        assert not (site / "model").exists() or holds(site / "model", second)

        publish(target, other, second)
        assert holds(site / "model", second)
        assert names(site) == {"model"}


def test_where_the_kernel_cannot_exchange_a_replacement_is_refused_and_a_first_publish_is_not(
    first: Artifact, second: Artifact, tmp_path: Path
) -> None:
    site = tmp_path / "site"
    said = []
    for tree, artifact in ((tmp_path / "tree", first), (tmp_path / "other", second)):
        tree.with_suffix(".json").write_bytes(artifact.to_bytes())
        process = start_publisher("without-exchange", tree, site / "model")
        out, err = process.communicate()
        assert process.returncode == 0, err
        said.append(out.splitlines()[-1])

    assert said[0].isdecimal()
    assert said[1].startswith("TargetUnsafe The file system of `publish.directory.path`")
    assert holds(site / "model", first)
    assert names(site) == {"model"}
