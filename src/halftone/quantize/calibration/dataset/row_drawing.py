"""Which rows are measured: drawn with a seed, without replacement, from all that are usable.

Called by `preparing`. Positions stand for rows in the order of file names and rows, so the same
data give the same rows on every machine.
"""

import random
from collections.abc import Iterator


def drawn(total: int, seed: int, what: str) -> Iterator[int]:
    """All of `range(total)` in random order, one by one; memory grows with what was taken.

    `what` keeps draws apart that share a seed. A Fisher-Yates shuffle whose untouched part is never
    written down; `random()` is the one function whose sequence Python promises to keep.
    """
    numbers = random.Random(f"{seed}:{what}")  # noqa: S311  # chance, not secrecy
    moved: dict[int, int] = {}
    for taken in range(total):
        pick = taken + int(numbers.random() * (total - taken))
        yield moved.get(pick, pick)
        moved[pick] = moved.pop(taken, taken)
