"""Resident memory of every process of an endpoint over time, and how fast each one's grows.

    with MemoryWatch(mark) as memory:
        ...
    memory.slopes(after_s=600)       # rows, the steepest first

Called by `serving_soak`.
"""

import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.beside import Beside
from benchmarks.held_replicas import processes_of

_LOOK_S = 10.0
# A line through fewer looks says nothing.
_FEWEST = 60


@dataclass(frozen=True)
class Slope:
    """One process: its title, megabytes (10^6) at the end, and megabytes an hour of growth."""

    title: str
    megabytes: float
    megabytes_an_hour: float


class MemoryWatch(Beside):
    """Looks in a thread of its own while the block runs."""

    def __init__(self, mark: str) -> None:
        super().__init__()
        self._mark = mark
        self._began = time.monotonic()
        self._seen: dict[tuple[int, str], list[tuple[float, float]]] = {}

    def slopes(self, after_s: float) -> list[Slope]:
        """Of processes that were there for ten minutes, without the first `after_s` seconds."""
        found = []
        for (_, title), looks in self._seen.items():
            late = np.array([look for look in looks if look[0] >= after_s])
            if len(late) >= _FEWEST:
                slope = float(np.polyfit(late[:, 0], late[:, 1], 1)[0])
                found.append(Slope(title, round(float(late[-1, 1]), 1), round(3600 * slope, 1)))
        return sorted(found, key=lambda each: -each.megabytes_an_hour)

    def _run(self) -> None:
        while not self._stop.wait(_LOOK_S):
            now = time.monotonic() - self._began
            for process, title in processes_of(self._mark):
                with suppress(OSError, ValueError):
                    megabytes = _resident(process)
                    self._seen.setdefault((process, title), []).append((now, megabytes))


def _resident(process: int) -> float:
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise ValueError(f"process {process} has no memory of its own")
