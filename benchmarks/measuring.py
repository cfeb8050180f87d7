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


def run(command: Sequence[str | Path]) -> Run:
    """Run `command` to its end with disks synced before and, on the clock, after."""
    os.sync()
    begin = time.perf_counter()
    with (
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(
            [str(part) for part in command], stdout=subprocess.PIPE, stderr=errors, text=True
        ) as process,
    ):
        output = process.stdout.read() if process.stdout else ""
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        ended = time.perf_counter()
        os.sync()
        synced = time.perf_counter()
        if process.returncode != 0:
            errors.seek(0)
            raise RuntimeError(f"{command} exited {process.returncode}:\n{errors.read()[-4000:]}")
    return Run(synced - begin, synced - ended, usage.ru_maxrss * 1024, output)


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
