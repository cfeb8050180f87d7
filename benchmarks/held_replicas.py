"""Holds each replica of an endpoint on this machine to a share of a core, as a pod's limit would.

    with HeldReplicas(0.5) as held:
        held.watch(mark)        # every replica of the endpoint with that mark, from its start on

Called by `autoscaling`. Replicas of one machine would else take each other's cores, and more of
them would not be faster. A replica is a process of Ray's with an engine below it; both are put into
a control group of their own whose quota the kernel enforces. The quota is counted in periods of
10 ms, the kernel's usual 100 ms would stop a replica for the time of several tokens. Needs root and
control groups of either version; it must not touch a process without the mark.
"""

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Self

from benchmarks.beside import Beside
from halftone.serve.local.leftovers import MARK
from tests.cluster.processes import started

_GROUPS = Path("/sys/fs/cgroup")
_PERIOD_US = 10_000
_LOOK_S = 0.3
REPLICA = "EndpointServer"  # in the title of the process that Ray gives a replica
_ENDING_S = 20.0


class HeldReplicas(Beside):
    """Looks for replicas in a thread of its own while the block runs."""

    def __init__(self, cores: float) -> None:
        super().__init__()
        self._cores = cores
        self._mark = ""
        self._held: dict[int, Path] = {}
        self._since: dict[int, str | None] = {}
        self._first = _GROUPS / "cpu"  # version 1 has a tree for each resource
        self._root = self._first if self._first.is_dir() else _GROUPS

    def __enter__(self) -> Self:
        if os.geteuid() != 0 or not os.access(self._root / "cgroup.procs", os.W_OK):
            raise RuntimeError(
                f"replicas can be held to a share of a core by root alone, below {self._root}; "
                "run this benchmark as root."
            )
        return super().__enter__()

    def __exit__(self, *raised: object) -> None:
        """Called when the replicas have ended; a group with a process in it stays, and is told."""
        try:
            super().__exit__(*raised)
        finally:
            for group in self._held.values():
                for _ in range(int(_ENDING_S / _LOOK_S)):
                    with suppress(OSError):
                        group.rmdir()
                    if not group.exists():
                        break
                    time.sleep(_LOOK_S)

    def watch(self, mark: str) -> None:
        """Hold the replicas of the endpoint whose processes carry `mark`."""
        self._mark = mark

    def alive(self) -> list[int]:
        """The processes of the replicas that are there; a number may be another's by now."""
        return [
            process
            for process, since in list(self._since.items())
            if since is not None and started(process) == since
        ]

    def throttled_s(self) -> dict[int, float]:
        """How long each replica that is there had to wait for its quota, by its process."""
        found = {}
        for process, group in list(self._held.items()):
            with suppress(OSError):
                words = (group / "cpu.stat").read_text().split()
                stated = dict(zip(words[::2], words[1::2], strict=True))
                nanoseconds = int(stated.get("throttled_time", 0))
                nanoseconds += 1000 * int(stated.get("throttled_usec", 0))
                found[process] = nanoseconds / 1e9
        return found

    def _run(self) -> None:
        while not self._stop.wait(_LOOK_S):
            for process, title in processes_of(self._mark) if self._mark else ():
                if REPLICA in title and process not in self._held:
                    with suppress(OSError):  # it ended meanwhile
                        self._hold(process)

    def _hold(self, process: int) -> None:
        group = self._root / f"halftone-{self._mark}-{process}"
        group.mkdir()
        self._held[process] = group
        self._since[process] = started(process)
        quota = round(self._cores * _PERIOD_US)
        if self._root == self._first:
            (group / "cpu.cfs_period_us").write_text(str(_PERIOD_US))
            (group / "cpu.cfs_quota_us").write_text(str(quota))
        else:
            (group / "cpu.max").write_text(f"{quota} {_PERIOD_US}")
        for each in [process, *descendants(process)]:
            with suppress(OSError):  # one that has ended keeps none of the others out
                (group / "cgroup.procs").write_text(str(each))


def processes_of(mark: str) -> Iterator[tuple[int, str]]:
    """Number and title of each process of the endpoint with that mark."""
    wanted = f"{MARK}={mark}".encode()
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            with suppress(OSError):
                place = Path(entry.path)
                if wanted in (place / "environ").read_bytes().split(b"\0"):
                    title = (place / "cmdline").read_bytes().partition(b"\0")[0]
                    yield int(entry.name), title.decode(errors="replace")


def descendants(process: int) -> Iterator[int]:
    """Its children of any thread, and theirs; those that come later are born into the group."""
    for task in Path(f"/proc/{process}/task").iterdir():
        for child in (task / "children").read_text().split():
            yield int(child)
            yield from descendants(int(child))
