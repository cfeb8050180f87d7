"""Where things are kept that can be made again: compiled kernels, results of sources."""

import os
from pathlib import Path

from halftone.spec.names import CACHE_DIRECTORY


def cache_candidates() -> list[Path]:
    """Folders to try in turn: what the user named, else what the desktop standard says.

    Empty where neither exists, as for a container's user without an entry and without HOME.
    """
    named = os.environ.get(CACHE_DIRECTORY)
    if named:
        return [Path(named)]
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        return [Path(base) if base else Path.home() / ".cache"]
    except RuntimeError:
        return []


def cache_folder(name: str) -> Path | None:
    """`halftone/NAME` in the first place that can be written, made if need be; else None."""
    for base in cache_candidates():
        folder = base / "halftone" / name
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError:
            continue
        if os.access(folder, os.W_OK | os.X_OK):
            return folder
    return None
