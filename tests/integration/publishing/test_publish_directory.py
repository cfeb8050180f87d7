"""Publishing to a directory: a reader sees the old artifact or the new one, whatever happens.

We test these aspects:
- what appears, what stays under its digest, and what is refused
- a full disk, a read-only one
- two publishers at once, and what `gc` may remove

Mounting takes root; where it cannot be done those tests fail and say so.
"""

import fcntl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from safetensors import safe_open

from halftone.spec.artifacts import Artifact
from halftone.spec.errors import CheckFailed, EnvironmentFault, HalftoneError, RefusedInput
from halftone.spec.names import Reason
from halftone.spec.publishing import LeftoverKind
from halftone.spec.targets import Existing
from halftone.stores.directory_target import DirectoryArtifactTarget, refuse_nested
from tests.builders import write_checkpoint
from tests.commands import files_of, fill_disk
from tests.disks import small_disk
from tests.drafts import damage_shard, draft, holds, publish, put


@pytest.fixture
def target(tmp_path: Path) -> DirectoryArtifactTarget:
    (tmp_path / "site").mkdir()
    return DirectoryArtifactTarget(tmp_path / "site" / "model")


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own."""
    with small_disk(tmp_path / "mount", 1_500_000) as directory:
        yield directory


def names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


def kept_name(artifact: Artifact) -> str:
    return f"model.{artifact.checkpointDigest[:12]}"


def test_an_artifact_appears_whole_and_nothing_lies_beside_it(
    target: DirectoryArtifactTarget, tree: Path, first: Artifact, tmp_path: Path
) -> None:
    seen: list[int] = []
    target.refuse_unusable()
    assert names(tmp_path / "site") == set()

    published = target.publish(tree, first, Existing.Refuse, seen.append)

    assert names(tmp_path / "site") == {"model"}
    assert holds(tmp_path / "site" / "model", first)
    assert published == target.current()
    assert (published.uri, published.revision) == (str(tmp_path / "site" / "model"), None)
    assert published.digest == published.compute_digest()
    assert sum(seen) == first.sizeBytes
    assert target.leftovers() == []


def test_the_same_checkpoint_twice_writes_nothing(
    target: DirectoryArtifactTarget, tree: Path, first: Artifact, tmp_path: Path
) -> None:
    once = publish(target, tree, first)
    stamp = (tmp_path / "site").stat().st_ino, (tmp_path / "site" / "model").stat().st_mtime_ns

    assert publish(target, tree, first) == once
    assert stamp == (
        (tmp_path / "site").stat().st_ino,
        (tmp_path / "site" / "model").stat().st_mtime_ns,
    )


def test_another_checkpoint_is_refused_and_the_first_stays(
    target: DirectoryArtifactTarget, tree: Path, first: Artifact, second: Artifact, tmp_path: Path
) -> None:
    publish(target, tree, first)

    with pytest.raises(RefusedInput, match="write `existing: Replace`") as caught:
        publish(target, tmp_path / "other", second)

    assert caught.value.reason is Reason.TargetOccupied
    assert names(tmp_path / "site") == {"model"}
    assert holds(tmp_path / "site" / "model", first)


def test_a_replaced_artifact_stays_under_its_digest_until_it_is_removed(
    target: DirectoryArtifactTarget, tree: Path, first: Artifact, second: Artifact, tmp_path: Path
) -> None:
    site = tmp_path / "site"
    publish(target, tree, first)
    publish(target, tmp_path / "other", second, Existing.Replace)

    assert names(site) == {"model", kept_name(first)}
    assert holds(site / "model", second)
    assert holds(site / kept_name(first), first)
    [leftover] = target.leftovers()
    assert leftover.kind is LeftoverKind.Superseded
    assert leftover.checkpoint_digest == first.checkpointDigest
    assert leftover.uri == str(site / kept_name(first))

    target.remove(leftover)
    target.remove(leftover)  # it is gone: nothing to do
    assert names(site) == {"model"}
    assert holds(site / "model", second)


def test_going_back_and_forth_keeps_one_of_each(
    target: DirectoryArtifactTarget, tree: Path, first: Artifact, second: Artifact, tmp_path: Path
) -> None:
    for path, artifact in [(tree, first), (tmp_path / "other", second)] * 2:
        publish(target, path, artifact, Existing.Replace)

    assert names(tmp_path / "site") == {"model", kept_name(first), kept_name(second)}
    assert holds(tmp_path / "site" / "model", second)
    assert holds(tmp_path / "site" / kept_name(first), first)


@pytest.mark.parametrize("damage", ["changed", "gone"])
def test_a_file_that_is_not_the_recorded_one_leaves_nothing(
    damage: str, target: DirectoryArtifactTarget, tree: Path, first: Artifact, tmp_path: Path
) -> None:
    damage_shard(tree, damage)

    with pytest.raises(CheckFailed, match=r"'model-2\.safetensors' is not") as caught:
        publish(target, tree, first)

    assert caught.value.reason is Reason.DigestDiffers
    assert names(tmp_path / "site") == set()


@pytest.mark.parametrize("made", ["absent", "empty", "linked"])
def test_an_absent_or_empty_directory_is_taken_and_a_link_stays_a_link(
    made: str, tree: Path, first: Artifact, second: Artifact, tmp_path: Path
) -> None:
    path = real = tmp_path / "deep" / "model"
    if made != "absent":
        path.mkdir(parents=True)
    if made == "linked":
        path = tmp_path / "link"
        path.symlink_to(real)
    target = DirectoryArtifactTarget(path)

    publish(target, tree, first)
    publish(target, tmp_path / "other", second, Existing.Replace)

    assert holds(path, second)
    assert path.is_symlink() == (made == "linked")
    assert target.uri == str(path)
    assert names(tmp_path / "deep") == {"model", kept_name(first)}


def test_servers_see_a_plain_directory_with_shards(tmp_path: Path) -> None:
    tree = write_checkpoint(tmp_path / "tree", "qwen3")
    artifact = draft(tree)
    publish(DirectoryArtifactTarget(tmp_path / "model"), tree, artifact)

    shards = sorted((tmp_path / "model").glob("*.safetensors"))
    assert shards
    for shard in shards:
        assert not shard.is_symlink()
        with safe_open(shard, framework="numpy") as opened:
            assert list(opened.keys())


def test_what_is_no_artifact_is_in_the_way_and_stays(
    target: DirectoryArtifactTarget, tree: Path, first: Artifact, tmp_path: Path
) -> None:
    put(tmp_path / "site" / "model" / "cat.jpg", b"a cat")
    for attempt in (target.refuse_unusable, target.current, lambda: publish(target, tree, first)):
        with pytest.raises(
            RefusedInput, match=r"is not empty and holds no artifact\.json"
        ) as caught:
            attempt()
        assert caught.value.reason is Reason.TargetOccupied
    assert files_of(tmp_path / "site") == {"model/cat.jpg": b"a cat"}


def test_a_file_is_no_target(
    target: DirectoryArtifactTarget, tree: Path, first: Artifact, tmp_path: Path
) -> None:
    put(tmp_path / "site" / "model", b"thesis")
    with pytest.raises(RefusedInput, match="is a file; choose another path"):
        target.refuse_unusable()
    with pytest.raises(RefusedInput, match="is a file; choose another path"):
        publish(target, tree, first)
    assert files_of(tmp_path / "site") == {"model": b"thesis"}


def test_something_else_under_the_name_of_the_former_is_not_overwritten(
    target: DirectoryArtifactTarget, tree: Path, first: Artifact, second: Artifact, tmp_path: Path
) -> None:
    site = tmp_path / "site"
    publish(target, tree, first)
    put(site / kept_name(first) / "cat.jpg", b"a cat")

    with pytest.raises(RefusedInput, match="move it away") as caught:
        publish(target, tmp_path / "other", second, Existing.Replace)

    assert str(site / kept_name(first)) in str(caught.value)
    assert holds(site / "model", first)
    assert names(site) == {"model", kept_name(first)}
    assert target.leftovers() == []


@pytest.mark.parametrize("linked", [False, True])
def test_a_mount_point_is_refused_and_a_directory_inside_it_taken(
    linked: bool, mount: Path, tree: Path, first: Artifact, tmp_path: Path
) -> None:
    path = tmp_path / "link" if linked else mount
    if linked:
        path.symlink_to(mount)
    with pytest.raises(RefusedInput, match="is a mount point") as caught:
        DirectoryArtifactTarget(path).refuse_unusable()

    assert f"such as '{path / 'model'}'" in str(caught.value)
    publish(DirectoryArtifactTarget(path / "model"), tree, first)
    assert holds(mount / "model", first)


def test_a_read_only_parent_is_told_before_and_during(
    mount: Path, tree: Path, first: Artifact
) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(mount)], check=True)
    target = DirectoryArtifactTarget(mount / "deep" / "model")

    with pytest.raises(RefusedInput, match="cannot be written by this user") as caught:
        target.refuse_unusable()
    assert caught.value.reason is Reason.AccessDenied
    with pytest.raises(EnvironmentFault, match="Read-only file system"):
        publish(target, tree, first)


def test_a_full_disk_leaves_the_old_artifact_and_no_half_one(
    mount: Path, tree: Path, first: Artifact, second: Artifact, tmp_path: Path
) -> None:
    target = DirectoryArtifactTarget(mount / "model")
    publish(target, tree, first)
    fill_disk(mount / "filler")

    with pytest.raises(EnvironmentFault, match="No space left on device") as caught:
        publish(target, tmp_path / "other", second, Existing.Replace)

    assert caught.value.reason is Reason.OutOfSpace
    assert holds(mount / "model", first)
    assert names(mount) == {"model", "filler"}

    (mount / "filler").unlink()
    with pytest.raises(EnvironmentFault, match="free some space"):  # fits once, not twice
        publish(target, tmp_path / "other", second, Existing.Replace)
    assert names(mount) == {"model"}


def test_two_publishers_at_once_are_told_apart(
    target: DirectoryArtifactTarget, tree: Path, first: Artifact, second: Artifact, tmp_path: Path
) -> None:
    answers: list[HalftoneError] = []

    def meanwhile(_: int) -> None:
        rival = DirectoryArtifactTarget(tmp_path / "site" / "model")
        with pytest.raises(HalftoneError) as caught:
            publish(rival, tmp_path / "other", second)
        answers.append(caught.value)
        assert rival.leftovers() == []  # what is being worked on is not dead

    target.publish(tree, first, Existing.Refuse, meanwhile)

    assert answers
    assert {answer.reason for answer in answers} == {Reason.OutputBusy}
    assert holds(tmp_path / "site" / "model", first)
    assert names(tmp_path / "site") == {"model"}


def test_copies_of_an_earlier_run_are_kept_only_if_their_digest_is_right(
    target: DirectoryArtifactTarget, tree: Path, first: Artifact, tmp_path: Path
) -> None:
    staged = tmp_path / "site" / ".model.publishing"
    put(staged / "model-0.safetensors", (tree / "model-0.safetensors").read_bytes())
    put(staged / "model-1.safetensors", bytes((tree / "model-1.safetensors").stat().st_size))
    put(staged / "model-2.safetensors", (tree / "model-2.safetensors").read_bytes()[:1000])
    put(staged / "deep" / "stranger.safetensors", b"of another checkpoint")
    kept = (staged / "model-0.safetensors").stat()
    [leftover] = target.leftovers()
    assert (leftover.kind, leftover.checkpoint_digest) == (LeftoverKind.DeadUpload, None)

    publish(target, tree, first)

    model = tmp_path / "site" / "model"
    assert holds(model, first)
    now = (model / "model-0.safetensors").stat()
    assert (now.st_ino, now.st_mtime_ns) == (kept.st_ino, kept.st_mtime_ns)


def test_dead_uploads_and_half_removals_can_be_removed(
    target: DirectoryArtifactTarget, tree: Path, first: Artifact, tmp_path: Path
) -> None:
    site = tmp_path / "site"
    publish(target, tree, first)
    put(site / ".model.publishing" / "model-0.safetensors", bytes(1000))
    put(site / f".{kept_name(first)}.removing" / "model-0.safetensors", bytes(10))
    put(site / "model.backup" / "artifact.json", b"{}")

    found = target.leftovers()
    assert [leftover.size_bytes for leftover in found] == [10, 1000]
    for leftover in found:
        target.remove(leftover)

    assert names(site) == {"model", "model.backup"}
    assert holds(site / "model", first)


def test_a_former_that_was_half_removed_once_can_be_removed_when_it_is_a_former_again(
    target: DirectoryArtifactTarget, tree: Path, first: Artifact, tmp_path: Path
) -> None:
    site = tmp_path / "site"
    publish(target, tree, first)
    put(site / kept_name(first) / "artifact.json", (site / "model" / "artifact.json").read_bytes())
    put(site / f".{kept_name(first)}.removing" / "model-0.safetensors", bytes(10))

    [former, _] = target.leftovers()
    target.remove(former)

    assert former.kind is LeftoverKind.Superseded
    assert names(site) == {"model"}


def test_a_name_that_is_too_long_for_what_lies_beside_it_is_told_before_the_work(
    tmp_path: Path,
) -> None:
    target = DirectoryArtifactTarget(tmp_path / ("m" * 250))

    with pytest.raises(EnvironmentFault, match="could not be written") as caught:
        target.refuse_unusable()
    assert caught.value.reason is Reason.StorageFailed


def test_a_lock_that_a_killed_publisher_left_is_no_obstacle(
    target: DirectoryArtifactTarget, tree: Path, first: Artifact, tmp_path: Path
) -> None:
    lock = tmp_path / "site" / ".model.publishing.lock"
    lock.touch()
    publish(target, tree, first)
    assert names(tmp_path / "site") == {"model"}

    with lock.open("wb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(EnvironmentFault, match="wait for it, or stop it"):
            publish(target, tree, first)


@pytest.mark.parametrize("inside", [".", "checkpoint", "deep/../checkpoint/er", ".."])
def test_target_and_work_directory_may_not_lie_in_one_another(inside: str, tmp_path: Path) -> None:
    work = tmp_path / "site" / "work"
    with pytest.raises(RefusedInput, match="may not lie in one another; choose a directory beside"):
        refuse_nested(work / inside, work)
    refuse_nested(tmp_path / "site" / "model", work)
