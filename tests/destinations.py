"""The three kinds of target as a job names them, and whether anything at all lies there.

    there = in_bucket(server, bucket)
    write_job(project, publish=there.publish)
    assert there.contents() == []

Called by tests that publish through the command line. `contents` sees more than a reader does:
files under temporary names, unfinished uploads, repositories without an artifact.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.doubles.hub_writing import HubWritingDouble
from tests.servers.versitygw import VersityGateway


@dataclass(frozen=True)
class Destination:
    """`publish` is the block of the job, `uri` what a user types afterwards."""

    publish: dict[str, Any]
    uri: str
    contents: Callable[[], list[str]]


def in_directory(shelf: Path) -> Destination:
    """The directory `small`; its neighbours on the `shelf` count as its contents."""
    path = shelf / "small"
    return Destination(
        {"directory": {"path": str(path)}},
        str(path),
        lambda: sorted(str(found.relative_to(shelf)) for found in shelf.rglob("*")),
    )


def in_bucket(server: VersityGateway, bucket: str) -> Destination:
    """A prefix of `bucket`; all that the server holds of the bucket counts."""

    def contents() -> list[str]:
        objects = server.client.list_objects_v2(Bucket=bucket).get("Contents", [])
        uploads = server.client.list_multipart_uploads(Bucket=bucket).get("Uploads", [])
        on_disk = (path for path in (server.data / bucket).rglob("*") if path.is_file())
        return sorted(
            {
                *(row["Key"] for row in objects),
                *(f"upload of {row['Key']}" for row in uploads),
                *(str(path.relative_to(server.data / bucket)) for path in on_disk),
            }
        )

    uri = f"s3://{bucket}/models/small"
    return Destination({"s3": {"uri": uri}}, uri, contents)


def on_hub(hub: HubWritingDouble) -> Destination:
    """The repository `org/small`; every repository, commit or not, and every large file counts."""

    def contents() -> list[str]:
        files = [
            f"{name}/{path}"
            for name, repository in hub.repositories.items()
            for path in (".", *repository.files(), *repository.large)
        ]
        return sorted([*files, *(f"part {number} of {oid}" for oid, number in hub.parts)])

    return Destination({"huggingFace": {"repository": "org/small"}}, "hf://org/small", contents)
