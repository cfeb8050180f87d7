"""Finds and ends processes that carry our mark in their environment, and removes their directory.

    python -m halftone.serve.local.leftovers MARK DIRECTORY < pipe

As a program it waits until the other end of its standard input is gone, which the kernel sees to
even when that process was killed, then cleans up and ends. It must stay small and import nothing
beside the standard library: one waits beside every endpoint.
"""

import os
import shutil
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

# The variable that marks every process of one endpoint; children inherit it.
MARK: Final = "HALFTONE_ENDPOINT"
_POLITE_S: Final = 2.0
_LOOK_S: Final = 0.1
_ROUNDS: Final = 200


def marked(mark: str) -> dict[int, int]:
    """The processes with `mark`, but this one: process id -> when it started, in clock ticks.

    A process id may be given anew; with the start time it says which process is meant.
    """
    wanted = f"{MARK}={mark}".encode()
    found = {}
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with suppress(OSError):
            environment = Path(entry.path, "environ").read_bytes().split(b"\0")
            if wanted in environment and not _is_zombie(int(entry.name)):
                found[int(entry.name)] = _started(int(entry.name))
    return found


def end(mark: str) -> None:
    """End all processes with `mark`, first politely."""
    deadline = time.monotonic() + _POLITE_S
    told: set[tuple[int, int]] = set()
    for _ in range(_ROUNDS):
        there = set(marked(mark).items())
        if not there:
            break
        late = time.monotonic() > deadline
        for process in there if late else there - told:
            at_once = late or _complains(process[0])
            _signal(process, signal.SIGKILL if at_once else signal.SIGTERM)
        told |= there
        time.sleep(_LOOK_S)


def _signal(process: tuple[int, int], number: signal.Signals) -> None:
    identity, started = process
    with suppress(OSError):
        # Held by a file descriptor, the process that is looked at is the one that is told.
        handle = os.pidfd_open(identity)
        try:
            if _started(identity) == started:
                signal.pidfd_send_signal(handle, number)
        finally:
            os.close(handle)


def _complains(identity: int) -> bool:
    """Ray's autoscaler, which says on every terminal of its Ray that it was told to end."""
    with suppress(OSError):
        return b"autoscaler" in Path(f"/proc/{identity}/cmdline").read_bytes()
    return False


def _is_zombie(identity: int) -> bool:
    return _fields(identity)[0] == "Z"


def _started(identity: int) -> int:
    return int(_fields(identity)[19])


def _fields(identity: int) -> list[str]:
    """Of `/proc/PID/stat` what stands after the name, which may hold anything."""
    text = Path(f"/proc/{identity}/stat").read_text(errors="replace")
    return text.rpartition(")")[2].split()


def main(mark: str, directory: str) -> None:
    """Wait for the end of whoever started this, then clean up after it."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # meant for those that it waits for
    os.environ.pop(MARK, None)
    sys.stdin.buffer.read()
    end(mark)
    shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
