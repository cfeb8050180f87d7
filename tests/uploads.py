"""Trees to publish, drafts of their artifacts, and a process that publishes one and can be killed.

    python -m tests.uploads URI TREE DRAFT EXISTING

says how many bytes went up, how much memory it took, and where a reader finds the artifact. Called
by the tests and benchmarks of publishing to S3.
"""

import json
import random
import re
import subprocess
import sys
import traceback
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from halftone.checkpoint.digests import file_sha256
from halftone.spec.artifacts import Artifact, manifest_digest
from halftone.spec.documents import WrittenFile
from halftone.spec.reports import Verdict
from halftone.spec.targets import Existing
from halftone.stores import open_source
from halftone.stores.s3_target import S3ArtifactTarget

if TYPE_CHECKING:  # pytest, which comes with it, is no part of a publisher's process
    from tests.servers.versitygw import VersityGateway

MIB = 2**20
# `dead_after` for a test that cannot wait. Below zero: a store's `Date` header may be a little
# older than the times that it gives its objects.
AT_ONCE = timedelta(minutes=-1)
# Of each of which a part is enough.
SMALL = {"config.json": 300, "model.safetensors": 5000}
# Shards of several parts and of one, a file in a folder, an empty one.
SIZES = {
    "config.json": 700,
    "model-00001-of-00002.safetensors": 33 * MIB + 17,
    "model-00002-of-00002.safetensors": 3 * MIB,
    "evidence/structure.json": 120,
    "merges.txt": 0,
}


def write_tree(directory: Path, seed: int = 0, sizes: dict[str, int] | None = None) -> Artifact:
    """Files of random bytes, and the draft of an artifact that has them."""
    numbers = random.Random(seed)
    for path, size in (sizes or SIZES).items():
        (directory / path).parent.mkdir(parents=True, exist_ok=True)
        (directory / path).write_bytes(numbers.randbytes(size))
    return draft_of(directory, checkpoint=f"{seed:x}")


def draft_of(directory: Path, checkpoint: str = "0") -> Artifact:
    """The artifact of all files below `directory`; `checkpoint` begins its checkpoint digest."""
    files = tuple(
        WrittenFile(
            path=path.relative_to(directory).as_posix(),
            sizeBytes=path.stat().st_size,
            sha256=file_sha256(path),
        )
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    )
    return Artifact(
        digest="",
        uri="",
        revision=None,
        checkpointDigest=checkpoint.ljust(64, "c"),
        planDigest="a" * 64,
        reportDigest="b" * 64,
        verdict=Verdict.Emulated,
        sizeBytes=sum(file.sizeBytes for file in files),
        signature=None,
        manifestDigest=manifest_digest(files),
        files=files,
    )


def start(
    uri: str,
    tree: Path,
    artifact: Artifact,
    environment: dict[str, str],
    existing: Existing = Existing.Refuse,
) -> subprocess.Popen[str]:
    """Publish in a process of its own; the caller waits for it."""
    document = tree.parent / f"{tree.name}.draft.json"
    artifact.save(document)
    return subprocess.Popen(
        [sys.executable, "-m", "tests.uploads", uri, tree, document, existing],
        cwd=Path(__file__).resolve().parent.parent,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def keys(server: "VersityGateway", bucket: str) -> set[str]:
    """Every object of a bucket."""
    pages = server.client.get_paginator("list_objects_v2").paginate(Bucket=bucket)
    return {item["Key"] for page in pages for item in page.get("Contents", ())}


def unfinished(server: "VersityGateway", bucket: str) -> list[str]:
    """The keys of multipart uploads that nobody completed or aborted."""
    found = server.client.list_multipart_uploads(Bucket=bucket)
    return [item["Key"] for item in found.get("Uploads", ())]


def read_through(uri: str) -> dict[str, bytes]:
    """Every file that a reader of `uri` finds, without the document."""
    with closing(open_source(uri)) as source:
        read = {e.path: source.read_range(e.path, 0, e.size_bytes) for e in source.files()}
    read.pop("artifact.json")
    return read


def publish(
    uri: str, tree: Path, artifact: Artifact, existing: Existing = Existing.Refuse
) -> Artifact:
    """Publish in this process; the environment leads to the server."""
    with closing(S3ArtifactTarget(uri)) as target:
        return target.publish(tree, artifact, existing, lambda nbytes: None)


def _peak() -> int:
    """The largest resident set in bytes; `getrusage` would begin with that of the parent."""
    [line] = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(line) * 1024


def main(uri: str, tree: str, document: str, existing: str) -> int:
    """Publish as the stage does; a failure is shown with all that led to it."""
    told: list[int] = []
    try:
        target = S3ArtifactTarget(uri)
        artifact = target.publish(
            Path(tree), Artifact.load(Path(document)), Existing(existing), told.append
        )
    except Exception:
        traceback.print_exc()
        return 1
    print(json.dumps({"uri": artifact.uri, "bytes": sum(told), "peak": _peak()}))
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
