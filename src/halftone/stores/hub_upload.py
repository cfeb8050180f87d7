"""The files of one artifact on their way to the Hub: proven, sent, and counted as they go up.

Called by `halftone.stores.hub_target`. Nothing here makes anything visible: large files go to the
Hub's store, where they wait for the commit that names them; what a killed publisher sent is there
already and is not sent again. A file that was sent in part begins anew.
"""

import base64
import hashlib
import io
import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

from huggingface_hub import CommitOperationAdd, HfApi, constants
from huggingface_hub.utils import (  # type: ignore[attr-defined]
    are_progress_bars_disabled,
    disable_progress_bars,
    enable_progress_bars,
    get_session,
)
from huggingface_hub.utils import logging as library_log

from halftone.spec.artifacts import Artifact
from halftone.spec.documents import WrittenFile
from halftone.spec.errors import RefusedInput
from halftone.spec.names import ARTIFACT_FILE, Reason
from halftone.spec.publishing import Progress
from halftone.spec.targets import Transfer
from halftone.stores.recorded import MISSING, OTHER_DIGEST, differs

# A server that says nothing for so long is not there any more; commits of many files take minutes.
_SILENCE: Final = 300.0
_CHUNK: Final = 4 * 2**20


@dataclass(frozen=True)
class _Proven:
    """A file with the digest that was recorded, and how it looked when that was found."""

    written: WrittenFile
    path: Path
    stamp: tuple[int, int, int]


class Upload:
    """One artifact's way up. Each attempt takes fresh operations; bytes are counted once."""

    def __init__(
        self,
        api: HfApi,
        repository: str,
        tree: Path,
        artifact: Artifact,
        progress: Progress,
    ) -> None:
        """Read every file. Raises CheckFailed(DigestDiffers) for one that is not as recorded."""
        self._api = api
        self._repository = repository
        self._meter = _Meter(progress)
        self._document = artifact.to_bytes()
        self._files = [_proven(tree, file) for file in artifact.files]

    def send(self) -> list[CommitOperationAdd]:
        """Send what is large; return the operations of the commit that makes all of it visible.

        Called within `library_settings`.

        Raises RefusedInput(TargetUnsafe) when the repository would leave a file out, and
        CheckFailed(DigestDiffers) when a file changed meanwhile.
        """
        operations = [self._operation(file) for file in self._files]
        document = CommitOperationAdd(ARTIFACT_FILE, self._document)
        self._api.preupload_lfs_files(self._repository, [*operations, document], free_memory=False)
        self._refuse_ignored([*operations, document])
        for file in self._files:
            if _stamp(file.path) != file.stamp:
                raise differs(file.written, "changed while it was being published")
        return [*operations, document]

    def finish(self) -> None:
        """All of it is visible: count what was there already."""
        for file in self._files:
            self._meter.reach(file.written.path, file.written.sizeBytes)

    def _operation(self, file: _Proven) -> CommitOperationAdd:
        operation = _CountedAddition(file.written.path, str(file.path))
        operation.meter = self._meter
        operation.written = file.written
        # Known since the file was proven; the library would read all of it again.
        operation.upload_info.sha256 = bytes.fromhex(file.written.sha256)
        return operation

    def _refuse_ignored(self, operations: list[CommitOperationAdd]) -> None:
        for operation in operations:
            if getattr(operation, "_should_ignore", False):
                raise RefusedInput(
                    Reason.TargetUnsafe,
                    f"hf://{self._repository}",
                    f"`.gitignore` of `hf://{self._repository}` would leave "
                    f"'{operation.path_in_repo}' out; remove it from the repository.",
                )


@contextmanager
def library_settings(transfer: Transfer) -> Iterator[None]:
    """huggingface_hub as we need it: quiet, with an end to silence, and by LFS unless by Xet.

    The library reads HF_HUB_DISABLE_XET when it is imported, whoever does that first; afterwards
    its constant decides, at each upload. Its warnings hold signed addresses, so they are not shown.
    """
    disabled, level = constants.HF_HUB_DISABLE_XET, library_log.get_verbosity()
    with ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        stack.callback(setattr, constants, "HF_HUB_DISABLE_XET", disabled)
        constants.HF_HUB_DISABLE_XET = disabled or transfer is Transfer.Lfs
        stack.callback(library_log.set_verbosity, level)
        library_log.set_verbosity(logging.CRITICAL)
        if not are_progress_bars_disabled():
            stack.callback(enable_progress_bars)
            disable_progress_bars()
        get_session().timeout = _SILENCE
        yield


class _CountedAddition(CommitOperationAdd):
    """An addition that says how far its file has been read; the library reads as it sends."""

    meter: "_Meter"
    written: WrittenFile

    def b64content(self) -> bytes:
        """What the commit itself carries of a small file; no server compares that with a digest."""
        content = super().b64content()
        if hashlib.sha256(base64.b64decode(content)).hexdigest() != self.written.sha256:
            raise differs(self.written, "changed while it was being published")
        return content

    @contextmanager
    def as_file(self, with_tqdm: bool = False) -> Iterator[BinaryIO]:
        assert isinstance(self.path_or_fileobj, str)
        with _CountedFile(self.path_or_fileobj, self.path_in_repo, self.meter) as file:
            yield file


class _CountedFile(io.FileIO):
    """A file that tells a meter how far it was read."""

    def __init__(self, path: str, name: str, meter: "_Meter") -> None:
        super().__init__(path, "rb")
        self._name = name
        self._meter = meter

    def read(self, size: int | None = -1) -> Any:
        data = super().read(-1 if size is None else size)
        self._meter.reach(self._name, self.tell())
        return data


class _Meter:
    """Reports each byte of each file once, however often it is sent. Used by several threads."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._reached: dict[str, int] = {}
        self._lock = threading.Lock()

    def reach(self, path: str, position: int) -> None:
        """`path` has been read up to `position`."""
        with self._lock:
            more = position - self._reached.get(path, 0)
            if more > 0:
                self._reached[path] = position
                self._progress(more)


def _proven(tree: Path, file: WrittenFile) -> _Proven:
    path = tree / file.path
    if not path.is_file():
        raise differs(file, MISSING)
    stamp, digest = _stamp(path), hashlib.sha256()
    with path.open("rb", buffering=0) as opened:
        while chunk := opened.read(_CHUNK):
            digest.update(chunk)
    if digest.hexdigest() != file.sha256:
        raise differs(file, OTHER_DIGEST)
    return _Proven(file, path, stamp)


def _stamp(path: Path) -> tuple[int, int, int]:
    try:
        status = path.stat()
    except OSError:
        return 0, 0, 0
    return status.st_ino, status.st_size, status.st_mtime_ns
