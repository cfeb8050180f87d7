"""Reads the Markdown of this repository: its links, what they may point at, and blocks of code.

Called by `tools.docs_site`, which makes the site, and by the tests that hold documents to the tree.
It knows the Markdown that is written here, which both a forge and the site's renderer understand:
headings with `#`, fences of backquotes at the beginning of a line, links in one line.
"""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
DOCS: Final = ROOT / "docs"

_FENCE: Final = re.compile(r"(?ms)^(?P<fence>```+)(?P<language>[^\n`]*)\n(?P<text>.*?)^(?P=fence)$")
_SPAN: Final = re.compile(r"(?s)(?<!`)(`+)(?!`)(.+?)(?<!`)\1(?!`)")
_LINK: Final = re.compile(r"!?\[(?P<text>[^\]]*)\]\((?P<target>[^()\s]+)\)")


@dataclass(frozen=True)
class Link:
    """Where a link leads, and where its target stands in the text."""

    target: str
    start: int
    end: int

    @property
    def is_external(self) -> bool:
        """Whether it leads out of the repository."""
        return bool(re.match(r"[a-z][a-z0-9+.-]*:|//", self.target))


@dataclass(frozen=True)
class Block:
    """Fenced code: language, text, the line that it begins at, and the comment right above."""

    language: str
    text: str
    line: int
    mark: str | None


def pages() -> list[Path]:
    """Every document for people."""
    found = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "AGENTS.md", "CHANGELOG.md")]
    beside = (
        one for folder in ("charts", "examples") for one in ROOT.glob(f"{folder}/*/README.md")
    )
    return [*found, *sorted(DOCS.rglob("*.md")), ROOT / "examples" / "README.md", *sorted(beside)]


def links(text: str) -> list[Link]:
    """All links and images; none of those in code."""
    shown = without_code(text)
    return [Link(m["target"], *m.span("target")) for m in _LINK.finditer(shown)]


def without_code(text: str) -> str:
    """The text with spaces in the place of fenced code and code spans, of the same length."""
    return _SPAN.sub(_blank, without_fences(text))


def without_fences(text: str) -> str:
    """The text with spaces in the place of fenced code alone."""
    return _FENCE.sub(_blank, text)


def _blank(match: re.Match[str]) -> str:
    return re.sub(r"[^\n]", " ", match[0])


def anchors(text: str) -> set[str]:
    """What a link to a heading of the text may end with, as a forge makes it of the heading."""
    seen: Counter[str] = Counter()
    found = set()
    for heading in _headings(text):
        name = _slug(heading)
        found.add(f"{name}-{seen[name]}" if seen[name] else name)
        seen[name] += 1
    return found


def _headings(text: str) -> Iterator[str]:
    shown = without_fences(text)
    yield from (match[1] for match in re.finditer(r"(?m)^#{1,6} +(.+?) *$", shown))


def _slug(heading: str) -> str:
    shown = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
    kept = "".join(each for each in shown.lower() if each.isalnum() or each in "-_ ")
    return kept.strip().replace(" ", "-")


def blocks(text: str) -> list[Block]:
    """Fenced code in order; `mark` is the HTML comment right above, if there is one."""
    found = []
    for match in _FENCE.finditer(text):
        line = text.count("\n", 0, match.start()) + 1
        mark = _comment_above(text[: match.start()])
        found.append(Block(match["language"].strip(), match["text"], line, mark))
    return found


def _comment_above(text: str) -> str | None:
    """What an HTML comment says that the text ends with."""
    text = text.rstrip()
    if not text.endswith("-->"):
        return None
    return text[text.rindex("<!--") :].removeprefix("<!--").removesuffix("-->").strip()
