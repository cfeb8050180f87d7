"""Buckets of a real S3 server, and three accounts, none of which may do what another may.

    store = Storehouse.made(server, write_checkpoint(folder, "qwen3_5"))
    pods.carry_out(store.job())

Called by tests of stages as pods run them.
"""

import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from tests.pods import job
from tests.servers.versitygw import Account, VersityGateway

# Three shards of unequal size of the model `qwen3_5`.
SHARD_BYTES = 1_000_000


@dataclass(frozen=True)
class Storehouse:
    """Buckets of a server: one to read from, one to publish to, and who may do which."""

    server: VersityGateway
    source: str
    out: str
    reader: Account
    worker: Account
    publisher: Account
    name: str = "small"

    @classmethod
    def made(cls, server: VersityGateway, model: Path) -> Self:
        """New buckets and accounts; the files of `model` lie where jobs read."""
        source, out = (f"{name}-{secrets.token_hex(6)}" for name in ("models", "artifacts"))
        reader, worker, publisher = (server.account(n) for n in ("reader", "worker", "publisher"))
        for bucket, owner in ((source, reader), (out, publisher)):
            server.client.create_bucket(Bucket=bucket)
            server.give(bucket, owner)
        server.client.put_bucket_policy(Bucket=out, Policy=_policy(out, worker, publisher))
        made = cls(server, source, out, reader, worker, publisher)
        made.upload(model)
        return made

    @property
    def secrets(self) -> dict[str, dict[str, str]]:
        """Secrets of the namespace, each with the text of a credentials file."""
        accounts = {"reader": self.reader, "worker": self.worker, "publisher": self.publisher}
        return {name: {"aws": account.credentials_file} for name, account in accounts.items()}

    def job(self, **spec: Any) -> dict[str, Any]:
        """Data-free, with two workers, a Secret for each use."""
        own = {
            "quantization": {"preset": "nvfp4a16", "maxShardBytes": SHARD_BYTES},
            "workVolume": {"s3": {"credentialsSecretRef": {"name": "worker", "key": "aws"}}},
            "parallelism": 2,
        }
        return job(self.read_by("reader"), self.published_by("publisher"), **(own | spec))

    def read_by(self, secret: str, key: str = "aws") -> dict[str, Any]:
        """The block `source`."""
        return {"s3": self._place(f"s3://{self.source}/model", secret, key)}

    def published_by(self, secret: str, key: str = "aws") -> dict[str, Any]:
        """The block `publish`."""
        return {"s3": self._place(f"s3://{self.out}/{self.name}", secret, key)}

    def _place(self, uri: str, secret: str, key: str) -> dict[str, Any]:
        ref = {"name": secret, "key": key}
        return {"uri": uri, "endpointUrl": self.server.endpoint, "credentialsSecretRef": ref}

    def beside(self, name: str, work: Mapping[str, bytes]) -> Self:
        """Another target in the same bucket, whose work area holds `work`."""
        for path, data in work.items():
            self.server.client.put_object(Bucket=self.out, Key=f"{name}.work/{path}", Body=data)
        return replace(self, name=name)

    @property
    def area(self) -> dict[str, bytes]:
        """Every object of the work area."""
        return self.objects(f"{self.name}.work/")

    @property
    def published(self) -> dict[str, bytes]:
        """Every object below the target."""
        return self.objects(f"{self.name}/")

    def objects(self, prefix: str = "") -> dict[str, bytes]:
        """Every object below `prefix` of the bucket that is published to."""
        client = self.server.client
        listed = client.list_objects_v2(Bucket=self.out, Prefix=prefix).get("Contents", [])
        return {
            row["Key"].removeprefix(prefix): client.get_object(Bucket=self.out, Key=row["Key"])[
                "Body"
            ].read()
            for row in listed
        }

    def stamps(self, prefix: str) -> dict[str, str]:
        """When each object below `prefix` was last written, and its ETag."""
        listed = self.server.client.list_objects_v2(Bucket=self.out, Prefix=prefix)
        return {
            row["Key"].removeprefix(prefix): f"{row['LastModified']} {row['ETag']}"
            for row in listed.get("Contents", [])
        }

    def uploads(self) -> list[str]:
        """Multipart uploads that were begun and not ended."""
        found = self.server.client.list_multipart_uploads(Bucket=self.out, Prefix=self.name)
        return [row["Key"] for row in found.get("Uploads", [])]

    def upload(self, folder: Path) -> None:
        """Put the files of `folder` where the source is."""
        for path in sorted(folder.iterdir()):
            self.server.client.upload_file(str(path), self.source, f"model/{path.name}")


# All that docs/cluster.md asks for; listing is a right on a bucket, and the others on objects.
_LISTING = ("s3:ListBucket", "s3:ListBucketMultipartUploads")
_WRITING = ("s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload")


def _policy(bucket: str, worker: Account, publisher: Account) -> str:
    """Opens work areas to `worker` and all else of `bucket` to `publisher`, and no more."""
    whole = f"arn:aws:s3:::{bucket}"
    areas = f"{whole}/*.work/*"

    def row(effect: str, account: Account, actions: Sequence[str], resource: str) -> dict[str, Any]:
        return {
            "Effect": effect,
            "Principal": {"AWS": account.access_key},
            "Action": list(actions),
            "Resource": resource,
        }

    rows = [
        row("Allow", publisher, _LISTING, whole),
        row("Allow", publisher, _WRITING, f"{whole}/*"),
        row("Deny", publisher, _WRITING, areas),
        row("Allow", worker, _LISTING, whole),
        row("Allow", worker, _WRITING, areas),
    ]
    return json.dumps({"Version": "2012-10-17", "Statement": rows})
