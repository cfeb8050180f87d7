"""Keeps an endpoint busy while its pages are recorded.

    with Busy(url, "pocket") as busy:
        ...
    busy.answered

Called by `native` and `through_ray`. Prompts begin alike, so that a cache has something to hold,
and ask for more tokens than the cache has room for, so that some requests wait or are preempted.
"""

import threading
from typing import Final, Self

import httpx

# One or two more than a replica with so few blocks runs at once.
CLIENTS: Final = 5
# Of the pocket model's language: sums.
_BEGINNING: Final = "".join(f"{number}+{number}={2 * number}\n" for number in range(10, 34))
_TOKENS: Final = 160
_PATIENCE_S: Final = 120.0


class Busy:
    """`CLIENTS` requests for each replica are under way at `url` until the block is left.

    Leaving it raises RuntimeError if none was answered.
    """

    def __init__(self, url: str, model: str, replicas: int = 1) -> None:
        self._url = f"{url}/v1/completions"
        self._model = model
        self._over = threading.Event()
        self._threads = [
            threading.Thread(target=self._ask, args=(number,))
            for number in range(CLIENTS * replicas)
        ]
        self._last = "nothing came back"
        self.answered = 0

    def _ask(self, number: int) -> None:
        body = {
            "model": self._model,
            "prompt": f"{_BEGINNING}{number}+{number}=",
            "max_tokens": _TOKENS + 4 * number,
            "ignore_eos": True,
            "stream": True,
        }
        with httpx.Client(timeout=_PATIENCE_S, trust_env=False) as client:
            while not self._over.is_set():
                try:
                    answer = client.post(self._url, json=body).raise_for_status()
                except httpx.HTTPError as error:
                    self._last = repr(error)
                    self._over.wait(1.0)
                else:
                    self.answered += bool(answer.text)

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()
        if kind is None and not self.answered:
            raise RuntimeError(f"no request to {self._url} was answered: {self._last}")
