"""The little Markdown that the pages are made of. Called by the modules beside it."""

from collections.abc import Iterable, Sequence
from typing import Final

HEAD: Final = "<!-- Written by `make generate`; do not edit. -->"


def page(title: str, told: str, *parts: str) -> str:
    """A whole page: a title, what the page is, and its parts, which are blocks of Markdown."""
    return "\n\n".join([HEAD, f"# {title}", told, *parts]) + "\n"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; cells are Markdown of one line."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(map(cell, row)) + " |" for row in rows]
    return "\n".join(lines)


def cell(text: str) -> str:
    """Text as a cell may hold it."""
    return " ".join(text.split()).replace("|", "\\|")


def code(text: object) -> str:
    """Text as code, though it may hold a backquote itself."""
    told = str(text)
    return f"`` {told} ``" if "`" in told else f"`{told}`"


def choice(words: Iterable[object]) -> str:
    """Words of which one is meant."""
    told = [code(word) for word in words]
    return told[0] if len(told) == 1 else f"{', '.join(told[:-1])} or {told[-1]}"


def anchor(heading: str) -> str:
    """What a heading of word characters, dots, brackets and spaces is linked by."""
    kept = "".join(each for each in heading.lower() if each.isalnum() or each in "-_ ")
    return kept.strip().replace(" ", "-")
