"""A report page as a strict reader sees it, for tests of the page.

page = Page(html)
page.text                     # what can be read, in order
page.values("href")           # the values of an attribute, wherever it stands
"""

from collections import Counter
from html.parser import HTMLParser
from typing import Final

_VOID: Final = {"br", "hr", "img", "input", "link", "meta"}


class Page(HTMLParser):
    """A page as a strict reader sees it: every element is closed by its own end."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: Counter[str] = Counter()
        self.attributes: list[tuple[str, str, str]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.headings: list[str] = []
        self.feed(text)
        self.close()

    @property
    def text(self) -> str:
        """What can be read, in order."""
        return " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements[tag] += 1
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements[tag] += 1
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open[-1] == tag, f"</{tag}> closes <{self.open[-1]}>"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words.append(data)
        if self.open and self.open[-1] in {"h1", "h2", "h3", "span"}:
            self.headings.append(data.strip())

    def values(self, name: str) -> list[str]:
        """The values of an attribute, wherever it stands."""
        return [value for _, found, value in self.attributes if found == name]
