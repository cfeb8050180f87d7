"""Files of a published artifact, read from any store and held against what `artifact.json` says.

Called by `halftone.publish.verifying`. Remote files are streamed through a buffer and never stored.
Whoever wrote the artifact is not trusted: a document is read only up to a size that ours can have.
"""

import hashlib
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Final, TypeVar

from pydantic import ValidationError

from halftone.publish.capacity_cards import is_capacity
from halftone.spec.artifacts import Artifact, manifest_digest
from halftone.spec.documents import Document, WrittenFile, sha256_hex
from halftone.spec.errors import CheckFailed, RefusedInput
from halftone.spec.files import FileSource
from halftone.spec.names import ARTIFACT_FILE, SIGNATURE_FILE, Reason
from halftone.stores.pinned import is_skipped

Kind = TypeVar("Kind", bound=Document)
Progress = Callable[[int], None]

_CHUNK: Final = 8 * 2**20
_THREADS: Final = 4
# Some 150 bytes a file; a work directory has some hundred files.
_MAX_ARTIFACT_BYTES: Final = 16_000_000
# A plan has a row for every tensor, and a model at most some hundred thousand of them.
_MAX_DOCUMENT_BYTES: Final = 512_000_000
# The Hub writes this one itself, and git reads it; no server of models does.
_OF_THE_HUB: Final = ".gitattributes"


class ArtifactReader:
    """The files of the artifact in `source`; every error names the first file that is wrong."""

    def __init__(self, source: FileSource) -> None:
        self._source = source
        self.sizes = {entry.path: entry.size_bytes for entry in source.files()}
        self.artifact = self._artifact()
        self._listed = {file.path: file for file in self.artifact.files}
        self._proven: set[str] = set()

    def card_sizes(self) -> dict[str, int]:
        """Size by path of everything where capacity cards lie."""
        return {path: size for path, size in self.sizes.items() if is_capacity(path)}

    def require_listed(self) -> None:
        """Raise CheckFailed unless exactly the listed files are there, with their sizes."""
        for path, file in self._listed.items():
            if path not in self.sizes:
                raise _differs(path, "is missing")
            if self.sizes[path] != file.sizeBytes:
                raise _differs(path, f"has {self.sizes[path]} bytes, not {file.sizeBytes}")
        for path in sorted(self.sizes.keys() - self._listed.keys()):
            if path not in {ARTIFACT_FILE, _OF_THE_HUB} and not is_capacity(path):
                raise _differs(path, f"is not a file of this artifact ({ARTIFACT_FILE} omits it)")
        for path in self._linked_directories():
            raise _differs(path, "is a link to a directory, and what it leads to is not signed")

    def require_digests(self, progress: Progress) -> None:
        """Raise CheckFailed unless every file has its SHA-256; none is read a second time."""
        progress(sum(self.sizes[path] for path in self._proven))
        files = [file for path, file in self._listed.items() if path not in self._proven]
        files.sort(key=lambda file: -file.sizeBytes)
        with ThreadPoolExecutor(_THREADS, thread_name_prefix="hash") as pool:
            digests = [(file, pool.submit(self._sha256, file, progress)) for file in files]
            try:
                for file, digest in digests:
                    if digest.result() != file.sha256:
                        raise _differs(file.path, "was changed (its SHA-256 differs)")
            finally:
                for _, digest in digests:
                    digest.cancel()

    def document(self, kind: type[Kind], path: str) -> Kind:
        """The document at `path`, proven by its SHA-256."""
        try:
            return kind.model_validate_json(self.content(path))
        except ValidationError as error:
            raise _differs(path, "is not a document of this version") from error

    def content(self, path: str) -> bytes:
        """The bytes of a small file of the artifact, proven by its SHA-256."""
        file = self._listed.get(path)
        if file is None:
            raise _differs(path, f"is not named in {ARTIFACT_FILE}")
        data = self.unproven(path, _MAX_DOCUMENT_BYTES)
        if sha256_hex(data) != file.sha256:
            raise _differs(path, "was changed (its SHA-256 differs)")
        self._proven.add(path)
        return data

    def unproven(self, path: str, limit: int = _MAX_DOCUMENT_BYTES) -> bytes:
        """The bytes at `path` of at most `limit`, whoever wrote them."""
        if path not in self.sizes:
            raise _differs(path, "is missing")
        if self.sizes[path] > limit:
            raise _differs(path, f"has {self.sizes[path]} bytes, more than any such file")
        with _found_wanting():
            return self._source.read_range(path, 0, self.sizes[path])

    def _linked_directories(self) -> Iterator[str]:
        """Links to directories, which no store lists, but a server follows."""
        if self._source.local_path(ARTIFACT_FILE) is None:
            return
        root = Path(self._source.uri)
        for folder, subfolders, _ in os.walk(root):
            links = (Path(folder, name) for name in subfolders)
            paths = (link.relative_to(root).as_posix() for link in links if link.is_symlink())
            yield from (path for path in paths if not is_skipped(path))

    def _artifact(self) -> Artifact:
        data = self.unproven(ARTIFACT_FILE, _MAX_ARTIFACT_BYTES)
        try:
            artifact = Artifact.model_validate_json(data)
        except ValidationError as error:
            raise _differs(ARTIFACT_FILE, "is no document of this version") from error
        paths = [file.path for file in artifact.files]
        if artifact.to_bytes() != data:
            raise _differs(ARTIFACT_FILE, "was edited (it is not canonical JSON)")
        if artifact.compute_digest() != artifact.digest:
            raise _differs(ARTIFACT_FILE, "was edited (its content does not have its digest)")
        if manifest_digest(artifact.files) != artifact.manifestDigest:
            raise _differs(ARTIFACT_FILE, "was edited (its files do not have `manifestDigest`)")
        if artifact.sizeBytes != sum(file.sizeBytes for file in artifact.files):
            raise _differs(ARTIFACT_FILE, "was edited (its files do not have `sizeBytes`)")
        if sorted(set(paths)) != paths or ARTIFACT_FILE in paths or any(map(is_capacity, paths)):
            raise _differs(ARTIFACT_FILE, "was edited (its list of files is not what we write)")
        if artifact.signature != (SIGNATURE_FILE if SIGNATURE_FILE in paths else None):
            raise _differs(ARTIFACT_FILE, f"was edited (`signature` and {SIGNATURE_FILE} differ)")
        return artifact

    def _sha256(self, file: WrittenFile, progress: Progress) -> str:
        digest = hashlib.sha256()
        buffer = memoryview(bytearray(min(_CHUNK, file.sizeBytes)))
        for offset in range(0, file.sizeBytes, _CHUNK):
            piece = buffer[: min(_CHUNK, file.sizeBytes - offset)]
            with _found_wanting():
                self._source.read_into(file.path, offset, piece)
            digest.update(piece)
            progress(len(piece))
        return digest.hexdigest()


@contextmanager
def _found_wanting() -> Iterator[None]:
    """A file that a store refuses (a link that leads away, one that changes) failed the check."""
    try:
        yield
    except RefusedInput as error:
        raise CheckFailed(error.reason, error.subject, error.message) from error


def _differs(path: str, how: str) -> CheckFailed:
    return CheckFailed(
        Reason.DigestDiffers,
        path,
        f"'{path}' {how}; do not use this artifact, fetch it again from its publisher.",
    )
