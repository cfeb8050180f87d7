"""Under which licences the packages of each image are, and whether any keeps us from handing it on.

Called by `python -m tools.release check`. A package says its licence in its own metadata, which are
read where it is installed: `.venv` and `.venvs`. `licences.yaml` has what people have judged: every
licence that may be handed on, and packages whose metadata say nothing. A licence that nobody
judged, or a package that is installed nowhere here, is a problem, not a pass.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from email.message import Message
from email.parser import HeaderParser
from pathlib import Path
from typing import Any, Final

import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tools.environments import ENVIRONMENTS
from tools.release.bills import PARTS, requirements_of

JUDGED: Final = Path(__file__).with_name("licences.yaml")


@dataclass(frozen=True)
class Licensed:
    """One package of one or more images; `terms` is None where nobody has judged its licence."""

    name: str
    version: str
    licence: str | None
    terms: str | None
    images: tuple[str, ...]


def judged(path: Path = JUDGED) -> tuple[dict[str, str], dict[str, str]]:
    """Terms by licence, and licence by package, as people have written them down."""
    document = yaml.safe_load(path.read_text(encoding="utf-8"))
    terms = {
        licence: name for name, block in document["terms"].items() for licence in block["licences"]
    }
    packages = {name: block["licence"] for name, block in document["packages"].items()}
    return terms, packages


def licensed(folders: list[Path] | None = None) -> list[Licensed]:
    """Every package of every image."""
    places = site_packages() if folders is None else folders
    installed = dict(row for place in places for row in _installed(place))
    terms, by_hand = judged()
    held: dict[tuple[str, str], list[str]] = {}
    for image in PARTS:
        for line in requirements_of(image).splitlines():
            pin = Requirement(line.split(" --hash")[0])
            stated = str(pin.specifier).removeprefix("==")
            held.setdefault((canonicalize_name(pin.name), stated), []).append(image)
    found = []
    for (name, stated), images in sorted(held.items()):
        licence = by_hand.get(name) or installed.get((name, stated))
        judgement = terms.get(licence) if licence else None
        found.append(Licensed(name, stated, licence, judgement, tuple(images)))
    return found


def site_packages() -> list[Path]:
    """Where packages lie in the environments of this checkout that are there."""
    return [
        place
        for environment in ENVIRONMENTS.values()
        for place in environment.folder.glob("lib/python3*/site-packages")
    ]


def _installed(folder: Path) -> Iterator[tuple[tuple[str, str], str | None]]:
    """Licence by name and version; another version may have another licence."""
    for path in folder.glob("*.dist-info/METADATA"):
        text = path.read_text(encoding="utf-8", errors="replace").partition("\n\n")[0]
        metadata = HeaderParser().parsestr(text)
        if metadata["Name"]:
            what = canonicalize_name(metadata["Name"]), str(metadata["Version"])
            yield what, stated(metadata, path.parent)


def stated(metadata: Message, folder: Path) -> str | None:
    """A licence by what says it best: an SPDX expression, classifiers, a field, the text itself."""
    if metadata["License-Expression"]:
        return str(metadata["License-Expression"])
    classifiers = [str(one) for one in metadata.get_all("Classifier", [])]
    named = [one.split(" :: ")[-1] for one in classifiers if one.startswith("License :: ")]
    named = [one for one in named if one != "OSI Approved"]
    if named:
        return "; ".join(sorted(named))
    field = str(metadata["License"] or "").strip()
    if field and "\n" not in field:
        return field
    texts = sorted(path for path in folder.rglob("LICEN[CS]E*") if path.is_file())
    for text in texts[:1]:
        lines = (line.strip() for line in text.read_text(errors="replace").splitlines())
        return next((line for line in lines if line), None)
    return None


def problems(output: Path) -> list[str]:
    """Write `licences.json`, and say what nobody has judged."""
    found = licensed()
    output.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = [asdict(one) for one in found]
    (output / "licences.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return told(found)


def told(found: list[Licensed]) -> list[str]:
    """What nobody has judged, or could read."""
    unread = [one for one in found if one.licence is None]
    sentences = [
        f"{one.name} {one.version} is under '{one.licence}', which nobody has judged; read it, and "
        "write it into tools/release/licences.yaml if it may be handed on."
        for one in found
        if one.licence is not None and one.terms is None
    ]
    if unread:
        images = sorted({image for one in unread for image in one.images})
        names = ", ".join(f"{one.name} {one.version}" for one in unread)
        sentences.append(
            f"NOT CHECKED: {len(unread)} packages of {', '.join(images)} are installed in no "
            f"environment here, so nobody read their licences ({names}); make the environments "
            "(`make setup .venvs/serve-gpu/ready`)."
        )
    return sentences
