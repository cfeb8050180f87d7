"""Trying again: how often, and how long to wait in between.

Used by the remote stores. It knows no client; a store says of each error whether it may pass.
"""

import random
import time
from collections.abc import Callable
from typing import Final, TypeVar

# Some fifteen seconds in all: longer than a load balancer's hiccup, shorter than a user's patience.
WAITS: Final = (0.5, 1.0, 2.0, 4.0, 8.0)

Answer = TypeVar("Answer")


class CutShortError(Exception):
    """A body ended before all of its bytes had come."""


def patiently(
    attempt: Callable[[], Answer],
    pause: Callable[[Exception, float], float | None],
    waits: tuple[float, ...] = WAITS,
) -> Answer:
    """Call `attempt` until it returns, at most `len(waits) + 1` times.

    `pause(error, wait)` gives the seconds to wait before the next attempt: `wait`, what the server
    asked for, or None when another attempt is useless. The last error is raised as it is.
    """
    for wait in waits:
        try:
            return attempt()
        except Exception as error:
            # Spread out, so that threads which failed together do not come back together.
            seconds = pause(error, wait * random.uniform(0.5, 1.5))  # noqa: S311
            if seconds is None:
                raise
        time.sleep(seconds)
    return attempt()
