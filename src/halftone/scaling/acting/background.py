"""The law in a thread of its own, for a caller that may never wait: Ray Serve's control loop.

Called by `ray_policy`. Standard library only. The thread lives as long as whoever asked for it: it
holds no reference to it, and ends when `stop` is set.
"""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from halftone.scaling.acting.deciding import Deciding, Judgement
from halftone.scaling.inputs.counts import ReplicaCounts

log = logging.getLogger(__name__)

_AFTER_A_FAULT_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Seen:
    """Counts, and when they were seen (seconds of the monotonic clock)."""

    time_s: float
    counts: ReplicaCounts


class Background:
    """`see` hands counts over, `judgement` is the last answer; neither waits for anything."""

    def __init__(
        self,
        decider: Deciding,
        interval_s: Callable[[], float],
        told: Callable[[Judgement], None],
    ) -> None:
        self.stop = threading.Event()
        self._decider = decider
        self._interval_s = interval_s
        self._told = told
        self._lock = threading.Lock()
        self._seen: list[Seen] = []
        self._judgement: tuple[float, Judgement] | None = None
        self._thread: threading.Thread | None = None

    def see(self, counts: ReplicaCounts) -> None:
        """What is there now. The first time starts the thread."""
        now = time.monotonic()
        with self._lock:
            # A change is kept with its time, for leads are measured by it.
            if not self._seen or self._seen[-1].counts != counts:
                self._seen.append(Seen(now, counts))
        if self._thread is None:
            self._thread = threading.Thread(
                target=self._run, name="halftone-scaling", daemon=True
            )  # fmt: skip
            self._thread.start()

    def judgement(self) -> tuple[float, Judgement] | None:
        """The last one, and its age in seconds; None before the first."""
        with self._lock:
            if self._judgement is None:
                return None
            made_at, judgement = self._judgement
        return time.monotonic() - made_at, judgement

    def _run(self) -> None:
        while not self.stop.is_set():
            wait_s = _AFTER_A_FAULT_S
            try:
                self._look()
                wait_s = self._interval_s()
            except Exception:  # nobody would start this thread again
                log.exception("a look at the endpoint failed")
            self.stop.wait(wait_s)

    def _look(self) -> None:
        with self._lock:
            seen, self._seen = self._seen, self._seen[-1:]
        for each in seen:
            self._decider.observe(each.time_s, each.counts)
        judgement = self._decider.decide(seen[-1].counts)
        with self._lock:
            self._judgement = time.monotonic(), judgement
        self._told(judgement)
