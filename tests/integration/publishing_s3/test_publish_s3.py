"""Publishing to S3, with versitygw as the store: a reader sees one artifact, whole, or none.

We test these aspects:
- what lies where after publishing, and that a source of that name reads it
- the same digest, and another one (Replace: see `test_publish_s3_leftovers`)
- publishers that race
- what is refused before an upload: other objects, missing buckets, servers that cannot do it
"""

import base64
import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from halftone.spec.artifacts import Artifact
from halftone.spec.errors import CheckFailed, HalftoneError, RefusedInput
from halftone.spec.names import Reason
from halftone.spec.targets import DirectoryTarget, Existing, Publish, S3Target
from halftone.stores import open_source
from halftone.stores.opening import open_target, open_target_uri
from halftone.stores.s3_target import S3ArtifactTarget
from tests.commands import files_of
from tests.doubles.faulty_proxy import FaultyProxy
from tests.servers.versitygw import VersityGateway
from tests.uploads import AT_ONCE, SIZES, SMALL, keys, publish, read_through, unfinished, write_tree


def refused(
    uri: str, tree: Path, artifact: Artifact, existing: Existing = Existing.Refuse
) -> HalftoneError:
    with pytest.raises(HalftoneError) as caught:
        publish(uri, tree, artifact, existing)
    return caught.value


def test_files_go_into_a_folder_of_their_own_and_the_name_says_which(
    s3_server: VersityGateway, bucket: str, tree: Path
) -> None:
    draft = write_tree(tree)
    told: list[int] = []
    with closing(open_target(Publish(s3=S3Target(uri=f"s3://{bucket}/team/model/")))) as target:
        target.refuse_unusable()
        assert target.current() is None
        assert keys(s3_server, bucket) == set()
        artifact = target.publish(tree, draft, Existing.Refuse, told.append)
        assert target.current() == artifact

    folder = f"team/model/{draft.checkpointDigest[:12]}-{draft.manifestDigest[:8]}"
    assert artifact.uri == f"s3://{bucket}/{folder}"
    assert artifact.compute_digest() == artifact.digest
    assert keys(s3_server, bucket) == {
        "team/model/artifact.json",
        f"{folder}/artifact.json",
        *(f"{folder}/{path}" for path in SIZES),
    }
    assert unfinished(s3_server, bucket) == []
    assert sum(told) == draft.sizeBytes
    for uri in (f"s3://{bucket}/team/model", artifact.uri):
        assert read_through(uri) == files_of(tree)


def test_the_store_keeps_the_checksum_of_every_object(
    s3_server: VersityGateway, bucket: str, tree: Path
) -> None:
    publish(f"s3://{bucket}/model", tree, write_tree(tree))

    for key in keys(s3_server, bucket):
        kept = s3_server.client.head_object(Bucket=bucket, Key=key, ChecksumMode="ENABLED")
        if key.endswith("00001-of-00002.safetensors"):
            assert kept["ChecksumCRC32"].endswith("-3")
        else:
            data = (s3_server.data / bucket / key).read_bytes()
            assert base64.b64decode(kept["ChecksumSHA256"]) == hashlib.sha256(data).digest()


def test_a_source_of_the_name_is_pinned_to_the_folder(
    bucket: str, tree: Path, first: Artifact, second: Artifact
) -> None:
    uri = f"s3://{bucket}/model"
    published = publish(uri, tree, first)
    with closing(open_source(uri)) as source, closing(open_source(published.uri)) as folder:
        assert source.uri == uri
        assert source.revision == folder.revision
        publish(uri, tree.parent / "other", second, Existing.Replace)
        assert source.read_range("config.json", 0, 300) == (tree / "config.json").read_bytes()
    assert read_through(uri) == files_of(tree.parent / "other")


def test_a_copied_bucket_reads_itself(
    s3_server: VersityGateway, bucket: str, tree: Path, first: Artifact
) -> None:
    publish(f"s3://{bucket}/model", tree, first)
    for key in keys(s3_server, bucket):
        copy = key.replace("model/", "mirror/", 1)
        s3_server.client.copy_object(Bucket=bucket, Key=copy, CopySource=f"{bucket}/{key}")
        s3_server.client.delete_object(Bucket=bucket, Key=key)

    assert read_through(f"s3://{bucket}/mirror") == files_of(tree)


def test_a_changed_byte_of_the_document_is_noticed_by_whoever_opens_the_name(
    s3_server: VersityGateway, bucket: str, tree: Path, first: Artifact
) -> None:
    publish(f"s3://{bucket}/model", tree, first)
    path = s3_server.data / bucket / "model" / "artifact.json"
    path.write_bytes(path.read_bytes().replace(b'"Emulated"', b'"Passed"  '))

    with pytest.raises(CheckFailed, match=r"`artifact\.json` of `s3://.*/model` is not") as caught:
        open_source(f"s3://{bucket}/model")
    assert caught.value.reason is Reason.DigestDiffers


def test_the_same_digest_twice_does_nothing(
    s3_server: VersityGateway, bucket: str, tree: Path, first: Artifact
) -> None:
    uri = f"s3://{bucket}/model"
    published = publish(uri, tree, first)
    before = s3_server.client.list_objects_v2(Bucket=bucket)["Contents"]

    again = first.model_copy(update={"verdict": "Passed", "manifestDigest": "0" * 64})
    assert publish(uri, tree, again, Existing.Replace) == published
    assert s3_server.client.list_objects_v2(Bucket=bucket)["Contents"] == before


def test_another_digest_is_refused_and_nothing_is_written(
    s3_server: VersityGateway, bucket: str, tree: Path, first: Artifact, second: Artifact
) -> None:
    uri = f"s3://{bucket}/model"
    publish(uri, tree, first)
    before = keys(s3_server, bucket)

    error = refused(uri, tree.parent / "other", second)

    assert isinstance(error, RefusedInput)
    assert error.reason is Reason.TargetOccupied
    assert str(error) == (
        f"`{uri}` holds another artifact, 1ccccccccccc; publish under another name, or set "
        "`publish.existing: Replace`, which keeps the former reachable by its digest."
    )
    assert keys(s3_server, bucket) == before


def test_of_eight_racing_publishers_one_wins_and_nothing_is_mixed(
    s3_server: VersityGateway, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = f"s3://{bucket}/model"
    drafts = {n: write_tree(tmp_path / str(n), n, SMALL) for n in range(1, 9)}

    def attempt(number: int) -> Artifact | HalftoneError:
        try:
            return publish(uri, tmp_path / str(number), drafts[number])
        except HalftoneError as error:
            return error

    with FaultyProxy(s3_server) as proxy, ThreadPoolExecutor(8) as pool:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        proxy.gather(8, match="PUT /[^/]+/model/artifact.json")
        ended = list(pool.map(attempt, drafts))

    [winner] = [one for one in ended if isinstance(one, Artifact)]
    losers = [one for one in ended if isinstance(one, HalftoneError)]
    assert [error.reason for error in losers] == [Reason.TargetOccupied] * 7
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server.endpoint)
    number = int(winner.checkpointDigest[0])
    assert read_through(uri) == files_of(tmp_path / str(number))
    with closing(S3ArtifactTarget(uri)) as target:
        assert target.current() == winner
        assert target.leftovers() == []  # the losers may still be at work, for all that we know
    with closing(S3ArtifactTarget(uri, dead_after=AT_ONCE)) as target:
        for leftover in target.leftovers():
            target.remove(leftover)
    assert {key.split("/")[1] for key in keys(s3_server, bucket)} == {
        "artifact.json",
        winner.uri.rpartition("/")[2],
    }


def test_racing_publishers_of_one_checkpoint_all_end_well(
    s3_server: VersityGateway, bucket: str, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = f"s3://{bucket}/model"
    draft = write_tree(tree)
    with FaultyProxy(s3_server) as proxy, ThreadPoolExecutor(4) as pool:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        proxy.gather(4, match="POST .*uploads")  # each begins an upload of its own
        ended = list(pool.map(lambda _: publish(uri, tree, draft), range(4)))

    assert len({artifact.digest for artifact in ended}) == 1
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server.endpoint)
    assert read_through(uri) == files_of(tree)
    assert unfinished(s3_server, bucket) == []


@pytest.mark.parametrize("change", ["byte", "longer", "missing"])
def test_a_file_that_is_another_than_was_recorded_is_not_published(
    s3_server: VersityGateway, bucket: str, tree: Path, change: str
) -> None:
    draft = write_tree(tree)
    shard = tree / "model-00001-of-00002.safetensors"
    data = shard.read_bytes()
    if change == "missing":
        shard.unlink()
    else:
        end = bytes([data[-1] ^ 1]) if change == "byte" else data[-1:] + b"!"
        shard.write_bytes(data[:-1] + end)

    error = refused(f"s3://{bucket}/model", tree, draft)

    assert isinstance(error, CheckFailed)
    assert error.reason is Reason.DigestDiffers
    assert error.subject == shard.name
    assert "model/artifact.json" not in keys(s3_server, bucket)
    assert unfinished(s3_server, bucket) == []
    shard.write_bytes(data)
    publish(f"s3://{bucket}/model", tree, draft)
    assert read_through(f"s3://{bucket}/model") == files_of(tree)


@pytest.mark.parametrize("name", ["config.json", "artifact.json"])
def test_objects_that_are_no_artifact_are_in_the_way(
    s3_server: VersityGateway, bucket: str, tree: Path, first: Artifact, name: str
) -> None:
    uri = f"s3://{bucket}/model"
    s3_server.client.put_object(Bucket=bucket, Key=f"model/{name}", Body=b'{"kind": "Other"}')

    error = refused(uri, tree, first, Existing.Replace)

    assert error.reason is Reason.TargetOccupied
    assert f"`{uri}` holds " in str(error)
    assert name in str(error)
    assert keys(s3_server, bucket) == {f"model/{name}"}


def test_a_bucket_that_is_not_there_is_named(bucket: str, tree: Path, first: Artifact) -> None:
    error = refused("s3://no-such-bucket/model", tree, first)

    assert isinstance(error, RefusedInput)
    assert str(error).startswith("The store has no bucket `no-such-bucket`; create it")


@pytest.mark.parametrize(
    ("strip", "word"),
    [("If-None-Match", "If-None-Match"), ("x-amz-checksum-sha256", "SHA-256")],
)
def test_a_server_that_does_not_keep_its_promises_is_refused(
    s3_server: VersityGateway,
    bucket: str,
    monkeypatch: pytest.MonkeyPatch,
    strip: str,
    word: str,
) -> None:
    with (
        FaultyProxy(s3_server, strip) as proxy,
        closing(S3ArtifactTarget(f"s3://{bucket}/model", proxy.endpoint)) as target,
        pytest.raises(RefusedInput, match=word) as caught,
    ):
        target.refuse_unusable()
    assert caught.value.reason is Reason.TargetUnsafe
    assert keys(s3_server, bucket) == set()


def test_a_server_that_ignores_if_match_cannot_replace(
    s3_server: VersityGateway, bucket: str, tree: Path, first: Artifact, second: Artifact
) -> None:
    with (
        FaultyProxy(s3_server, "If-Match") as proxy,
        closing(S3ArtifactTarget(f"s3://{bucket}/model", proxy.endpoint)) as target,
    ):
        published = target.publish(tree, first, Existing.Refuse, lambda nbytes: None)
        with pytest.raises(RefusedInput, match="ignores `If-Match`") as caught:
            target.publish(tree.parent / "other", second, Existing.Replace, lambda nbytes: None)
        assert caught.value.reason is Reason.TargetUnsafe
        assert target.current() == published


@pytest.mark.parametrize("uri", ["s3://", "s3://bucket/\x1b", "hf://one", "gs://bucket/x"])
def test_an_address_that_is_no_target_is_refused(uri: str) -> None:
    with pytest.raises(RefusedInput) as caught:
        open_target_uri(uri)
    assert caught.value.reason is Reason.InvalidJob


def test_capacity_cards_are_added_beside_the_artifact(
    s3_server: VersityGateway, bucket: str, tree: Path, first: Artifact
) -> None:
    uri = f"s3://{bucket}/model"
    cards = ["capacity/b200.json", "capacity/b200.json.sig"]
    (tree / "capacity").mkdir()
    for number, card in enumerate(cards):
        (tree / card).write_text(f"card {number}")
    with closing(open_target_uri(uri)) as target:
        with pytest.raises(RefusedInput, match="publish it first") as caught:
            target.add_cards(tree, cards)
        assert caught.value.reason is Reason.SourceNotFound
        published = target.publish(tree, first, Existing.Refuse, lambda nbytes: None)

        target.add_cards(tree, cards)
        before = s3_server.client.list_objects_v2(Bucket=bucket)["Contents"]
        target.add_cards(tree, cards)
        assert s3_server.client.list_objects_v2(Bucket=bucket)["Contents"] == before
        (tree / cards[0]).write_text("measured again")
        target.add_cards(tree, cards)
        assert target.current() == published
    assert read_through(uri) == files_of(tree)


def test_the_document_is_what_every_reader_parses(bucket: str, tree: Path, first: Artifact) -> None:
    published = publish(f"s3://{bucket}/model", tree, first)
    with closing(open_source(published.uri)) as source:
        [entry] = [entry for entry in source.files() if entry.path == "artifact.json"]
        read = source.read_range("artifact.json", 0, entry.size_bytes)
    assert json.loads(read)["uri"] == published.uri
    assert open_target(Publish(directory=DirectoryTarget(path=str(tree)))).uri == str(tree)
