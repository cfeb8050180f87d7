"""What kubectl prints, without what differs from run to run, and the files that it must equal.

Called by tests. To write the files again after a change that was meant:

    WRITE_GOLDENS=1 .venv/bin/python -m pytest tests/api/test_crd_kubectl.py
"""

import os
import re
from itertools import pairwise
from typing import Final

from tests.conftest import ROOT

FOLDER: Final = ROOT / "tests" / "golden"
_GAP: Final = "   "
_MASKS: Final = (
    (r"\b\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", "<time>"),
    (r"\b[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}\b", "<uid>"),
    (r"(Resource Version: +)\d+", r"\g<1><version>"),
    # The end of a pod's name.
    (r"(-\d+(?:-\d+)?)-[bcdfghjklmnpqrstvwxz2456789]{5}\b", r"\1-<pod>"),
)


def agrees_with_golden(name: str, text: str) -> bool:
    """Whether `text` is what the golden file `name` holds; writes it first where that is wanted."""
    path = FOLDER / name
    if os.environ.get("WRITE_GOLDENS"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return path.is_file() and path.read_text() == text


def masked(text: str) -> str:
    """`text` with a word in the place of each time, uid, version, age and random ending."""
    for pattern, word in _MASKS:
        text = re.sub(pattern, word, text)
    lines = text.splitlines()
    for start, line in enumerate(lines):
        if re.search(r"\bage\b", line, re.IGNORECASE) and line.lstrip()[:4] in ("NAME", "Type"):
            lines[start:] = _without_ages(lines[start:])
            break
    return "\n".join(line.rstrip() for line in lines) + "\n"


def _without_ages(lines: list[str]) -> list[str]:
    """A table with `<age>` in its column of ages; columns are as wide as what is left needs."""
    starts = [found.start() for found in re.finditer(r"(?<!\S)\S+", lines[0])]
    rows = [
        [line[a:b].strip() for a, b in pairwise([*starts, None])]
        for line in lines
        if set(line) - set(" -")
    ]
    (age,) = (place for place, title in enumerate(rows[0]) if title.lower() == "age")
    for row in rows[1:]:
        row[age] = "<age>"
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    indent = " " * starts[0]
    return [
        indent + _GAP.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    ]
