"""Artifacts that lie in a bucket or on the Hub are verified where they are, by ranges, and rebuilt.

Published by the real targets to versitygw, and to the double of the Hub by the real client.
"""

import json
import tempfile
from contextlib import closing
from pathlib import Path

import pytest

from halftone.checkpoint.index import read_checkpoint
from halftone.publish.verifying import SignatureState, verify
from halftone.quantize.rebuilding import plan_again, rebuild
from halftone.spec.artifacts import Artifact
from halftone.spec.targets import Existing
from halftone.stores import open_source
from halftone.stores.hub_target import HubArtifactTarget
from halftone.stores.s3_target import S3ArtifactTarget
from tests.artifacts import Work, found, verified, work_directory
from tests.commands import files_of
from tests.doubles.hub_writing import HubWritingDouble
from tests.servers.versitygw import VersityGateway


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Work:
    return work_directory(tmp_path_factory.mktemp("made"))


@pytest.fixture
def in_bucket(work: Work, key: Path, bucket: str) -> str:
    """The URI of the signed artifact in a bucket."""
    uri = f"s3://{bucket}/team/small"
    prepared = work.prepare(key)
    with closing(S3ArtifactTarget(uri)) as target:
        target.publish(prepared.tree, prepared.artifact, Existing.Refuse, lambda nbytes: None)
    return uri


@pytest.fixture
def on_hub(work: Work, key: Path, hub: HubWritingDouble) -> Artifact:
    """The signed artifact in a repository."""
    prepared = work.prepare(key)
    with closing(HubArtifactTarget("org/small")) as target:
        return target.publish(
            prepared.tree, prepared.artifact, Existing.Refuse, lambda nbytes: None
        )


def test_an_artifact_in_a_bucket_verifies(in_bucket: str, key: Path, work: Work) -> None:
    ended = verified(in_bucket, key, "--json", "--require", "signature")

    assert ended.code == 0, ended.err
    shown = json.loads(ended.out)
    assert shown["signature"] == "Valid"
    assert shown["checkpointDigest"] == work.made.document.digest


def test_an_artifact_on_the_hub_verifies(on_hub: Artifact, key: Path) -> None:
    ended = verified("hf://org/small", key, "--json", "--require", "signature")

    assert ended.code == 0, ended.err
    assert json.loads(ended.out)["revision"] is not None


def test_every_byte_is_read_once_and_nothing_is_left(
    in_bucket: str, key: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with closing(open_source(in_bucket)) as source:
        size = sum(entry.size_bytes for entry in source.files())

        done = verify(source, Path(f"{key}.pub"), {"signature"})

        assert done.found.signature is SignatureState.Valid
        assert source.traffic.bytes == size
    assert files_of(tmp_path) == {}


@pytest.mark.parametrize("name", ["model-00002-of-00003.safetensors", "model.sig", "plan.json"])
def test_a_changed_object_is_named(
    name: str, in_bucket: str, key: Path, s3_server: VersityGateway
) -> None:
    bucket, _, prefix = in_bucket.removeprefix("s3://").partition("/")
    keys = s3_server.client.list_objects_v2(Bucket=bucket, Prefix=prefix)["Contents"]
    (place,) = (row["Key"] for row in keys if row["Key"].endswith(f"/{name}"))
    data = bytearray(s3_server.client.get_object(Bucket=bucket, Key=place)["Body"].read())
    data[len(data) // 2] ^= 4
    s3_server.client.put_object(Bucket=bucket, Key=place, Body=bytes(data))

    assert found(in_bucket, key)["subject"] == name


def test_an_object_that_was_removed_is_named(
    in_bucket: str, key: Path, s3_server: VersityGateway
) -> None:
    bucket, _, prefix = in_bucket.removeprefix("s3://").partition("/")
    keys = s3_server.client.list_objects_v2(Bucket=bucket, Prefix=prefix)["Contents"]
    (place,) = (row["Key"] for row in keys if row["Key"].endswith("/config.json"))
    s3_server.client.delete_object(Bucket=bucket, Key=place)

    assert found(in_bucket, key)["subject"] == "config.json"


def test_rebuilding_reads_only_what_was_drawn_from_either_side(
    in_bucket: str, work: Work, s3_server: VersityGateway
) -> None:
    bucket = in_bucket.removeprefix("s3://").partition("/")[0]
    for name, data in files_of(work.source).items():
        s3_server.client.put_object(Bucket=bucket, Key=f"base/{name}", Body=data)
    with (
        closing(open_source(in_bucket)) as artifact,
        closing(open_source(f"s3://{bucket}/base")) as source,
    ):
        plan = verify(artifact).plan
        checkpoint = read_checkpoint(source)
        planned = plan_again(plan, checkpoint)
        before = artifact.traffic.bytes, source.traffic.bytes

        done = rebuild(planned, checkpoint, artifact, count=2, seed=1)

        units = {u.name: u for shard in planned.shards for u in shard.units}
        drawn = [units[name] for name in done.groups]
        headers = sum(len(shard.header) for shard in planned.shards)
        members = sum(m.source_bytes for unit in drawn for m in unit.members)
        assert source.traffic.bytes - before[1] == members
        assert 0 < artifact.traffic.bytes - before[0] - done.nbytes <= headers


def test_the_command_rebuilds_from_a_bucket(
    in_bucket: str, work: Work, s3_server: VersityGateway
) -> None:
    bucket = in_bucket.removeprefix("s3://").partition("/")[0]
    for name, data in files_of(work.source).items():
        s3_server.client.put_object(Bucket=bucket, Key=f"base/{name}", Body=data)

    ended = verified(in_bucket, None, "--rebuild", "3", "--source", f"s3://{bucket}/base")

    assert ended.code == 0, ended.err
    assert f"rebuilt 3 of 19 groups from s3://{bucket}/base" in ended.out
