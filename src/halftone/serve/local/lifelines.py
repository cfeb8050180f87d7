"""Notices the end of processes without which an endpoint is none.

    lines = Lifelines()
    lines.hold(8310, "raylet")
    lines.ended(wait_s=2)  # "raylet (SIGKILL)" as soon as it has ended, else None after 2 s
    lines.close()

Called by `local.cluster`. It asks the kernel, so that an answer is at once and never another
process's. It must not end anything.
"""

import os
import select
import signal
from contextlib import ExitStack, suppress


class Lifelines:
    """Processes that are held by file descriptors; a process that is gone already has ended."""

    def __init__(self) -> None:
        self._handles = ExitStack()
        self._poll = select.poll()
        self._names: dict[int, str] = {}
        self._gone: list[str] = []

    def close(self) -> None:
        """Let go of all."""
        self._handles.close()
        self._poll = select.poll()
        self._names.clear()

    @property
    def names(self) -> set[str]:
        """Of all that were held."""
        return {*self._names.values(), *self._gone}

    def hold(self, process: int, name: str) -> None:
        """From now on the end of `process` is noticed."""
        try:
            handle = os.pidfd_open(process)
        except ProcessLookupError:
            self.lose(name)
            return
        self._handles.callback(os.close, handle)
        self._names[handle] = name
        self._poll.register(handle, select.POLLIN)  # readable when the process has ended

    def lose(self, name: str) -> None:
        """A process that should be held, and was gone before anybody knew its number."""
        self._gone.append(name)

    def ended(self, wait_s: float = 0) -> str | None:
        """Who has ended, with the signal if one did it; None when `wait_s` are over."""
        if self._gone:
            return self._gone[0]
        for handle, _ in self._poll.poll(1000 * wait_s):
            return self._names[handle] + _how(handle)
        return None


def _how(handle: int) -> str:
    """What a parent may know; it is left for whoever waits for the process."""
    with suppress(ChildProcessError, ValueError):  # another's child; a signal without a name
        found = os.waitid(os.P_PIDFD, handle, os.WEXITED | os.WNOWAIT | os.WNOHANG)
        if found is not None and found.si_code in (os.CLD_KILLED, os.CLD_DUMPED):
            return f" ({signal.Signals(found.si_status).name})"
    return ""
