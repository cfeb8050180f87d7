"""What publishing to S3 leaves behind, what of it stays reachable, and what `gc` may remove.

We test these aspects:
- the former artifact, until somebody removes it, and when it comes back
- publishers that may still be at work, and objects of strangers
"""

from contextlib import closing
from pathlib import Path

from halftone.spec.artifacts import Artifact
from halftone.spec.publishing import LeftoverKind
from halftone.spec.targets import Existing
from halftone.stores.opening import open_target_uri
from halftone.stores.s3_target import S3ArtifactTarget
from tests.commands import files_of
from tests.servers.versitygw import VersityGateway
from tests.uploads import AT_ONCE, keys, publish, read_through, unfinished


def test_replacing_keeps_the_former_reachable_until_gc(
    s3_server: VersityGateway, bucket: str, tree: Path, first: Artifact, second: Artifact
) -> None:
    uri = f"s3://{bucket}/model"
    former = publish(uri, tree, first)
    current = publish(uri, tree.parent / "other", second, Existing.Replace)

    assert read_through(uri) == files_of(tree.parent / "other")
    assert read_through(former.uri) == files_of(tree)
    with closing(open_target_uri(uri)) as target:
        [leftover] = target.leftovers()
        assert leftover.kind is LeftoverKind.Superseded
        assert (leftover.uri, leftover.checkpoint_digest) == (former.uri, former.checkpointDigest)
        assert leftover.size_bytes == former.sizeBytes + len(former.to_bytes())
        target.remove(leftover)
        assert target.leftovers() == []
        assert target.current() == current
    names = {key.split("/")[1] for key in keys(s3_server, bucket)}
    assert names == {"artifact.json", current.uri.rpartition("/")[2]}


def test_what_was_replaced_may_come_back_and_is_then_no_leftover(
    bucket: str, tree: Path, first: Artifact, second: Artifact
) -> None:
    uri = f"s3://{bucket}/model"
    former = publish(uri, tree, first)
    publish(uri, tree.parent / "other", second, Existing.Replace)
    with closing(S3ArtifactTarget(uri)) as target:
        [stale] = target.leftovers()

        assert publish(uri, tree, first, Existing.Replace) == former

        target.remove(stale)  # listed before it came back
        assert [leftover.checkpoint_digest for leftover in target.leftovers()] == [
            second.checkpointDigest
        ]
    assert read_through(uri) == files_of(tree)


def test_gc_leaves_a_publisher_its_time_and_strangers_their_objects(
    s3_server: VersityGateway, bucket: str, tree: Path, first: Artifact
) -> None:
    uri = f"s3://{bucket}/model"
    published = publish(uri, tree, first)
    client = s3_server.client
    for folder in ("0123456789ab-01234567", "mine"):
        key = f"model/{folder}/model.safetensors"
        client.put_object(Bucket=bucket, Key=f"model/{folder}/config.json", Body=b"{}")
        begun = client.create_multipart_upload(Bucket=bucket, Key=key)
        client.upload_part(
            Bucket=bucket, Key=key, UploadId=begun["UploadId"], PartNumber=1, Body=b"12345"
        )
    inside = f"{published.uri.removeprefix(f's3://{bucket}/')}/config.json"
    client.create_multipart_upload(Bucket=bucket, Key=inside)

    with closing(S3ArtifactTarget(uri)) as target:
        [of_the_artifact] = target.leftovers()  # nobody needs it: the object is there
        assert of_the_artifact.uri.startswith(f"s3://{bucket}/{inside}?uploadId=")
        target.remove(of_the_artifact)
        assert target.leftovers() == []
    with closing(S3ArtifactTarget(uri, dead_after=AT_ONCE)) as target:
        [dead] = target.leftovers()
        assert dead.kind is LeftoverKind.DeadUpload
        assert (dead.uri, dead.size_bytes) == (f"{uri}/0123456789ab-01234567", 7)
        target.remove(dead)
        assert target.leftovers() == []
    assert unfinished(s3_server, bucket) == ["model/mine/model.safetensors"]
    assert "model/mine/config.json" in keys(s3_server, bucket)
    assert read_through(uri) == files_of(tree)
