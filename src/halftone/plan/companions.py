"""Everything of the source that is not a weight: what is carried over, and under which licence."""

import re
from collections.abc import Sequence
from typing import Final

from halftone.checkpoint.index import PICKLES
from halftone.spec.files import FileEntry, FileSource
from halftone.spec.model_cards import MOST_CARD_BYTES, front_matter, stated_licences
from halftone.spec.names import (
    ARTIFACT_DOCUMENTS,
    ARTIFACT_FILE,
    CALIBRATION_DIRECTORY,
    CAPACITY_DIRECTORY,
    CONFIG_FILE,
    EVIDENCE_DIRECTORY,
    MODELOPT_CONFIG_FILE,
)

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
        text = source.read_range(card.path, 0, min(card.size_bytes, MOST_CARD_BYTES))
        found = stated_licences(front_matter(text.decode("utf-8", errors="replace")))
        if found:
            return ", ".join(found)
    return next((name for name in sorted(names) if _LICENCE_FILE.match(name)), None)


def _is_weight(path: str) -> bool:
    return path.endswith(_WEIGHTS)
