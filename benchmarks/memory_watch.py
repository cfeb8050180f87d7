"""Resident memory of every process of an endpoint over time, and how fast each one's grows.

    with MemoryWatch(mark) as memory:
        ...
    memory.slopes(after_s=600)       # rows, the steepest first

Called by `serving_soak` and `serving_memory`.
"""

import math
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.beside import Beside
from benchmarks.held_replicas import REPLICA, processes_of
from tests.cluster.processes import started

# What a process may grow in an hour, once it has warmed up; vLLM's and Ray's own included.
MOST_GROWTH_MB = 100.0
_LOOK_S = 10.0
# A line through fewer looks says nothing.
_FEWEST = 60
# What a process that is new takes while it warms up is no growth.
_NEW_S = 180.0


@dataclass(frozen=True)
class Slope:
    """One process: its title, megabytes (10^6) at the end, megabytes an hour of growth, and the
    minutes from which that was taken.
    """

    title: str
    megabytes: float
    megabytes_an_hour: float
    minutes: float


class MemoryWatch(Beside):
    """Looks in a thread of its own while the block runs."""

    def __init__(self, mark: str) -> None:
        super().__init__()
        self._mark = mark
        self._began = time.monotonic()
        # By number and start: Ray gives a process another title with each thing that it does.
        self._seen: dict[tuple[int, str], list[tuple[float, float]]] = {}
        self._titles: dict[tuple[int, str], str] = {}

    def slopes(self, after_s: float, before_s: float = math.inf) -> list[Slope]:
        """Of processes that were there for ten minutes and their first three.

        Looks before `after_s` seconds and from `before_s` on are left out.
        """
        found = []
        for process, looks in self._seen.items():
            begins = max(after_s, looks[0][0] + _NEW_S)
            late = np.array([look for look in looks if begins <= look[0] < before_s])
            if len(late) >= _FEWEST:
                slope = float(np.polyfit(late[:, 0], late[:, 1], 1)[0])
                minutes = round(float(late[-1, 0] - late[0, 0]) / 60, 1)
                found.append(
                    Slope(
                        self._titles[process],
                        round(float(late[-1, 1]), 1),
                        round(3600 * slope, 1),
                        minutes,
                    )
                )
        return sorted(found, key=lambda each: -each.megabytes_an_hour)

    def _run(self) -> None:
        while not self._stop.wait(_LOOK_S):
            self._look(time.monotonic() - self._began)

    def _look(self, now: float) -> None:
        for number, title in processes_of(self._mark):
            since = started(number)
            if since is None:
                continue  # it has just ended
            with suppress(OSError, ValueError):
                megabytes = _resident(number)  # or it is just ending, and was never seen
                self._seen.setdefault((number, since), []).append((now, megabytes))
                # Once a replica, always one.
                if REPLICA not in self._titles.get((number, since), ""):
                    self._titles[number, since] = title


def _resident(process: int) -> float:
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise ValueError(f"process {process} has no memory of its own")
