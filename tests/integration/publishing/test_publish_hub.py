"""Publishing to the Hub by the real huggingface_hub, to a double of the Hub on loopback.

We test these aspects:
- files first, one commit makes them visible, each artifact gets a tag
- what is in the way, who may write, and what it is private to
- the token: where it goes and where it must not go
"""

import io
import logging
import os
from contextlib import redirect_stderr, redirect_stdout
from importlib.util import find_spec
from pathlib import Path

import pytest
from huggingface_hub import constants

from halftone.spec.artifacts import Artifact
from halftone.spec.errors import CheckFailed, EnvironmentFault, RefusedInput
from halftone.spec.names import Reason
from halftone.spec.publishing import LeftoverKind
from halftone.spec.targets import Existing, Transfer, Visibility
from halftone.stores import open_source
from halftone.stores.hub_target import HubArtifactTarget
from tests.doubles.hub_repositories import Repository
from tests.doubles.hub_server import Fault, Place, Seen
from tests.doubles.hub_writing import HubWritingDouble
from tests.drafts import TOKEN, damage_shard, is_untouched, publish, refused, shows, tag_of
from tests.publisher import start_publisher

NAME = "org/name"


@pytest.fixture
def target(hub: HubWritingDouble) -> HubArtifactTarget:
    return HubArtifactTarget(NAME, waits=(0.0, 0.0, 0.0))


def test_one_commit_makes_all_files_visible_and_a_tag_names_it(
    hub: HubWritingDouble, target: HubArtifactTarget, tree: Path, first: Artifact, tmp_path: Path
) -> None:
    seen: list[int] = []
    target.refuse_unusable()
    assert hub.repositories == {}

    published = target.publish(tree, first, Existing.Refuse, seen.append)

    repository = hub.repositories[NAME]
    assert repository.private
    assert len(repository.commits) == 2
    assert shows(hub, first, tmp_path)
    assert published.uri == "hf://org/name"
    assert published.revision == repository.head
    assert published.digest == published.compute_digest()
    assert published == target.current()
    stored = Artifact.model_validate_json(repository.files()["artifact.json"])
    assert (stored.revision, stored.digest) == (None, stored.compute_digest())
    assert repository.tags == {tag_of(first): repository.head}
    assert sum(seen) == first.sizeBytes
    assert len(seen) > 10
    assert target.leftovers() == []


def test_large_files_go_by_lfs_whatever_is_installed(
    hub: HubWritingDouble, target: HubArtifactTarget, tree: Path, first: Artifact
) -> None:
    assert find_spec("hf_xet") is not None  # or this shows nothing
    publish(target, tree, first)

    assert hub.seen(Place.Xet) == []
    puts = [request.path.split("?")[0] for request in hub.seen(Place.Storage)]
    assert len(puts) == len(set(puts)) == 11  # one shard in three parts, two in four
    assert constants.HF_HUB_DISABLE_XET is False  # nobody else's setting was changed


def test_xet_is_asked_when_the_job_says_so_and_its_absence_is_a_sentence(
    hub: HubWritingDouble, tree: Path, first: Artifact
) -> None:
    error = refused(HubArtifactTarget(NAME, transfer=Transfer.Xet, waits=()), tree, first)

    assert isinstance(error, EnvironmentFault)
    assert error.reason is Reason.StoreUnavailable
    assert hub.seen(Place.Xet)
    assert hub.seen(Place.Storage) == []
    assert is_untouched(hub)


def test_xet_is_refused_where_it_is_disabled(
    hub: HubWritingDouble, tree: Path, first: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    error = refused(HubArtifactTarget(NAME, transfer=Transfer.Xet), tree, first)

    assert error.reason is Reason.MissingDependency
    assert "write `transfer: Lfs`" in str(error)


def test_what_was_published_is_a_source(
    hub: HubWritingDouble, target: HubArtifactTarget, tree: Path, first: Artifact
) -> None:
    published = publish(target, tree, first)
    source = open_source(f"hf://{NAME}@{published.revision}")

    shard = (tree / "model-1.safetensors").read_bytes()
    assert source.read_range("model-1.safetensors", 1000, 5000) == shard[1000:6000]
    assert source.revision == published.revision


def test_the_same_checkpoint_twice_uploads_nothing(
    hub: HubWritingDouble, target: HubArtifactTarget, tree: Path, first: Artifact
) -> None:
    once = publish(target, tree, first)
    hub.requests.clear()

    assert publish(target, tree, first) == once
    assert {request.method for request in hub.requests} == {"GET"}


def test_another_checkpoint_is_refused_before_anything_is_sent(
    hub: HubWritingDouble,
    target: HubArtifactTarget,
    tree: Path,
    first: Artifact,
    second: Artifact,
    tmp_path: Path,
) -> None:
    publish(target, tree, first)
    hub.requests.clear()

    error = refused(target, tmp_path / "other", second)

    assert error.reason is Reason.TargetOccupied
    assert "write `existing: Replace`" in str(error)
    assert {request.method for request in hub.requests} == {"GET"}
    assert shows(hub, first, tmp_path)


def test_a_replaced_artifact_stays_reachable_by_its_digest_until_its_tag_is_removed(
    hub: HubWritingDouble,
    target: HubArtifactTarget,
    tree: Path,
    first: Artifact,
    second: Artifact,
    tmp_path: Path,
) -> None:
    publish(target, tree, first)
    hub.repositories[NAME].put("capacity/h100.json", b"{}")

    publish(target, tmp_path / "other", second, Existing.Replace)

    files = hub.repositories[NAME].files()
    assert set(files) == {".gitattributes", "artifact.json", *(f.path for f in second.files)}
    assert shows(hub, first, tmp_path, tag_of(first))
    [leftover] = target.leftovers()
    assert (leftover.kind, leftover.uri) == (
        LeftoverKind.Superseded,
        f"hf://{NAME}@{tag_of(first)}",
    )
    assert leftover.checkpoint_digest == first.checkpointDigest

    target.remove(leftover)
    target.remove(leftover)  # it is gone: nothing to do
    assert set(hub.repositories[NAME].tags) == {tag_of(second)}
    assert target.leftovers() == []


def test_tags_that_are_not_ours_are_no_leftovers(
    hub: HubWritingDouble, target: HubArtifactTarget, tree: Path, first: Artifact
) -> None:
    publish(target, tree, first)
    repository = hub.repositories[NAME]
    repository.tags |= {"v1": repository.head, "0" * 12: repository.commits[0][0]}

    assert target.leftovers() == []


def test_a_missing_tag_is_added_by_the_next_run_and_before_a_replacement(
    hub: HubWritingDouble,
    target: HubArtifactTarget,
    tree: Path,
    first: Artifact,
    second: Artifact,
    tmp_path: Path,
) -> None:
    hub.fail(Place.Tag, Fault.Broken, times=9)
    error = refused(target, tree, first)
    assert error.reason is Reason.StoreUnavailable
    assert shows(hub, first, tmp_path)  # only its tag is missing
    while hub.next_fault(Place.Tag):
        pass

    publish(target, tree, first)
    assert set(hub.repositories[NAME].tags) == {tag_of(first)}

    hub.repositories[NAME].tags.clear()
    publish(target, tmp_path / "other", second, Existing.Replace)
    assert shows(hub, first, tmp_path, tag_of(first))
    assert shows(hub, second, tmp_path, tag_of(second))


def test_a_repository_with_something_else_is_in_the_way(
    hub: HubWritingDouble, target: HubArtifactTarget, tree: Path, first: Artifact
) -> None:
    repository = hub.repositories[NAME] = Repository(NAME, private=True)
    repository.put("README.md", b"made with the repository")
    target.refuse_unusable()
    repository.put("pytorch_model.bin", b"weights")

    for attempt in (target.refuse_unusable, target.current, target.leftovers):
        with pytest.raises(RefusedInput, match="holds something else than an artifact") as caught:
            attempt()
        assert caught.value.reason is Reason.TargetOccupied
    assert refused(target, tree, first).reason is Reason.TargetOccupied
    assert len(repository.commits) == 3


def test_a_created_repository_that_was_never_used_is_taken(
    hub: HubWritingDouble, target: HubArtifactTarget, tree: Path, first: Artifact, tmp_path: Path
) -> None:
    hub.repositories[NAME] = Repository(NAME, private=True)
    hub.repositories[NAME].put("README.md", b"made with the repository")
    assert target.current() is None

    publish(target, tree, first)

    assert shows(hub, first, tmp_path)
    assert hub.seen(Place.Create) == []


@pytest.mark.parametrize("private", [True, False])
def test_a_repository_with_another_visibility_than_asked_is_refused(
    private: bool, hub: HubWritingDouble, tree: Path, first: Artifact
) -> None:
    hub.repositories[NAME] = Repository(NAME, private)
    asked = Visibility.Public if private else Visibility.Private

    error = refused(HubArtifactTarget(NAME, asked), tree, first)

    assert error.subject == "publish.huggingFace.visibility"
    with pytest.raises(RefusedInput, match="change it in the repository's settings"):
        HubArtifactTarget(NAME, asked).refuse_unusable()
    assert is_untouched(hub)


def test_a_public_repository_is_made_only_when_asked(
    hub: HubWritingDouble, tree: Path, first: Artifact
) -> None:
    publish(HubArtifactTarget(NAME, Visibility.Public), tree, first)
    assert not hub.repositories[NAME].private


def test_a_file_that_a_gitignore_would_leave_out_is_refused(
    hub: HubWritingDouble, target: HubArtifactTarget, tree: Path, first: Artifact
) -> None:
    hub.repositories[NAME] = Repository(NAME, private=True, ignored=frozenset({"config.json"}))

    error = refused(target, tree, first)

    assert error.reason is Reason.TargetUnsafe
    assert "would leave 'config.json' out" in str(error)
    assert is_untouched(hub)


@pytest.mark.parametrize("damage", ["changed", "gone"])
def test_a_file_that_is_not_the_recorded_one_leaves_nothing(
    damage: str, hub: HubWritingDouble, target: HubArtifactTarget, tree: Path, first: Artifact
) -> None:
    damage_shard(tree, damage)

    with pytest.raises(CheckFailed, match=r"'model-2\.safetensors' is not") as caught:
        publish(target, tree, first)

    assert caught.value.reason is Reason.DigestDiffers
    assert hub.repositories == {}


def test_a_file_that_changes_while_others_go_up_leaves_nothing_visible(
    hub: HubWritingDouble, target: HubArtifactTarget, tree: Path, first: Artifact
) -> None:
    def change(request: Seen) -> None:
        if request.place is Place.Batch:
            (tree / "config.json").write_bytes(b'{"seed": 7}')

    hub.arrived = change
    with pytest.raises(CheckFailed, match="changed while it was being published"):
        publish(target, tree, first)
    assert is_untouched(hub)


def test_what_changes_without_leaving_a_trace_is_not_committed(
    hub: HubWritingDouble, target: HubArtifactTarget, tree: Path, first: Artifact
) -> None:
    def change(request: Seen) -> None:
        if request.place is Place.Batch:
            config = tree / "config.json"
            status = config.stat()
            config.write_bytes(config.read_bytes().replace(b"0", b"7"))
            os.utime(config, ns=(status.st_atime_ns, status.st_mtime_ns))

    hub.arrived = change
    with pytest.raises(CheckFailed, match=r"'config\.json' changed while it was being published"):
        publish(target, tree, first)
    assert is_untouched(hub)


def test_the_token_goes_to_the_hub_and_nowhere_else(
    hub: HubWritingDouble,
    target: HubArtifactTarget,
    tree: Path,
    first: Artifact,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    hub.fail(Place.Commit, Fault.Unavailable)
    said = io.StringIO()
    with redirect_stdout(said), redirect_stderr(said):
        publish(target, tree, first)

    for request in hub.requests:
        signed = request.place in (Place.Storage, Place.Complete)  # by their addresses
        expected = None if signed else f"Bearer {TOKEN}"
        assert request.authorization == expected
    assert said.getvalue() == ""
    assert TOKEN not in caplog.text
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not [path for path in written if TOKEN.encode() in path.read_bytes()]
    for _, files in hub.repositories[NAME].commits:
        assert not [path for path, file in files.items() if TOKEN.encode() in file.content]


def test_the_library_says_nothing_where_users_and_logs_would_see_it(
    hub: HubWritingDouble, tree: Path, first: Artifact
) -> None:
    tree.with_suffix(".json").write_bytes(first.to_bytes())
    hub.fail(Place.Storage, Fault.Unavailable)  # told with the signed address, if it is told
    hub.fail(Place.Commit, Fault.Unavailable)

    process = start_publisher("hub", tree, NAME)

    assert process.communicate() == ("", "")
    assert process.returncode == 0
    assert len(hub.repositories[NAME].commits) == 2


def test_without_a_token_nothing_is_asked(
    hub: HubWritingDouble,
    target: HubArtifactTarget,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "none"))

    with pytest.raises(RefusedInput, match="needs a token and there is none") as caught:
        target.refuse_unusable()
    assert caught.value.reason is Reason.AccessDenied
    assert hub.requests == []


def test_a_wrong_token_is_refused_before_and_during(
    hub: HubWritingDouble,
    target: HubArtifactTarget,
    tree: Path,
    first: Artifact,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_another")
    with pytest.raises(RefusedInput, match="set HF_TOKEN to a token that may write") as caught:
        target.refuse_unusable()
    assert caught.value.reason is Reason.AccessDenied
    assert refused(target, tree, first).reason is Reason.AccessDenied
    assert hub.repositories == {}


@pytest.mark.parametrize("exists", [True, False])
def test_a_token_that_may_only_read_is_refused_before_work_begins(
    exists: bool, hub: HubWritingDouble, target: HubArtifactTarget
) -> None:
    hub.role = "read"
    if exists:
        hub.repositories[NAME] = Repository(NAME, private=True)
    with pytest.raises(RefusedInput, match="set HF_TOKEN to") as caught:
        target.refuse_unusable()
    assert caught.value.reason is Reason.AccessDenied


def test_an_organization_of_others_is_refused_before_work_begins(hub: HubWritingDouble) -> None:
    with pytest.raises(RefusedInput, match="belongs to nobody in 'others'") as caught:
        HubArtifactTarget("others/name").refuse_unusable()
    assert caught.value.reason is Reason.AccessDenied
