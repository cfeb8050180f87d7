"""What proving weights adds to the time until they are loaded.

From S3: a replica's first step (`obtain`, into an empty cache) beside the same transfer without a
digest, in turns. The server is versitygw on the same disk and the same cores, so the client's
hashing also takes time from the server, as it would not elsewhere.

From a directory: proving in place beside all that vLLM then does until it could answer, for a
checkpoint of the same size and for the pocket model. Weights are zeros, of which a file system
keeps no copy; neither hashing nor loading looks at their values.
"""

import json
import os
import shutil
import sys
from contextlib import closing
from pathlib import Path

from benchmarks.measuring import ROOT, Result, median_of, run
from halftone.serve.weights.plain import plain_digest, plain_files
from halftone.serve.weights.transferring import Transfer
from halftone.stores import open_source
from tests.builders import tiny_config, write_sparse
from tests.servers.versitygw import VersityGateway
from tools.environments import interpreter

_SHARE = 0.10
_ROUNDS = 5
_LOADS = 3
_LAYERS = 10
_SHARD_BYTES = 400_000_000
_POCKET = ROOT / "examples" / "pocket-model" / "checkpoint"
_LOADER = Path(__file__).with_name("loading_weights.py")


def main(scratch: Path, layers: int = _LAYERS) -> list[Result]:
    """Three rows."""
    with VersityGateway(scratch / "s3") as server:
        os.environ.update(server.environment)
        server.client.create_bucket(Bucket="models")
        large = _large(server.data / "models" / "large", layers)
        return [
            _from_s3(scratch, large),
            _from_directory("a checkpoint of", large),
            _from_directory("the pocket model of", _POCKET),
        ]


def _large(directory: Path, layers: int) -> Path:
    """A dense model with layers of 126 MB."""
    config = tiny_config(
        "llama",
        hidden_size=2048,
        intermediate_size=8192,
        num_hidden_layers=layers,
        num_attention_heads=16,
        num_key_value_heads=8,
    )
    return write_sparse(directory, config, shard_bytes=_SHARD_BYTES)


def _from_s3(scratch: Path, large: Path) -> Result:
    digest, nbytes = _digest(large), _size(large)
    runs: dict[str, list[dict[str, float]]] = {"proven": [], "unproven": []}
    for number in range(_ROUNDS):
        for how in ("proven", "unproven") if number % 2 else ("unproven", "proven"):
            runs[how].append(_fetch(how, digest, scratch / "fetched"))
    pairs = zip(runs["proven"], runs["unproven"], strict=True)
    share = median_of([ours["seconds"] / theirs["seconds"] for ours, theirs in pairs]) - 1
    without = median_of([one["seconds"] for one in runs["unproven"]])
    return Result(
        f"verification of {nbytes / 1e9:.1f} GB that come from S3, on top of fetching them",
        f"<= {_SHARE:.0%}",
        f"{share:.1%} (median {without:.1f} s without)",
        share <= _SHARE,
        {"bytes": nbytes, **runs},
    )


def _fetch(how: str, digest: str, folder: Path) -> dict[str, float]:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    module = "benchmarks.fetching_weights"
    done = run([sys.executable, "-m", module, how, "s3://models/large", digest, folder])
    shutil.rmtree(folder)
    found: dict[str, float] = json.loads(done.output)
    return found


def _from_directory(what: str, directory: Path) -> Result:
    digest, nbytes = _digest(directory), _size(directory)
    python = interpreter("serve")
    if not python.exists():
        raise RuntimeError(f"{python} is missing; build it with `make .venvs/serve/ready`")
    # -P: a benchmark beside the script is called `operator`, as a module of Python is.
    command: list[str | Path] = [python, "-P", _LOADER, directory, digest]
    runs = [run(command).output for _ in range(_LOADS)]
    found = [json.loads(output.splitlines()[-1]) for output in runs]
    share = median_of([one["prove"] / one["load"] for one in found])
    return Result(
        f"verification of {what} {nbytes / 1e9:.2f} GB in a directory, against its load time",
        f"<= {_SHARE:.0%}",
        f"{share:.1%} ({median_of([one['prove'] for one in found]):.2f} s of "
        f"{median_of([one['load'] for one in found]):.1f} s)",
        share <= _SHARE,
        {"bytes": nbytes, "runs": found},
    )


def _digest(directory: Path) -> str:
    with closing(open_source(directory)) as source:
        found = Transfer(source, None, lambda done, total: None).run(plain_files(source))
    return plain_digest(found)


def _size(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.glob("*.safetensors"))
