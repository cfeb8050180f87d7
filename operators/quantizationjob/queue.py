"""A queue of names: one worker a name, and one visit however often it was named.

Called by `pump`, which fills it, and by `workers`, which empty it. The idea is client-go's work
queue; here it runs in one event loop, so it needs no locks.
"""

import asyncio
import random
from typing import Final

from operators.quantizationjob.reading import Key

# Seconds after the first failure; doubled with each further one. An API server that struggles
# should get less of us, and a conflict is over at once.
_FIRST_DELAY: Final = 0.2
_LONGEST_DELAY: Final = 60.0


class Queue:
    """Names that wait, names that are worked on, and names that come later."""

    def __init__(self) -> None:
        # When each was named.
        self._waiting: dict[Key, float] = {}
        self._working: set[Key] = set()
        self._again: set[Key] = set()
        self._timers: dict[Key, asyncio.TimerHandle] = {}
        self._failures: dict[Key, int] = {}
        self._filled = asyncio.Event()

    def add(self, key: Key) -> None:
        """Have `key` looked at soon; once more if it is being looked at now."""
        if key in self._working:
            self._again.add(key)
            return
        loop = asyncio.get_running_loop()
        self._waiting.setdefault(key, loop.time())
        self._filled.set()

    def add_after(self, key: Key, seconds: float) -> None:
        """Have `key` looked at in `seconds` at the latest; an earlier time stands."""
        loop = asyncio.get_running_loop()
        timer = self._timers.get(key)
        if timer is not None and timer.when() <= loop.time() + seconds:
            return
        self._forget_timer(key)
        self._timers[key] = loop.call_later(seconds, self._due, key)

    async def get(self) -> Key:
        """The name that waits longest. End with `done`."""
        while not self._waiting:
            self._filled.clear()
            await self._filled.wait()
        key = next(iter(self._waiting))
        del self._waiting[key]
        self._working.add(key)
        self._forget_timer(key)
        return key

    def done(self, key: Key, *, failed: bool = False, least: float = 0.0) -> None:
        """End the work on `key`. After a failure it comes again, later each time (`least` seconds
        at least, for a server that said when).
        """
        self._working.discard(key)
        if failed:
            count = self._failures[key] = self._failures.get(key, 0) + 1
            delay = min(_LONGEST_DELAY, _FIRST_DELAY * 2 ** (count - 1))
            # Names that failed together should not come together.
            self.add_after(key, max(least, delay * random.uniform(0.8, 1.2)))  # noqa: S311
        else:
            self._failures.pop(key, None)
        if key in self._again:
            self._again.discard(key)
            if not failed:
                self.add(key)

    def forget(self, key: Key) -> None:
        """Drop what is kept about a name that is no more."""
        self._failures.pop(key, None)
        self._forget_timer(key)

    def age(self) -> float:
        """Seconds for which the oldest name has been waiting."""
        oldest = min(self._waiting.values(), default=None)
        return 0.0 if oldest is None else asyncio.get_running_loop().time() - oldest

    def __len__(self) -> int:
        return len(self._waiting)

    def _due(self, key: Key) -> None:
        self._timers.pop(key, None)
        self.add(key)

    def _forget_timer(self, key: Key) -> None:
        timer = self._timers.pop(key, None)
        if timer is not None:
            timer.cancel()
