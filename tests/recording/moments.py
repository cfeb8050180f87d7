"""Pages of `/metrics` at several moments, all at the same ones.

    taken({"vllm": f"{url}/metrics"})       # {"vllm": [page, page, page, page]}

Called by whatever starts what is recorded. A moment is some seconds later where a page does not
show yet what comes and goes in between.
"""

import re
import time
from collections.abc import Callable, Mapping
from typing import Final

import httpx

# As Prometheus scrapes by the documentation.
INTERVAL_S: Final = 15
MOMENTS: Final = 4
_POLL_S: Final = 0.25
_WITHIN_S: Final = 180.0


def page(url: str) -> str:
    """What is there now. Raises httpx.HTTPError."""
    answer = httpx.get(url, timeout=30, trust_env=False)
    return answer.raise_for_status().text


def until(url: str, *patterns: str, seconds: float = _WITHIN_S) -> str:
    """The first page with a line that begins as each of `patterns`. Raises TimeoutError."""
    deadline = time.monotonic() + seconds
    while True:
        found = page(url)
        lacking = [each for each in patterns if not re.search(rf"(?m)^{each}", found)]
        if not lacking:
            return found
        if time.monotonic() > deadline:
            raise TimeoutError(f"{url} does not show {lacking} in {seconds:.0f} s")
        time.sleep(_POLL_S)


def taken(
    urls: Mapping[str, str],
    shown: Mapping[str, tuple[str, ...]] | None = None,
    between: Callable[[int], None] = lambda _: None,
) -> dict[str, list[str]]:
    """Every page at every moment. `shown` are lines that a page must have, by its name.

    `between` is called after each moment but the last, with its number.
    """
    wanted = shown or {}
    pages: dict[str, list[str]] = {name: [] for name in urls}
    began = time.monotonic()
    for number in range(MOMENTS):
        time.sleep(max(0.0, began + number * INTERVAL_S - time.monotonic()))
        # What is waited for comes first: the others are then of the same moment.
        for name in sorted(urls, key=lambda name: name not in wanted):
            pages[name].append(until(urls[name], *wanted.get(name, ())))
        if number < MOMENTS - 1:
            between(number)
    return pages
