"""An endpoint beside bare vLLM: what Ray Serve, HAProxy and our door cost a request.

Both serve the same artifact, the pocket model in NVFP4A16, with the same arguments of the engine on
the same cores; vLLM's own benchmark is the client of both, in turns. While one is measured, the
other has nothing to do: bare vLLM then waits, and so does a replica. Ray's own processes do not
quite, so the processor time that they take at rest is told beside the ratios.
"""

import asyncio
import json
import os
import random
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from benchmarks.checkpoints import served_pocket
from benchmarks.held_replicas import descendants
from benchmarks.measuring import ROOT, Result, median_of
from halftone.serve.local.leftovers import MARK
from halftone.serve.measuring.connection import Place, connected
from halftone.serve.measuring.load import LoadProcess, Round
from halftone.serve.measuring.prompting import text_tokens
from halftone.serve.measuring.rounds import Endpoint
from tests.endpoints import MODEL, Served, described
from tests.environments import python_of
from tests.servers.ports import free_port

_INPUT, _OUTPUT, _CONCURRENCY = 64, 32, 8
_ROUNDS, _REQUESTS = 5, 100  # 500 requests of each, in short turns: speed of a machine drifts
_REST_S = 10
_START_S = 180
_SHARE, _LATENESS = 0.80, 1.5
_BARE = Path(__file__).with_name("bare_vllm.py")
_TICKS = os.sysconf("SC_CLK_TCK")


def main(scratch: Path, rounds: int = _ROUNDS) -> list[Result]:
    """Two rows: requests a second, and the time to the first token."""
    artifact = served_pocket(scratch)
    # As vLLM and Ray have it by default: what a replica does not take on, it would refuse.
    endpoint = described(artifact, maxNumSeqs=16)
    log = scratch / "serving-load.log"
    with Served(endpoint) as ours, _bare(endpoint, scratch) as (bare, process):
        told = ours.wait()
        if told is not None:
            raise RuntimeError(told)
        _wait_until_up(bare)
        sides = {"endpoint": (ours.url, _ray), "bare": (bare, lambda: _with_children(process))}
        with LoadProcess(python_of("serve"), log) as load:
            found = _measure(load, sides, rounds)
        rest = _seconds_at_rest(_ray)
    return _results(found, rest)


def _measure(load: LoadProcess, sides: dict[str, Any], rounds: int) -> dict[str, list[Any]]:
    """Of each side one `(round, processor seconds)` a turn, after a turn that nobody counts."""
    numbers = random.Random(0)
    text = asyncio.run(_text(sides["bare"][0]))
    targets = {name: Endpoint(url, {}, MODEL, text) for name, (url, _) in sides.items()}
    found: dict[str, list[Any]] = {name: [] for name in sides}
    for turn in range(rounds + 1):
        for name in sorted(sides, reverse=bool(turn % 2)):
            requests = _REQUESTS if turn else 2 * _CONCURRENCY
            wanted = targets[name].load(_INPUT, _OUTPUT, requests, _CONCURRENCY, numbers)
            before = _spent(sides[name][1]())
            round_ = load.put(wanted)
            after = _spent(sides[name][1]())
            if round_.failures:
                raise RuntimeError(f"{name}: {round_.failures[0]}")
            if turn:
                found[name].append((round_, _by_name(before, after)))
    return found


async def _text(url: str) -> list[int]:
    async with connected(Place(url)) as connection:
        await connection.find_model(None)
        return await text_tokens(connection)


def _results(found: dict[str, list[Any]], rest: dict[str, float]) -> list[Result]:
    ours, bare = ([one for one, _ in found[name]] for name in ("endpoint", "bare"))
    share = [_rate(a) / _rate(b) for a, b in zip(ours, bare, strict=True)]
    late = [_first(a) / _first(b) for a, b in zip(ours, bare, strict=True)]
    details: dict[str, Any] = {
        "requestsPerSecond": {"endpoint": [*map(_rate, ours)], "bare": [*map(_rate, bare)]},
        "ttftMs": {"endpoint": [*map(_first, ours)], "bare": [*map(_first, bare)]},
        "processorMsPerRequest": {
            name: _mean([spent for _, spent in turns]) for name, turns in found.items()
        },
        "processorShareAtRest": rest,
    }
    what = f"{_INPUT} tokens in, {_OUTPUT} out, streaming, {_CONCURRENCY} at a time"
    return [
        Result(
            f"requests a second of an endpoint over bare vLLM's ({what})",
            f">= {_SHARE:.2f}",
            f"{median_of(share):.2f} ({median_of([*map(_rate, ours)]):.0f}/s, bare "
            f"{median_of([*map(_rate, bare)]):.0f}/s)",
            median_of(share) >= _SHARE,
            details,
        ),
        Result(
            "time to the first token of the same, median, over bare vLLM's",
            f"<= {_LATENESS} times",
            f"{median_of(late):.2f} times ({median_of([*map(_first, ours)]):.0f} ms, bare "
            f"{median_of([*map(_first, bare)]):.0f} ms)",
            median_of(late) <= _LATENESS,
            details,
        ),
    ]


def _rate(round_: Round) -> float:
    return len(round_.served) / round_.seconds


def _first(round_: Round) -> float:
    return 1000 * float(np.median([one.first_token for one in round_.served]))


@contextmanager
def _bare(endpoint: dict[str, Any], scratch: Path) -> Iterator[tuple[str, int]]:
    """The URL of vLLM's own server, and its process."""
    python, port = python_of("serve"), free_port()
    environment = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}
    environment["CUDA_VISIBLE_DEVICES"] = ""
    with (scratch / "serving-bare.log").open("wb") as log:
        # -P: a benchmark beside the script is called `operator`, as a module of Python is.
        command: list[str | Path] = [python, "-P", _BARE, json.dumps(endpoint), str(port)]
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)
    try:
        yield f"http://127.0.0.1:{port}", process.pid
    finally:
        process.terminate()
        process.wait()


def _wait_until_up(url: str) -> None:
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline:
        with suppress(httpx.HTTPError):
            if httpx.get(f"{url}/health", trust_env=False).is_success:
                return
        time.sleep(0.5)
    raise RuntimeError("vLLM's own server did not start; see serving-bare.log")


# Processor time -----------------------------------------------------------------------------------


def _ray() -> Iterator[int]:
    """Every process of the endpoint, which is the only one here."""
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            if entry.name.isdigit() and f"{MARK}=".encode() in (entry / "environ").read_bytes():
                yield int(entry.name)


def _with_children(process: int) -> Iterator[int]:
    yield process
    yield from descendants(process)


def _spent(processes: Iterator[int]) -> dict[tuple[int, str], float]:
    """Processor seconds so far, by process and its name."""
    found = {}
    for process in processes:
        with suppress(OSError):
            folder = Path(f"/proc/{process}")
            words = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode().split()
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            name = " ".join(Path(word).name for word in words[:4] if not word.startswith("-"))[:60]
            found[process, name] = (int(fields[11]) + int(fields[12])) / _TICKS
    return found


def _by_name(before: dict[Any, float], after: dict[Any, float]) -> dict[str, float]:
    """Milliseconds for each request, by the name of the process."""
    found: dict[str, float] = {}
    for (process, name), seconds in after.items():
        more = 1000 * (seconds - before.get((process, name), 0.0)) / _REQUESTS
        found[name] = found.get(name, 0.0) + more
    return found


def _mean(turns: Sequence[dict[str, float]]) -> dict[str, float]:
    names = sorted({name for turn in turns for name in turn})
    means = {name: sum(turn.get(name, 0.0) for turn in turns) / len(turns) for name in names}
    return {name: round(mean, 3) for name, mean in means.items() if mean > 0.01}


def _seconds_at_rest(processes: Any) -> dict[str, float]:
    """What share of one core each takes while nobody asks anything."""
    before = _spent(processes())
    time.sleep(_REST_S)
    after = _spent(processes())
    shares: dict[str, float] = {}
    for key, seconds in after.items():
        shares[key[1]] = shares.get(key[1], 0.0) + (seconds - before.get(key, 0.0)) / _REST_S
    return {name: round(share, 3) for name, share in shares.items() if share >= 0.002}
