"""What Ctrl-C, SIGTERM and a closed terminal do to work that cleans up after itself.

Called by verbs whose scratch must not stay behind, and by `elsewhere`, which waits for a process.
It must not decide what is cleaned up: whoever works does so when KeyboardInterrupt passes.
"""

import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from subprocess import Popen
from types import FrameType
from typing import Any, Final

Handler = Callable[[int, FrameType | None], None]

_ENDING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def ended_in_order() -> Iterator[None]:
    """Let signals that end us raise KeyboardInterrupt, once: cleaning up is not interrupted."""

    def end(*_: object) -> None:
        for ending in _ENDING:
            signal.signal(ending, signal.SIG_IGN)
        raise KeyboardInterrupt

    with _handled(dict.fromkeys(_ENDING, end)):
        yield


class HandedOn:
    """Signals that reach us are meant for the process that works for us, and those it started.

    with HandedOn() as signals:
        process = Popen(..., process_group=0)  # so that a terminal tells us alone
        signals.to(process)
        process.wait()

    They are told once, and killed at the second time; we wait. Ctrl-Z stops all. When we were to
    end, nothing of them is left afterwards.
    """

    def __init__(self) -> None:
        self.came: list[int] = []
        self._group: int | None = None

    def __enter__(self) -> "HandedOn":
        handlers = dict.fromkeys(_ENDING, self._end) | {signal.SIGTSTP: self._pause}
        self._handling = _handled(handlers)
        self._handling.__enter__()
        return self

    def __exit__(self, *raised: Any) -> None:
        self._handling.__exit__(*raised)
        if self.came:
            self._tell(signal.SIGKILL)

    def to(self, process: Popen[Any]) -> None:
        """From now on `process` is told, also of what came before it was there."""
        self._group = process.pid
        for number in self.came[:1]:
            self._tell(number)

    def _end(self, number: int, _: FrameType | None) -> None:
        self.came.append(number)
        self._tell(number if len(self.came) == 1 else signal.SIGKILL)

    def _pause(self, *_: object) -> None:
        self._tell(signal.SIGSTOP)
        os.kill(os.getpid(), signal.SIGSTOP)  # returns when somebody lets us go on
        self._tell(signal.SIGCONT)

    def _tell(self, number: int) -> None:
        if self._group is not None:
            with suppress(ProcessLookupError):  # all have ended
                os.killpg(self._group, number)


@contextmanager
def _handled(handlers: Mapping[signal.Signals, Handler]) -> Iterator[None]:
    """Handlers for a while; what is ignored (`nohup`) stays so, and only a main thread has any."""
    before: dict[signal.Signals, Any] = {}
    if threading.current_thread() is threading.main_thread():
        for number, handler in handlers.items():
            if signal.getsignal(number) not in {signal.SIG_IGN, None}:
                before[number] = signal.signal(number, handler)
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)
