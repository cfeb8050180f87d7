"""Links in documents: each relative one leads to a file and a heading that are there.

We test these aspects:
- relative links of README.md, AGENTS.md, CONTRIBUTING.md, CHANGELOG.md, docs and the charts'
  READMEs lead to files of the repository, and their anchors to headings, as a forge makes them;
- links that leave the repository begin with https and hold no spaces; nothing outside can be
  reached from here, so no test says that they lead anywhere;
- files of the repository that are named in code spans are there;
- a link that leads nowhere is found.
"""

import posixpath
import re
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tools.markdown_pages import anchors, blocks, links, pages, without_fences

PAGES = {str(path.relative_to(ROOT)): path.read_text() for path in pages()}


def wrong(here: str, target: str) -> str | None:
    """What is wrong with a link of the document `here`; None where it leads somewhere."""
    if re.match(r"[a-z][a-z0-9+.-]*:|//", target):
        shaped = re.fullmatch(r"https://[\w.-]+(/[^\s]*)?|mailto:\S+@\S+", target)
        return None if shaped else "is no address with https"
    path, _, anchor = target.partition("#")
    name = posixpath.normpath(posixpath.join(posixpath.dirname(here), path)) if path else here
    if not (ROOT / name).exists():
        return f"leads to {name}, which is not there"
    if anchor and anchor not in anchors((ROOT / name).read_text()):
        return f"leads to a heading that {name} does not have"
    return None


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_somewhere(name: str) -> None:
    found = {one.target: wrong(name, one.target) for one in links(PAGES[name])}
    assert {target: why for target, why in found.items() if why} == {}


def test_links_are_found() -> None:
    found = [one for text in PAGES.values() for one in links(text)]
    assert len(found) > 300
    assert any(one.is_external for one in found)


def test_files_that_are_named_are_there() -> None:
    """Of the code and its tests; what a command makes, or a chart has, is named by other words."""
    named = {
        (name, span)
        for name, text in PAGES.items()
        for span in re.findall(
            r"`((?:src|tests|tools|charts|docs|images|benchmarks)/[\w./-]+)`", text
        )
    }
    assert len(named) > 30
    assert {(name, span) for name, span in named if not (ROOT / span).exists()} == set()


@pytest.mark.parametrize(
    ("target", "told"),
    [
        ("nowhere.md", "docs/nowhere.md, which is not there"),
        ("../charts/halftone/README.md", "which is not there"),
        ("gates.md#verdicts", "a heading that docs/gates.md does not have"),
        ("#nothing", "a heading that docs/security.md does not have"),
        ("http://example.com/page", "is no address with https"),
        ("gates.md#the-verdict", None),
        ("../charts/halftone-operator/README.md#the-crd", None),
        ("https://example.com/page", None),
    ],
)
def test_a_link_that_leads_nowhere_is_found(target: str, told: str | None) -> None:
    found = wrong("docs/security.md", target)
    assert (found is None) if told is None else (found is not None and told in found)


TEXT = """\
# One `two` (three)

See [here](a.md#b), ![a picture](../c.svg) and [there][1].

`[no](link.md)` and `` a ` [none](either.md) ``, `^[a-z]([a-z])?$`.

## Again
## Again

<!-- run -->
```sh
# no heading
halftone [x](y.md)
```

```yaml
a: 1
```
"""


def test_links_headings_and_blocks_are_read() -> None:
    assert [one.target for one in links(TEXT)] == ["a.md#b", "../c.svg"]
    assert [TEXT[one.start : one.end] for one in links(TEXT)] == ["a.md#b", "../c.svg"]
    assert anchors(TEXT) == {"one-two-three", "again", "again-1"}
    shell, plain = blocks(TEXT)
    assert (shell.language, shell.mark, shell.line) == ("sh", "run", 11)
    assert (plain.language, plain.mark, plain.text) == ("yaml", None, "a: 1\n")
    assert len(without_fences(TEXT)) == len(TEXT)


def test_a_reader_of_the_repository_needs_no_path_of_the_site() -> None:
    there = {str(Path(name).parent) for name in PAGES}
    assert {".", "docs", "docs/adr", "docs/reference", "docs/runbooks"} <= there
