"""Everything of the source that is not a weight: what is carried over, and under which licence."""

import re
from collections.abc import Sequence
from typing import Final

from halftone.checkpoint.index import PICKLES
from halftone.spec.files import FileEntry, FileSource
from halftone.spec.names import (
    ARTIFACT_DOCUMENTS,
    ARTIFACT_FILE,
    CALIBRATION_DIRECTORY,
    CAPACITY_DIRECTORY,
    CONFIG_FILE,
    EVIDENCE_DIRECTORY,
    MODELOPT_CONFIG_FILE,
)
from halftone.spec.yaml_text import front_matter

_WEIGHTS: Final = (
    *PICKLES,
    ".safetensors",
    ".safetensors.index.json",
    ".bin.index.json",
    ".h5",
    ".msgpack",
    ".gguf",
    ".onnx",
    ".tflite",
)
# Written anew, untrue of the result, or called like a folder of the artifact.
_REPLACED: Final = ARTIFACT_DOCUMENTS | {
    ARTIFACT_FILE,
    CALIBRATION_DIRECTORY,
    CAPACITY_DIRECTORY,
    EVIDENCE_DIRECTORY,
    CONFIG_FILE,
    MODELOPT_CONFIG_FILE,
    "recipe.yaml",
}
_LICENCE_FILE = re.compile(r"^(licen[cs]e|copying|notice)(\.\w+)?$", re.IGNORECASE)
# What an identifier may consist of; anything else in its place is no licence.
_IDENTIFIER = re.compile(r"^\w[\w.+-]*$")
_CARD_BYTES: Final = 65_536


def carried_files(files: Sequence[FileEntry]) -> tuple[FileEntry, ...]:
    """Top-level files that go into the output unchanged: tokenizer, templates, licence, card."""
    return tuple(
        entry
        for entry in files
        if "/" not in entry.path
        and not entry.path.startswith(".")
        and entry.path not in _REPLACED
        and not entry.path.endswith(_WEIGHTS)
    )


def left_behind(files: Sequence[FileEntry]) -> tuple[str, ...]:
    """Files in sub-directories, which are neither weights nor carried."""
    return tuple(
        entry.path
        for entry in files
        if "/" in entry.path and not entry.path.startswith(".") and not _is_weight(entry.path)
    )


def licence(source: FileSource, files: Sequence[FileEntry]) -> str | None:
    """The licence's identifier from the model card, else the licence file's name, else None.

    A card that lists several gives all of them, `mit, agpl-3.0`: whoever publishes has to keep
    every one.
    """
    names = {entry.path: entry for entry in files}
    card = names.get("README.md")
    if card is not None:
        text = source.read_range(card.path, 0, min(card.size_bytes, _CARD_BYTES))
        found = _stated_licences(text.decode("utf-8", errors="replace"))
        if found:
            return ", ".join(found)
    return next((name for name in sorted(names) if _LICENCE_FILE.match(name)), None)


def _stated_licences(card: str) -> list[str]:
    """The identifiers under `license` in a card's front matter."""
    stated = front_matter(card).get("license")
    listed = stated if isinstance(stated, list) else [stated]
    return [name for name in listed if isinstance(name, str) and _IDENTIFIER.match(name)]


def _is_weight(path: str) -> bool:
    return path.endswith(_WEIGHTS)
