"""How many answers a replica takes on, and when a refused client should come again.

Called by the middleware, in the one thread of its event loop.
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from time import monotonic
from typing import Any, Final

# Weight of the newest answer in the mean; some ten answers are remembered.
_NEWEST: Final = 0.1
_LONGEST_RETRY_S: Final = 60


class Admission:
    """Counts answers that run or wait: `running` of vLLM at a time, and `waiting` more."""

    def __init__(self, running: int, waiting: int) -> None:
        self.limit = running + waiting
        self.in_flight = 0
        self._running = running
        self._mean_s = 1.0

    @property
    def is_full(self) -> bool:
        """Whether the next request must be refused."""
        return not self.has_room(1)

    def has_room(self, answers: int) -> bool:
        """Whether so many more may come in."""
        return self.in_flight + answers <= self.limit

    @property
    def retry_after_s(self) -> int:
        """Whole seconds in which about half of what waits will have been answered."""
        rounds = self.in_flight / self._running / 2
        return min(max(math.ceil(self._mean_s * rounds), 1), _LONGEST_RETRY_S)

    @contextmanager
    def admitted(self) -> Iterator[None]:
        """One request from its first byte to the last of its answer; one place."""
        began = monotonic()
        self.in_flight += 1
        try:
            yield
        finally:
            self.in_flight -= 1
            self._mean_s += _NEWEST * (monotonic() - began - self._mean_s)

    @contextmanager
    def widened(self, answers: int) -> Iterator[None]:
        """So many places more for a request that was admitted."""
        self.in_flight += answers
        try:
            yield
        finally:
            self.in_flight -= answers


def answers_wanted(request: Mapping[str, Any]) -> int:
    """How many answers vLLM makes at a time for a request: `n` for each of its prompts, those that
    come as embeddings among them.

    1 where a field is nothing that vLLM takes, which says so itself.
    """
    prompts, embeddings = request.get("prompt"), request.get("prompt_embeds")
    count = len(embeddings) if isinstance(embeddings, list) else int(bool(embeddings))
    if isinstance(prompts, list) and not all(isinstance(one, int) for one in prompts):
        count += len(prompts)
    else:
        count += bool(prompts)  # a list of numbers is one prompt in tokens
    return max(_whole(request.get("n")), 1) * max(count, 1)


def _whole(given: Any) -> int:
    """As vLLM reads a number, which may stand in quotes."""
    try:
        return int(float(given))
    except (TypeError, ValueError, OverflowError):
        return 1
