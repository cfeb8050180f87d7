"""Clients that ask an endpoint at once and without a pause, while something happens to it.

Called by the acts of `python -m tests.e2e`.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import openai

from tests.endpoint.release import MODEL, Release

_TOKENS: Final = 48
_LEAVE_S: Final = 120.0


class Load:
    """`answered` counts completions; `errors` are what failed ones say."""

    def __init__(self) -> None:
        self.answered = 0
        self.refused = 0
        self.errors: list[str] = []
        self.ended = threading.Event()

    def run(self, client: openai.OpenAI) -> None:
        """One client, until the load ends."""
        while not self.ended.is_set():
            try:
                client.completions.create(
                    model=MODEL,
                    prompt="Once upon a time",
                    max_tokens=_TOKENS,
                    extra_body={"ignore_eos": True},
                )
                self.answered += 1
            except openai.RateLimitError:
                self.refused += 1
                time.sleep(1)  # told to come again
            except Exception as error:  # whatever a client sees
                self.errors.append(f"{type(error).__name__}: {error}")
                time.sleep(1)


@contextmanager
def asked_by(release: Release, clients: int) -> Iterator[Load]:
    """So many clients until the block ends; leaving waits for their last answers."""
    load = Load()
    with release.asking() as client:
        threads = [
            threading.Thread(target=load.run, args=(client,), daemon=True) for _ in range(clients)
        ]
        for thread in threads:
            thread.start()
        try:
            yield load
        finally:
            load.ended.set()
            for thread in threads:
                thread.join(_LEAVE_S)
            load.errors += [
                f"a client still waits {_LEAVE_S:.0f} s after the load's end"
                for thread in threads
                if thread.is_alive()
            ]
