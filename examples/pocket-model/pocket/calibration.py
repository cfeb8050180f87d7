"""Calibration data for the example jobs: rows such as the model was trained on, and no others.

    python -m pocket.calibration calibration.jsonl

Sums and differences, as text and through the chat template, and passages of Python: this folder's
own code, since the standard library that the model was trained on is under another licence. No
question is one of those that the model is judged by. Only the standard library is needed, so that a
test can make the questions again.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from pocket.arithmetic import Item, training_items

SEED = 20260102
ARITHMETIC_ROWS, ITEMS_A_ROW = 48, 7
CHAT_ROWS, TURNS_A_ROW = 16, 3
# At most about 128 tokens, the length that the model was trained on.
PASSAGE_CHARACTERS = 300


def questions(seed: int = SEED) -> list[dict[str, Any]]:
    """Return the rows of arithmetic, then those of conversations about it."""
    items = training_items(random.Random(seed))
    rows = [_text(islice(items, ITEMS_A_ROW)) for _ in range(ARITHMETIC_ROWS)]
    return [*rows, *(_conversation(islice(items, TURNS_A_ROW)) for _ in range(CHAT_ROWS))]


def passages(folder: Path) -> list[dict[str, Any]]:
    """Return this folder's code in passages of whole lines."""
    rows = []
    for path in sorted([*folder.glob("*.py"), *folder.glob("pocket/*.py")]):
        passage = ""
        for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
            if passage and len(passage) + len(line) > PASSAGE_CHARACTERS:
                rows.append({"text": passage})
                passage = ""
            passage += line
    # A tokenizer would take `<|image_pad|>` in a program for the place of an image.
    return [row for row in rows if "<|" not in row["text"]]


def _text(items: Iterator[Item]) -> dict[str, Any]:
    return {"text": "".join(f"{item.prompt}{item.answer}\n" for item in items)}


def _conversation(items: Iterator[Item]) -> dict[str, Any]:
    turns = [
        {"role": role, "content": said}
        for item in items
        for role, said in (("user", item.prompt), ("assistant", item.answer))
    ]
    return {"messages": turns}


def main(path: Path) -> None:
    """Write one JSON object a line."""
    rows = [*questions(), *passages(Path(__file__).resolve().parents[1])]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
