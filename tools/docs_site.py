"""What mkdocs does not do by itself: pages that lie beside `docs`, and sections that list a folder.

`mkdocs.yml` names this file as a hook, so mkdocs calls the functions `on_…`; `make docs` builds the
site. Documents keep the places and the relative links that a forge shows them by. In the site
README.md is the first page, and what a page links to outside of `docs` comes along: documents as
pages, everything else as files. A link to a folder, or to nothing, stays as it is, and mkdocs warns
of it, which `--strict` makes an error.
"""

import posixpath
from pathlib import Path
from typing import Any, Final

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from tools.markdown_pages import DOCS, ROOT, links

# Documents beside `docs`, by where they are in the site.
_BESIDE: Final = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "AGENTS.md": "room-map.md",
    **{one: "examples/index.md" for one in ("examples/README.md",) if (ROOT / one).is_file()},
    **{
        str(path.relative_to(ROOT)): f"{folder}/{path.parent.name}.md"
        for folder in ("charts", "examples")
        for path in sorted(ROOT.glob(f"{folder}/*/README.md"))
    },
}
_OF_SITE: Final = {site: repository for repository, site in _BESIDE.items()}
_ALL: Final = "/*"


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the pages of a folder in the place of `folder/*` in the navigation."""
    config.nav = _listed(config.nav)
    return config


def _listed(nav: Any) -> Any:
    if isinstance(nav, list):
        return [_listed(entry) for entry in nav]
    if isinstance(nav, dict):
        return {title: _listed(entry) for title, entry in nav.items()}
    if not nav.endswith(_ALL):
        return nav
    found = sorted((DOCS / nav.removesuffix(_ALL)).glob("*.md"))
    # What introduces the others comes first.
    found.sort(key=lambda path: path.name != "README.md")
    return [str(path.relative_to(DOCS)) for path in found]


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the documents beside `docs`, and the files that any document links to."""
    for repository, site in _BESIDE.items():
        text = (ROOT / repository).read_text(encoding="utf-8")
        files.append(File.generated(config, site, content=text))
    for path in sorted({path for file in files.documentation_pages() for path in _linked(file)}):
        files.append(File.generated(config, _as_file(path), abs_src_path=str(ROOT / path)))
    return files


def _linked(file: File) -> set[str]:
    """Paths of files in the repository that a page links to, and that are not in the site."""
    here = _repository(file.src_uri)
    targets = {
        _target(here, one.target) for one in links(file.content_string) if not one.is_external
    }
    outside = {path for path in targets if not path.startswith("docs/") and path not in _BESIDE}
    return {path for path in outside if Path(ROOT, path).is_file()}


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001
    """Turn links as they hold in the repository into links as they hold in the site."""
    here = _repository(page.file.src_uri)
    for link in reversed(links(markdown)):
        if link.is_external or link.target.startswith("#"):
            continue
        path, mark, anchor = link.target.partition("#")
        site = _site(_target(here, path))
        if site is not None:
            relative = posixpath.relpath(site, posixpath.dirname(page.file.src_uri) or ".")
            markdown = f"{markdown[: link.start]}{relative}{mark}{anchor}{markdown[link.end :]}"
    return markdown


def _repository(site: str) -> str:
    """Where a page of the site lies in the repository."""
    return _OF_SITE.get(site, f"docs/{site}")


def _target(here: str, link: str) -> str:
    """The path in the repository that a relative link of the document `here` leads to."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(here), link.partition("#")[0]))


def _site(path: str) -> str | None:
    """Where something of the repository is in the site; None where it is not."""
    if path in _BESIDE:
        return _BESIDE[path]
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    return _as_file(path) if Path(ROOT, path).is_file() else None


def _as_file(path: str) -> str:
    return f"files/{path}"
