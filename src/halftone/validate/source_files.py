"""The source as vLLM needs it: a directory, and a name under which its results are kept.

vLLM loads from a directory. A remote source is fetched once, into the cache, and results that were
measured on it are kept there too: the next recipe of the same source needs neither again. Called by
`halftone.validate.engine_gates`.
"""

import json
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from halftone.spec.cache import cache_folder
from halftone.spec.documents import (
    canonical_json,
    sha256_hex,
    sync_directory,
    write_atomically,
)
from halftone.spec.errors import EnvironmentFault
from halftone.spec.files import FileSource
from halftone.spec.names import CACHE_DIRECTORY, CONFIG_FILE, Reason
from halftone.validate.alone import alone

_CHUNK: Final = 8 * 2**20


def directory_of(source: FileSource) -> Path:
    """Where all files of `source` lie: where they are, or where they have been fetched to.

    Raises EnvironmentFault: StorageFailed when there is no place for them, OutputBusy while another
    process fetches them.
    """
    if source.local_path(CONFIG_FILE) is not None:
        # As it is named: where a link leads, as in the Hub's own cache, files have other names.
        return Path(source.uri).absolute()
    folder = _folder(source)
    target = folder / "files"
    if target.is_dir():
        return target
    told_busy = (
        f"Another process is fetching '{source.uri}' into the cache; run the same command again "
        "when it has ended."
    )
    with alone(folder / "lock", told_busy):
        if not target.is_dir():  # nobody has fetched it in between
            _fetch_all(source, target)
    return target


def _fetch_all(source: FileSource, target: Path) -> None:
    partial = target.with_name(f"{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        for entry in source.files():
            _fetch(source, entry.path, entry.size_bytes, partial / entry.path)
        for folder in {(partial / entry.path).parent for entry in source.files()}:
            sync_directory(folder)
        partial.rename(target)
        sync_directory(target.parent)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise EnvironmentFault(
            Reason.StorageFailed,
            str(target),
            f"The source could not be fetched to '{target}' ({error.strerror}); make room there, "
            f"or name another place in {CACHE_DIRECTORY}.",
        ) from error


def _fetch(source: FileSource, path: str, size: int, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("wb") as file:
        for offset in range(0, size, _CHUNK):
            file.write(source.read_range(path, offset, min(_CHUNK, size - offset)))
        # The folder is believed as soon as it has its name, also after a power cut.
        file.flush()
        os.fsync(file.fileno())


class SourceResults:
    """What has been measured on one revision of a source, by the question that was asked.

    A directory has no revision; there every file's size and time of change stand for it.
    """

    def __init__(self, source: FileSource) -> None:
        self._folder = cache_folder(f"sources/{source_key(source)}")

    def recall(self, question: str, asked: dict[str, Any]) -> dict[str, Any] | None:
        """The answer that was kept, or None."""
        path = self._path(question, asked)
        if path is None or not path.is_file():
            return None
        try:
            answer = json.loads(path.read_bytes())
        except (OSError, ValueError):  # damaged: measured anew
            return None
        return answer if isinstance(answer, dict) else None

    def keep(self, question: str, asked: dict[str, Any], answer: dict[str, Any]) -> None:
        """Keep an answer where there is a place for it; without one it is measured again."""
        path = self._path(question, asked)
        if path is not None:
            with suppress(OSError):  # a full disk is no reason to lose what took hours
                write_atomically(path, json.dumps(answer).encode())

    def or_measured(
        self, question: str, asked: dict[str, Any], measure: Callable[[], dict[str, Any]]
    ) -> dict[str, Any]:
        """The kept answer, else what `measure` gives, which is kept."""
        known = self.recall(question, asked)
        if known is None:
            known = measure()
            self.keep(question, asked, known)
        return known

    def _path(self, question: str, asked: dict[str, Any]) -> Path | None:
        if self._folder is None:
            return None
        return self._folder / f"{question}-{sha256_hex(canonical_json(asked))[:24]}.json"


def source_key(source: FileSource) -> str:
    """The name of a revision of a source: 24 hexadecimal digits."""
    stamps = []
    for entry in source.files():
        path = source.local_path(entry.path)
        changed = path.stat().st_mtime_ns if path is not None else 0
        stamps.append([entry.path, entry.size_bytes, changed])
    return sha256_hex(canonical_json([source.uri, source.revision, stamps]))[:24]


def _folder(source: FileSource) -> Path:
    folder = cache_folder(f"sources/{source_key(source)}")
    if folder is None:
        raise EnvironmentFault(
            Reason.StorageFailed,
            CACHE_DIRECTORY,
            f"vLLM needs '{source.uri}' in a directory, and no cache directory can be written; "
            f"name one in {CACHE_DIRECTORY}.",
        )
    return folder
