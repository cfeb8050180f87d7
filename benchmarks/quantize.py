"""`halftone quantize` against llm-compressor's `model_free_ptq`, and against the disk alone."""

import json
import os
import shutil
import time
from pathlib import Path

from benchmarks import checkpoints
from benchmarks.measuring import HALFTONE, ROOT, Result, median_of, quantize_environment, run

_PEER = ROOT / "tests" / "peers" / "model_free_ptq.py"
_PAIRS = 5  # runs of ours for one of the peer, which takes minutes
_CHUNK = 16 * 2**20


def main(scratch: Path) -> list[Result]:
    """NVFP4A16 and FP8_DYNAMIC of 2 GB, and NVFP4A16 against plain reads and writes."""
    source = checkpoints.dense(scratch / "dense-2gb")
    _ours(source, scratch, "nvfp4a16")  # compiles kernels where they are not cached yet
    return [
        *_against_peer(source, scratch, "nvfp4a16", "NVFP4A16", whole=20.0, streaming=25.0),
        *_against_peer(source, scratch, "fp8-dynamic", "FP8_DYNAMIC", whole=8.0, streaming=None),
        _against_disk(source, scratch),
        _two_workers(source, scratch),
    ]


def _ours(source: Path, scratch: Path, recipe: str) -> tuple[float, float]:
    """(whole process, first read to last write) in seconds, with its writes synced."""
    return _timed(source, scratch, "--recipe", recipe)


def _peer(source: Path, scratch: Path, scheme: str) -> tuple[float, float]:
    target = scratch / "peer"
    shutil.rmtree(target, ignore_errors=True)
    done = run([quantize_environment(), _PEER, source, target, scheme, "lm_head"])
    inside = [line for line in done.output.splitlines() if line.startswith("{")]
    return done.seconds, float(json.loads(inside[-1])["seconds"]) + done.sync_seconds


def _against_peer(
    source: Path, scratch: Path, recipe: str, scheme: str, whole: float, streaming: float | None
) -> list[Result]:
    peer_whole, peer_inside = _peer(source, scratch, scheme)
    runs = [_ours(source, scratch, recipe) for _ in range(_PAIRS)]
    ours_whole = median_of([pair[0] for pair in runs])
    ours_inside = median_of([pair[1] for pair in runs])
    details = {
        "bytes": checkpoints.tensor_bytes(source),
        "peerSeconds": [peer_whole, peer_inside],
        "ourSeconds": runs,
    }
    ratio = peer_whole / ours_whole
    results = [
        Result(
            f"{scheme} of 2 GB, whole process, against model_free_ptq",
            f">= {whole:.0f} times faster",
            f"{ratio:.1f} times ({ours_whole:.2f} s, peer {peer_whole:.1f} s)",
            ratio >= whole,
            details,
        )
    ]
    if streaming is not None:
        ratio = peer_inside / ours_inside
        results.append(
            Result(
                f"{scheme} of 2 GB, first read to last write",
                f">= {streaming:.0f} times faster",
                f"{ratio:.1f} times ({ours_inside:.2f} s, peer {peer_inside:.1f} s)",
                ratio >= streaming,
                details,
            )
        )
    return results


def _against_disk(source: Path, scratch: Path) -> Result:
    pairs = []
    for _ in range(_PAIRS):
        ours = _ours(source, scratch, "nvfp4a16")[1]
        size = checkpoints.tensor_bytes(scratch / "ours")
        pairs.append((ours, _plain(source, scratch / "plain", size)))
    ratio = median_of([ours / plain for ours, plain in pairs])
    return Result(
        "NVFP4A16, first read to last write, against plain reads and writes + fsync",
        "<= 1.3 times",
        f"{ratio:.2f} times",
        ratio <= 1.3,
        {"pairs": pairs},
    )


def _plain(source: Path, target: Path, output_bytes: int) -> float:
    """Seconds to read every shard in large pieces and to write and sync as much as we write."""
    os.sync()
    begin = time.perf_counter()
    buffer = bytearray(_CHUNK)
    for path in sorted(source.glob("*.safetensors")):
        with path.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass
    with target.open("wb", buffering=0) as file:
        for begin_at in range(0, output_bytes, _CHUNK):
            file.write(memoryview(buffer)[: min(_CHUNK, output_bytes - begin_at)])
        os.fsync(file.fileno())
    seconds = time.perf_counter() - begin
    target.unlink()
    return seconds


def _two_workers(source: Path, scratch: Path) -> Result:
    """MeanSquaredError is bound by the processor, so the disk does not hide the second worker."""
    ratios = []
    for _ in range(3):
        one = _searched(source, scratch, 1)
        ratios.append(one / _searched(source, scratch, 2))
    ratio = median_of(ratios)
    return Result(
        "two workers against one (MeanSquaredError)",
        ">= 1.7 times where the disk allows",
        f"{ratio:.2f} times",
        ratio >= 1.7,
        {"ratios": ratios},
    )


def _searched(source: Path, scratch: Path, workers: int) -> float:
    options = ("--recipe", "nvfp4a16", "--scale-search", "MeanSquaredError")
    return _timed(source, scratch, *options, "--workers", str(workers))[1]


def _timed(source: Path, scratch: Path, *options: str) -> tuple[float, float]:
    target = scratch / "ours"
    shutil.rmtree(target, ignore_errors=True)
    done = run([HALFTONE, "quantize", source, target, "--json", *options])
    return done.seconds, float(json.loads(done.output)["seconds"]) + done.sync_seconds
