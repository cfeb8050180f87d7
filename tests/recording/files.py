"""Where recorded pages lie, and how they are read.

    recording = load()
    recording.pages["ray"][-1]      # the last moment, whole
    recording.versions["vllm"]

Called by the recorder and by contract tests. `NAME.prom` is a page at its last moment, and
`before/N/NAME.prom` at those before, with what somebody needs alone; `index.json` says by which
versions it was written, what stood behind each page and how far moments are apart.
"""

import json
import shutil
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.conftest import ROOT

FOLDER: Final = ROOT / "tests" / "golden" / "metrics"
INDEX: Final = "index.json"
_BEFORE: Final = "before"
_SUFFIX: Final = ".prom"
_HEADED: Final = f"# Recorded by `make record-metrics`; {INDEX} has the versions.\n"


@dataclass(frozen=True)
class Recording:
    """Pages by name, each at every moment; `about` says of each what it is a page of.

    Moments are `interval_s` seconds apart.
    """

    versions: Mapping[str, str]
    about: Mapping[str, str]
    pages: Mapping[str, Sequence[str]]
    interval_s: int

    def last(self) -> dict[str, str]:
        """Every page at its last moment."""
        return {name: pages[-1] for name, pages in self.pages.items()}


def load(folder: Path = FOLDER) -> Recording:
    """What is in `folder`."""
    index: dict[str, Any] = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    before = [folder / _BEFORE / str(number) for number in range(index["moments"] - 1)]
    pages = {
        name: [_text(place / f"{name}{_SUFFIX}") for place in (*before, folder)]
        for name in index["pages"]
    }
    return Recording(index["versions"], index["pages"], pages, index["intervalSeconds"])


def _text(path: Path) -> str:
    """A page without what stands above it; empty where nobody needs anything of it."""
    if not path.exists():
        return ""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    is_headed = lines[1:2] == [_HEADED]
    return "".join(lines[2:] if is_headed else lines)


def save(recording: Recording, needed: Collection[str], folder: Path = FOLDER) -> None:
    """Put everything in the place of what is there. `needed` are names of samples."""
    shutil.rmtree(folder, ignore_errors=True)
    (moments,) = {len(pages) for pages in recording.pages.values()}
    for name, pages in recording.pages.items():
        for number, page in enumerate(pages):
            is_last = number == moments - 1
            place = folder if is_last else folder / _BEFORE / str(number)
            place.mkdir(parents=True, exist_ok=True)
            text = f"{_head(recording.about[name])}{page}" if is_last else _only(page, needed)
            if text:
                (place / f"{name}{_SUFFIX}").write_text(text, encoding="utf-8")
    index = {
        "versions": dict(sorted(recording.versions.items())),
        "intervalSeconds": recording.interval_s,
        "moments": moments,
        "pages": dict(recording.about),
    }
    (folder / INDEX).write_text(f"{json.dumps(index, indent=1)}\n", encoding="utf-8")


def _head(about: str) -> str:
    return f"# {about}\n{_HEADED}"


def _only(page: str, needed: Collection[str]) -> str:
    lines = page.splitlines(keepends=True)
    return "".join(line for line in lines if line.partition("{")[0].partition(" ")[0] in needed)
