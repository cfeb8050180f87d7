"""The arithmetic task: what the model is asked, and the held-out items it is judged by.

`corpus.py` packs training rows from here, `evaluate.py` and the tests take the held-out items.
Only the standard library is needed, so that a test can make the items again without torch.
"""

from __future__ import annotations

import json
import random
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# One to four digits an operand, two and three twice as often. The model learns most of it within
# the training budget, but not all, so that damage by quantization moves the score.
OPERAND_DIGITS = (1, 2, 2, 3, 3, 4)
HELD_OUT_ITEMS = 1000
HELD_OUT_SEED = 20260101
HELD_OUT_ONE_IN = 20


@dataclass(frozen=True)
class Item:
    """One question. In a difference `left` is never the smaller, so no answer is negative."""

    left: int
    operator: str
    right: int

    @property
    def prompt(self) -> str:
        return f"{self.left}{self.operator}{self.right}="

    @property
    def answer(self) -> str:
        return str(self.left + self.right if self.operator == "+" else self.left - self.right)

    @property
    def key(self) -> tuple[str, int, int]:
        """The same for `a+b` and `b+a`: holding out one holds out both."""
        if self.operator == "+":
            return ("+", min(self.left, self.right), max(self.left, self.right))
        return ("-", self.left, self.right)

    @property
    def is_held_out(self) -> bool:
        """One question in twenty is never trained on, whichever way round it is written."""
        return zlib.crc32(repr(self.key).encode()) % HELD_OUT_ONE_IN == 0


def draw(source: random.Random) -> Item:
    """Draw one item: operands' lengths are drawn from OPERAND_DIGITS, half are differences."""
    left, right = (_operand(source) for _ in range(2))
    if source.random() < 0.5:
        return Item(left, "+", right)
    return Item(max(left, right), "-", min(left, right))


def _operand(source: random.Random) -> int:
    digits = source.choice(OPERAND_DIGITS)
    return source.randrange(10 ** (digits - 1) if digits > 1 else 0, 10**digits)


def held_out() -> list[Item]:
    """Return the evaluation items: distinct, drawn as the training items are, fixed seed."""
    source = random.Random(HELD_OUT_SEED)
    items: dict[tuple[str, int, int], Item] = {}
    while len(items) < HELD_OUT_ITEMS:
        item = draw(source)
        if item.is_held_out:
            items.setdefault(item.key, item)
    return list(items.values())


def training_items(source: random.Random) -> Iterator[Item]:
    """Yield items for ever, none of which is a held-out question."""
    while True:
        item = draw(source)
        if not item.is_held_out:
            yield item


def write_held_out(path: Path) -> None:
    """Write one JSON object a line, `{"prompt": "12+345=", "answer": "357"}`."""
    lines = [json.dumps({"prompt": item.prompt, "answer": item.answer}) for item in held_out()]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
