"""A replica's first step in a process of its own, which can be killed or held back at a byte.

    python -m tests.obtaining REFERENCE TRUST CACHE [--die-at BYTES] [--wait-at BYTES] [--hold]

The first three are JSON, as an endpoint has them. It prints `asking`, then `waiting` where it was
told to wait for a line, then what it obtained as JSON; with `--hold` it keeps the lease until its
input ends. An error is printed as JSON with its reason. `write_plain` makes a checkpoint large
enough to be killed in.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from halftone.checkpoint.digests import checkpoint_digest, file_sha256
from halftone.serve.weights import obtain
from halftone.spec.documents import WrittenFile
from halftone.spec.errors import HalftoneError
from halftone.spec.reports import Verdict
from halftone.spec.serving import ArtifactReference, Signatures, Trust, WeightsCache
from tests.commands import files_of

# Of a checkpoint that nobody published.
ANYBODY = Trust(signature=Signatures.NotRequired, verdicts=(Verdict.Unmeasured,))
MIB = 2**20


def write_plain(directory: Path, seed: int = 0, shards: int = 2, nbytes: int = 20 * MIB) -> str:
    """Shards of random bytes and what lies beside them; the checkpoint digest."""
    numbers = random.Random(seed)
    directory.mkdir(parents=True)
    (directory / "config.json").write_text('{"architectures":["Qwen3ForCausalLM"]}')
    (directory / "preprocessor_config.json").write_text("{}")
    (directory / "modeling.py").write_text("raise SystemExit")
    (directory / "pytorch_model.bin").write_bytes(b"a pickle")
    for number in range(shards):
        (directory / f"model-{number}.safetensors").write_bytes(numbers.randbytes(nbytes))
    return digest_of(directory)


def digest_of(directory: Path) -> str:
    """The checkpoint digest of the files below `directory`."""
    return checkpoint_digest(
        WrittenFile(
            path=path.relative_to(directory).as_posix(),
            sizeBytes=path.stat().st_size,
            sha256=file_sha256(path),
        )
        for path in directory.rglob("*")
        if path.is_file()
    )


def left(cache: WeightsCache) -> dict[str, bytes]:
    """Every file below the cache, but the one that all its users lock for a moment."""
    found = files_of(Path(cache.directory))
    found.pop(".state/room.lock", None)
    return found


def start(
    reference: ArtifactReference, trust: Trust, cache: WeightsCache, *options: str
) -> subprocess.Popen[str]:
    """Start this module; the caller waits for it."""
    documents = [one.model_dump_json() for one in (reference, trust, cache)]
    return subprocess.Popen(
        [sys.executable, "-m", "tests.obtaining", *documents, *options],
        cwd=Path(__file__).resolve().parents[1],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def line(process: subprocess.Popen[str]) -> str:
    """The next line that it prints, without its end."""
    assert process.stdout is not None
    return process.stdout.readline().rstrip("\n")


def answer(process: subprocess.Popen[str]) -> dict[str, Any]:
    """What it obtained, or its error; earlier lines are passed over."""
    while not (said := line(process)).startswith("{"):
        assert said, "the process ended without an answer"
    found: dict[str, Any] = json.loads(said)
    return found


def end(process: subprocess.Popen[str]) -> int:
    """Close its input and wait."""
    process.communicate()
    return process.returncode


class _Progress:
    def __init__(self, die_at: int | None, wait_at: int | None) -> None:
        self.total = 0
        self._die_at = die_at
        self._wait_at = wait_at

    def __call__(self, done: int, total: int) -> None:
        self.total = total
        if self._die_at is not None and done >= self._die_at:
            os.kill(os.getpid(), signal.SIGKILL)
        if self._wait_at is not None and done >= self._wait_at:
            self._wait_at = None
            print("waiting", flush=True)
            sys.stdin.readline()


def main() -> None:
    """Obtain, and say what came of it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("reference", type=ArtifactReference.model_validate_json)
    parser.add_argument("trust", type=Trust.model_validate_json)
    parser.add_argument("cache", type=WeightsCache.model_validate_json)
    parser.add_argument("--die-at", type=int)
    parser.add_argument("--wait-at", type=int)
    parser.add_argument("--hold", action="store_true")
    given = parser.parse_args()
    progress = _Progress(given.die_at, given.wait_at)
    print("asking", flush=True)
    try:
        lease = obtain(given.reference, given.trust, given.cache, progress)
    except HalftoneError as error:
        told = {"reason": error.reason, "subject": error.subject, "message": error.message}
        print(json.dumps(told), flush=True)
        sys.exit(error.exit_code)
    found = {"path": str(lease.model.path), "digest": lease.model.digest, "read": progress.total}
    print(json.dumps(found), flush=True)
    if given.hold:
        sys.stdin.read()


if __name__ == "__main__":
    main()
