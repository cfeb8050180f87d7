"""How a benchmark runs a process, and what one result looks like."""

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from tools.environments import interpreter

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "build" / "benchmarks"
HALFTONE = Path(sys.executable).with_name("halftone")


@dataclass(frozen=True)
class Result:
    """One row of the table: what was measured against which target, and whether it was met."""

    name: str
    target: str
    measured: str
    met: bool
    details: dict[str, Any]

    def save(self) -> None:
        """Append to this machine's record as one JSON line."""
        RESULTS.mkdir(parents=True, exist_ok=True)
        line = asdict(self) | {"machine": machine()}
        with (RESULTS / "results.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")


@dataclass(frozen=True)
class Run:
    """A finished process.

    `seconds` are its wall time with its writes synced, `sync_seconds` the part that syncing took
    after its end, `peak_bytes` its largest resident set, `output` what it printed.
    """

    seconds: float
    sync_seconds: float
    peak_bytes: int
    output: str


# A process begins with the peak of the one that forked it, so a small one stands in between.
_WITNESS = """
import os, resource, subprocess, sys
status = subprocess.call(sys.argv[2:])
peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
open(sys.argv[1], "w").write(str(peak))
sys.exit(status)
"""


def run(command: Sequence[str | Path]) -> Run:
    """Run `command` to its end with disks synced before and, on the clock, after."""
    os.sync()
    with tempfile.NamedTemporaryFile("r") as peak:
        witness = [sys.executable, "-I", "-S", "-c", _WITNESS, peak.name]
        begin = time.perf_counter()
        done = subprocess.run(
            [*witness, *(str(part) for part in command)],
            capture_output=True,
            text=True,
            check=False,
        )
        ended = time.perf_counter()
        os.sync()
        synced = time.perf_counter()
        if done.returncode != 0:
            raise RuntimeError(f"{command} exited {done.returncode}:\n{done.stderr[-4000:]}")
        peak_bytes = int(peak.read()) * 1024
    return Run(synced - begin, synced - ended, peak_bytes, done.stdout)


def median_of(values: Sequence[float]) -> float:
    """The figure to quote."""
    return median(values)


def quantize_environment() -> Path:
    """The Python of the peer's environment; raises where it is not made."""
    python = interpreter("quantize")
    if not python.exists():
        raise RuntimeError(f"{python} is missing; build it with `make .venvs/quantize/ready`")
    return python


def machine() -> str:
    """What ran this, in words that mean something elsewhere."""
    model = platform.processor() or platform.machine()
    flags = ""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
        if line.startswith("flags"):
            flags = " with AVX-512" if " avx512f" in line else ""
            break
    return f"{model}{flags}, {len(os.sched_getaffinity(0))} cores"
