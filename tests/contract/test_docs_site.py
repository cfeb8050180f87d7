"""The site: mkdocs builds it without a warning, and a page or link that is wrong is one.

We test these aspects:
- `mkdocs build --strict` succeeds; every document is a page of it, and in the navigation;
- links that hold in the repository hold in the site, also of documents and files beside
  `docs`, and their anchors;
- lists and tables come out as such, and nothing is fetched from elsewhere by a reader;
- a link that leads nowhere, a missing heading and a page that nobody lists stop it.
"""

import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest

from tests.conftest import ROOT

BESIDE = {"README.md": "index.html", "CONTRIBUTING.md": "contributing.html"}


def build(root: Path, site: Path) -> subprocess.CompletedProcess[str]:
    """Build the site of a checkout as `make docs` does."""
    return subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(site)],
        cwd=root,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


class Page(HTMLParser):
    """What a page of the site links to, what can be linked to in it, and what it loads."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.ids: set[str] = set()
        self.loaded: list[str] = []
        self.missing: list[str] = []
        self.text = text
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note what counts of one tag."""
        given = dict(attrs)
        self.ids |= {given["id"] or ""} if "id" in given else set()
        if tag == "a":
            self.links.append(given.get("href") or "")
        elif tag in {"script", "img"} and given.get("src"):
            self.loaded.append(given["src"] or "")
        elif tag == "link" and given.get("rel") in {"stylesheet", "preload", "icon"}:
            self.loaded.append(given.get("href") or "")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Page]:
    """Every page of the site, built once."""
    folder = tmp_path_factory.mktemp("site")
    done = build(ROOT, folder)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    found = {
        str(path.relative_to(folder)): Page(path.read_text()) for path in folder.rglob("*.html")
    }
    for name, page in found.items():
        page.missing = [one for one in page.links if not leads(folder, found, name, one)]
    return found


def leads(folder: Path, pages: dict[str, Page], here: str, link: str) -> bool:
    """Whether a link of the page `here` leads to a file of the site, and an id of it."""
    if re.match(r"[a-z]+:|//", link) or here == "404.html":
        return True
    path, _, anchor = unquote(link).partition("#")
    target = os.path.normpath(Path(here).parent / path) if path else here
    if not (folder / target).exists():
        return False
    return not anchor or target not in pages or anchor in pages[target].ids


def test_every_document_is_a_page(site: dict[str, Page]) -> None:
    wanted = {
        str(path.relative_to(ROOT / "docs").with_suffix(".html")).replace("README", "index")
        for path in (ROOT / "docs").rglob("*.md")
    }
    assert wanted | set(BESIDE.values()) <= site.keys()
    assert len(site) > 60


def test_links_of_the_site_lead_somewhere(site: dict[str, Page]) -> None:
    assert {name: page.missing for name, page in site.items() if page.missing} == {}


def test_documents_and_files_beside_docs_come_along(site: dict[str, Page]) -> None:
    assert "charts/halftone-operator.html" in site["cluster.html"].links
    assert "files/examples/01-pocket-model.yaml" in site["first-job.html"].links
    assert "../health-rules.html" in site["charts/halftone-operator.html"].links
    assert "gates.html" in site["index.html"].links


def test_a_reader_fetches_nothing_from_elsewhere(site: dict[str, Page]) -> None:
    assert all(page.loaded for page in site.values())
    foreign = {one for page in site.values() for one in page.loaded if re.match(r"https?:|//", one)}
    assert foreign == set()


def test_lists_and_tables_come_out_as_such(site: dict[str, Page]) -> None:
    for name, page in site.items():
        shown = page.text.partition("<article")[2].partition("</article>")[0]
        shown = re.sub(r"(?s)<(pre|code)\b.*?</\1>", "", shown)
        assert re.findall(r"(?m)^(?:[-*|] |\d+\. ).*$", shown) == [], name
        assert "```" not in shown, name


WRONG = {
    "a page": ("[x](nowhere.md)", "nowhere.md"),
    "a heading": ("[x](gates.md#no-such-heading)", "no-such-heading"),
    "a file beside docs": ("[x](../examples/99-nothing.yaml)", "99-nothing.yaml"),
    "a folder": ("[x](../examples/)", "examples"),
}


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small checkout of one's own: the configuration, the tools and a few pages."""
    root = tmp_path_factory.mktemp("checkout")
    shutil.copytree(ROOT / "tools", root / "tools", ignore=shutil.ignore_patterns("go"))
    for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "AGENTS.md"):
        (root / name).write_text("# A page\n")
    (root / "docs").mkdir()
    (root / "docs" / "gates.md").write_text("# Gates\n")
    text = (ROOT / "mkdocs.yml").read_text().partition("\nnav:\n")[0]
    nav = "- Home: index.md\n- Gates: gates.md\n- contributing.md\n- changelog.md\n- room-map.md\n"
    (root / "mkdocs.yml").write_text(f"{text}\nnav:\n{nav}")
    return root


def test_a_small_site_is_built(checkout: Path, tmp_path: Path) -> None:
    done = build(checkout, tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "index.html").is_file()


@pytest.mark.parametrize("what", WRONG)
def test_a_link_that_leads_nowhere_stops_it(checkout: Path, tmp_path: Path, what: str) -> None:
    link, told = WRONG[what]
    (checkout / "docs" / "gates.md").write_text(f"# Gates\n\n{link}\n")
    done = build(checkout, tmp_path)
    (checkout / "docs" / "gates.md").write_text("# Gates\n")
    assert done.returncode != 0
    assert told in done.stderr


def test_a_page_that_nobody_lists_stops_it(checkout: Path, tmp_path: Path) -> None:
    (checkout / "docs" / "lost.md").write_text("# Lost\n")
    done = build(checkout, tmp_path)
    (checkout / "docs" / "lost.md").unlink()
    assert done.returncode != 0
    assert "lost.md" in done.stderr
