"""An hour of serving: load that comes and goes, replicas that are killed, Prometheus restarted.

The endpoint of `autoscaling`: Ray Serve, vLLM, HAProxy and a real Prometheus on this machine, the
pocket model, each replica held to half a core. Requests arrive open-loop at random. Every five
minutes the process of a replica is killed with signal 9, twice Prometheus is away for half a
minute. What was in flight on a killed replica is lost; it counts as failed like any other.

As root, for the sake of the control groups, and on a machine with nothing else to do.
"""

import os
import random
import signal
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from benchmarks.autoscaling import DEFAULT, Measured, measure
from benchmarks.beside import Beside
from benchmarks.checkpoints import served_pocket
from benchmarks.held_replicas import REPLICA
from benchmarks.measuring import Result
from benchmarks.memory_watch import MOST_GROWTH_MB, MemoryWatch
from benchmarks.open_loop import Answers, send
from benchmarks.scaled_endpoint import MOST, Replicas, ScaledEndpoint, Watch
from halftone.scaling.loads.load import Floats

_SECONDS = 3600
# Replicas kept busy: from the least to the most and back, so often in the whole time.
_LEAST, _BUSIEST, _WAVES = 0.2, 1.6, 3
_KILL_S = 300
_AWAY_AT, _AWAY_S = (1200, 2400), 30
# The objective of the alert RequestErrorBurn.
BUDGET = 0.005
_WARM_S = 900.0


@dataclass(frozen=True)
class Killed:
    """When, in seconds since the load began, and how many replicas were ready then."""

    time_s: float
    ready: int


class Trouble(Beside):
    """Kills and restarts at their times while the block runs."""

    def __init__(self, measured: Measured, seconds: int) -> None:
        super().__init__()
        self._endpoint = measured.endpoint
        self._began = time.monotonic()
        self._seconds = seconds
        self._chance = random.Random(11)
        self.killed: list[Killed] = []
        self.restarts = 0

    def _run(self) -> None:
        kills, restarts = planned(self._seconds)
        times = [(at, self._kill) for at in kills] + [(at, self._restart) for at in restarts]
        for at, act in sorted(times, key=lambda each: each[0]):
            if self._stop.wait(max(0.0, self._began + at - time.monotonic())):
                return
            act()

    def _kill(self) -> None:
        ready = self._endpoint.replicas().ready
        alive = self._endpoint.held.alive()
        with suppress(ProcessLookupError):  # it went by itself, and is none that was killed
            if alive:
                os.kill(self._chance.choice(alive), signal.SIGKILL)
                self.killed.append(Killed(time.monotonic() - self._began, ready))

    def _restart(self) -> None:
        self._endpoint.prometheus.stop()
        self._stop.wait(_AWAY_S)
        self._endpoint.prometheus.start()
        self.restarts += 1


def planned(seconds: int) -> tuple[list[int], list[int]]:
    """When replicas are killed, and when Prometheus goes: seconds since the load began."""
    # Not at the moment of a kill: each is to be seen by itself.
    restarts = [at + _KILL_S // 2 for at in _AWAY_AT if at + _KILL_S // 2 < seconds]
    return list(range(_KILL_S, seconds, _KILL_S)), restarts


def main(scratch: Path, seconds: int = _SECONDS) -> list[Result]:
    """Rows for requests, memory and replicas."""
    artifact = served_pocket(scratch)
    with ScaledEndpoint(artifact, DEFAULT, scratch) as endpoint:
        measured = measure(endpoint, scratch)
        endpoint.allow(MOST)
        load = measured.load(_waves(seconds), seed=5)
        with (
            MemoryWatch(endpoint.mark) as memory,
            Trouble(measured, seconds) as trouble,
            Watch(endpoint) as watch,
        ):
            answers = send(measured.client, load)
        slopes = memory.slopes(_WARM_S)
    return [
        _requests(answers, trouble, seconds),
        _memory([asdict(each) for each in slopes]),
        _replicas(watch.seen, answers),
    ]


def _waves(seconds: int) -> Floats:
    phase = 2 * np.pi * _WAVES * (np.arange(seconds) + 0.5) / seconds
    found: Floats = _LEAST + (_BUSIEST - _LEAST) * (1 - np.cos(phase)) / 2
    return found


def _requests(answers: Answers, trouble: Trouble, seconds: int) -> Result:
    asked, failed = len(answers.rows), len(answers.failures)
    share = failed / asked
    said = f"{100 * share:.2f} % ({failed} of {asked}; {len(trouble.killed)} replicas killed, "
    said += f"Prometheus restarted {trouble.restarts} times)"
    kills, restarts = planned(seconds)
    # Of a replica that nobody killed nothing was shown.
    troubled = len(trouble.killed) >= len(kills) and trouble.restarts >= len(restarts)
    return Result(
        f"requests that failed in {seconds // 60} minutes of load that comes and goes",
        f"<= {100 * BUDGET:.1f} %",
        said,
        share <= BUDGET and troubled,
        {
            "failures": answers.failures,
            "killed": [asdict(each) for each in trouble.killed],
            "ttftP50": float(np.median(answers.ttft_s)),
            "ttftP99": float(np.percentile(answers.ttft_s, 99)),
            "sentLate": answers.late_share,
        },
    )


def _memory(rows: list[dict[str, object]]) -> Result:
    """The steepest of all processes decides; a replica must be among them, as they are killed."""
    steepest = max((float(str(each["megabytes_an_hour"])) for each in rows), default=0.0)
    title = str(rows[0]["title"])[:60] if rows else "no process lived for so long"
    replicas = sum(REPLICA in str(each["title"]) for each in rows)
    return Result(
        f"growth of memory in an hour, after {_WARM_S / 60:.0f} minutes, of each process",
        f"<= {MOST_GROWTH_MB:.0f} MB",
        f"{steepest:.0f} MB ({title}; {len(rows)} processes, {replicas} of them replicas)",
        replicas > 0 and steepest <= MOST_GROWTH_MB,
        {"processes": rows},
    )


def _replicas(seen: list[Replicas], answers: Answers) -> Result:
    ready = np.array([each.ready for each in seen])
    without = float((ready == 0).mean())
    said = f"{ready.min()} to {ready.max()} ready, none ready {without:.1%} of the time"
    kept = seen[:: max(1, len(seen) // 720)]
    rows = [[round(each.time_s - answers.began, 1), each.wanted, each.ready] for each in kept]
    return Result(
        "replicas over that time",
        f"up to {MOST} and back",
        said,
        int(ready.max()) == MOST and seen[-1].wanted < MOST,
        {"replicas": rows},
    )
