"""Publishing 2 GB to S3 beside boto3's transfer manager at its best setting, and our peak memory.

Both send two shards to one versitygw on this machine, each in a process of its own. The peer's
setting is the fastest of several that are tried first with a quarter of the bytes. Both send a
CRC-32 with each part; we also hold every file against its SHA-256, and make all of them visible in
one step.
"""

import json
import os
import sys
from pathlib import Path

from benchmarks.measuring import Result, Run, median_of, run
from tests.servers.versitygw import VersityGateway
from tests.uploads import draft_of

_RATIO = 1.2
_MEMORY = 300e6
_ROUNDS = 4
_PEER = Path(__file__).with_name("boto3_transfer.py")
_BYTES = 2_000_000_000
# Concurrency and part size in MiB; 10 and 8 are boto3's defaults.
_SETTINGS = ((4, 16), (4, 64), (8, 16), (10, 8), (10, 32), (16, 16))


def main(scratch: Path, nbytes: int = _BYTES) -> list[Result]:
    """Find the peer's best setting, then let both take turns."""
    small, large = _tree(scratch / "small", nbytes // 4), _tree(scratch / "tree", nbytes)
    with VersityGateway(scratch / "s3") as server:
        os.environ.update(server.environment)
        tried = {setting: _peer(server, small, setting).seconds for setting in _SETTINGS}
        best = min(tried, key=lambda setting: tried[setting])
        theirs: list[Run] = []
        ours: list[Run] = []
        for number in range(_ROUNDS):
            # Whoever comes second writes while the disk still works for the first.
            if number % 2:
                ours.append(_ours(server, large))
            theirs.append(_peer(server, large, best))
            if not number % 2:
                ours.append(_ours(server, large))
    ratio = median_of([a.seconds / b.seconds for a, b in zip(ours, theirs, strict=True)])
    peak = max(done.peak_bytes for done in ours)
    details = {
        "bytes": nbytes,
        "secondsOurs": [done.seconds for done in ours],
        "secondsTheirs": [done.seconds for done in theirs],
        "peakBytesOurs": peak,
        "peakBytesTheirs": max(done.peak_bytes for done in theirs),
        "setting": {"concurrency": best[0], "partMib": best[1]},
        "tried": [[*setting, seconds] for setting, seconds in tried.items()],
    }
    return [
        Result(
            f"publish of {nbytes / 1e9:.1f} GB to S3 against boto3's transfer manager",
            f"<= {_RATIO} times its time, <= 300 MB",
            f"{ratio:.2f} times, {peak / 1e6:.0f} MB",
            ratio <= _RATIO and peak <= _MEMORY,
            details,
        )
    ]


def _tree(directory: Path, nbytes: int) -> Path:
    """Two shards of bytes that no store can make smaller, and the draft of their artifact."""
    directory.mkdir(parents=True, exist_ok=True)
    for number in (1, 2):
        with (directory / f"model-{number}.safetensors").open("wb") as shard:
            left = nbytes // 2
            while left:
                left -= shard.write(os.urandom(min(left, 1 << 24)))
    draft_of(directory).save(directory.parent / f"{directory.name}.json")
    return directory


def _ours(server: VersityGateway, tree: Path) -> Run:
    return _emptied(
        server,
        [sys.executable, "-m", "tests.uploads", "s3://ours/model", tree, f"{tree}.json", "Refuse"],
        "ours",
    )


def _peer(server: VersityGateway, tree: Path, setting: tuple[int, int]) -> Run:
    # -P: a benchmark beside the script is called `operator`, as a module of Python is.
    command: list[str | Path] = [sys.executable, "-P", _PEER, "theirs", tree, *map(str, setting)]
    done = _emptied(server, command, "theirs")
    assert json.loads(done.output) == 2
    return done


def _emptied(server: VersityGateway, command: list[str | Path], bucket: str) -> Run:
    """Run `command` with an empty bucket, which is gone afterwards."""
    server.client.create_bucket(Bucket=bucket)
    done = run(command)
    pages = server.client.get_paginator("list_objects_v2").paginate(Bucket=bucket)
    for page in pages:
        for item in page.get("Contents", ()):
            server.client.delete_object(Bucket=bucket, Key=item["Key"])
    server.client.delete_bucket(Bucket=bucket)
    return done
