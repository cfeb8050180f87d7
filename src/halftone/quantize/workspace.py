"""Where a checkpoint is built, so that a kill loses at most one shard and nobody reads half of it.

Everything is made in `.NAME.partial` beside the output directory and renamed in one step at the
end. A finished shard has a journal entry with its digest; on the next run it is kept if its bytes
still have that digest. The plan lies there too: work of another plan is refused, never mixed.
"""

import fcntl
import json
import os
import shutil
from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final

from halftone.checkpoint.digests import file_sha256
from halftone.plan.changes import changed_file
from halftone.quantize import storage
from halftone.quantize.locks import lock
from halftone.spec.documents import (
    CheckpointDocument,
    Plan,
    canonical_json,
    sha256_hex,
    sync_directory,
    write_atomically,
)
from halftone.spec.errors import EnvironmentFault, HalftoneError, RefusedInput
from halftone.spec.names import CHECKPOINT_FILE, PLAN_FILE, Reason

_JOURNAL: Final = "journal"
_LOCK: Final = "lock"
_CLAIMING: Final = "claiming"
_ORIGIN: Final = "origin.json"
_STAGED: Final = "checkpoint"
# After these, finished shards may hold weights that the source no longer has.
_SPOILING: Final = frozenset({Reason.SourceChanged, Reason.NonFiniteWeight})


def storage_errors(output: Path) -> AbstractContextManager[None]:
    """Translate what the operating system says of `output`; finished shards outlive it."""
    return storage.storage_errors(output, kept="finished shards")


def finished(
    output: Path, plan_digest: str, statistics_digest: str | None, document_path: Path
) -> CheckpointDocument | None:
    """The document of an output that was made already; None when there is no output.

    Made by this plan, and from these statistics where it has any.

    Every file is read and must have the SHA-256 that was written. Raises
    RefusedInput(OutputNotEmpty) for anything else that is in the way, a mount point too.
    """
    with storage_errors(output):
        empty = not output.exists() or (output.is_dir() and not any(output.iterdir()))
    if empty:
        _refuse_mount(output)
        return None
    if document_path.is_file() and output.is_dir():
        document = CheckpointDocument.load(document_path)
        _refuse_other_work(output, document, plan_digest, statistics_digest)
        _refuse_damaged(output, document)
        return document
    _refuse_mount(output)
    raise RefusedInput(
        Reason.OutputNotEmpty,
        str(output),
        f"'{output}' is not empty and was not written by Halftone; choose another directory.",
    )


def discard_leftovers(output: Path) -> None:
    """Remove what a kill between the last rename and the end of cleaning up left behind."""
    shutil.rmtree(_partial_root(output), ignore_errors=True)


def _partial_root(output: Path) -> Path:
    """Beside the output itself: a directory cannot be renamed over a link to one."""
    real = Path(os.path.realpath(output))
    return real.parent / f".{real.name}.partial"


def _refuse_mount(output: Path) -> None:
    """A directory that is a mount point cannot be replaced by a rename."""
    if os.path.ismount(os.path.realpath(output)):
        raise RefusedInput(
            Reason.OutputNotEmpty,
            str(output),
            f"'{output}' is a mount point, which the finished checkpoint cannot replace; "
            f"give a directory inside it, such as '{output / 'model'}'.",
        )


def _refuse_other_work(
    output: Path, document: CheckpointDocument, plan_digest: str, statistics_digest: str | None
) -> None:
    """A finished checkpoint must be of the same plan, and its scales from the same statistics."""
    for what, earlier, now in (
        ("of another plan", document.planDigest, plan_digest),
        ("made from other statistics", document.statisticsDigest, statistics_digest),
    ):
        if earlier != now:
            raise RefusedInput(
                Reason.OutputNotEmpty,
                str(output),
                f"'{output}' holds a checkpoint {what} ({_short(earlier)}, this one is "
                f"{_short(now)}); choose another directory or remove that one.",
            )


def _short(digest: str | None) -> str:
    return "none" if digest is None else digest[:12]


def _refuse_damaged(output: Path, document: CheckpointDocument) -> None:
    for file in document.files:
        path = output / file.path
        with storage_errors(output):
            whole = path.is_file() and path.stat().st_size == file.sizeBytes
            if whole and file_sha256(path) == file.sha256:
                continue
        raise RefusedInput(
            Reason.OutputNotEmpty,
            str(path),
            f"'{path}' is missing or is not the file that was written (its SHA-256 differs from "
            f"{CHECKPOINT_FILE}); remove '{output}' and run the same command again.",
        )


class Workspace:
    """The partial directory of one output; hold it with `with`.

    One process alone, or several with a `part` each, which write different shards.
    """

    def __init__(
        self, output: Path, plan: Plan, origin: Mapping[str, Any], part: int | None = None
    ) -> None:
        """`output` as the user named it, for messages.

        `origin`: what finished shards depend on beside the plan; kept while it is the same.
        """
        self.output = output
        self.root = _partial_root(output)
        self.staged = self.root / _STAGED
        self._plan = plan
        self._origin = canonical_json(origin)
        self._part = part
        self._locks: list[IO[bytes]] = []
        self._written: set[Path] = set()

    def __enter__(self) -> "Workspace":
        self._take_locks()
        try:
            self._claim()
        except BaseException:
            if self._part is None and not (self.root / PLAN_FILE).exists():
                shutil.rmtree(self.root, ignore_errors=True)
            self._release_locks()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            self._tidy(error)
        self._release_locks()

    def _take_locks(self) -> None:
        """The directory's lock, shared among parts, and a part's own."""
        with storage_errors(self.output):
            self.staged.mkdir(parents=True, exist_ok=True)
            (self.root / _JOURNAL).mkdir(exist_ok=True)
            taken = not self._took(_LOCK, alone=self._part is None)
            if self._part is not None and not taken:
                taken = not self._took(f"{_LOCK}.{self._part}", alone=True)
        if taken:
            self._release_locks()
            raise EnvironmentFault(
                Reason.OutputBusy,
                str(self.output),
                f"Another process is writing '{self.output}'; wait for it, or stop it.",
            )

    def _took(self, name: str, *, alone: bool) -> bool:
        taken = lock(self.root / name, shared=not alone)
        if taken is not None:
            self._locks.append(taken)
        return taken is not None

    def _release_locks(self) -> None:
        for taken in self._locks:
            taken.close()
        self._locks.clear()

    def _tidy(self, error: BaseException) -> None:
        """After a failure keep finished shards, and nothing that is of no use to the next run."""
        spoilt = isinstance(error, HalftoneError) and error.reason in _SPOILING
        journal = self.root / _JOURNAL
        useless = {*self._written, *(journal.glob("*.json") if spoilt else ())}
        for path in useless:
            with suppress(OSError):  # what failed is told, not what that left behind
                path.unlink()
        if self._part is None and not any(journal.glob("*.json")):
            shutil.rmtree(self.root, ignore_errors=True)

    def _claim(self) -> None:
        """Write our plan here, or make sure that what lies here is of the same plan."""
        path, origin = self.root / PLAN_FILE, self.root / _ORIGIN
        # Parts that begin at once do this one after the other.
        with storage_errors(self.output), (self.root / _CLAIMING).open("wb") as turn:
            fcntl.flock(turn, fcntl.LOCK_EX)
            if path.exists():
                _refuse_another(Plan.load(path), self._plan, self.root)
            if not origin.exists() or origin.read_bytes() != self._origin:
                for entry in (self.root / _JOURNAL).iterdir():
                    entry.unlink()
                write_atomically(origin, self._origin)
            if not path.exists():
                self._plan.save(path)

    @property
    def origin_digest(self) -> str:
        """What tells shards of one origin from those of another, where they are mixed."""
        return sha256_hex(self._origin)

    def shard_path(self, file: str) -> Path:
        """Where a finished shard lies until everything is."""
        return self.staged / file

    def partial_path(self, file: str) -> Path:
        """Where a shard is written; never a name that a reader would take for a shard."""
        path = self.root / f"{file}.writing"
        self._written.add(path)
        return path

    def finished_shard(self, file: str) -> dict[str, Any] | None:
        """The journal entry of a shard whose bytes still have the digest that they had."""
        path, entry_path = self.shard_path(file), self._journal_path(file)
        if not path.is_file() or not entry_path.is_file():
            return None
        with storage_errors(self.output):
            try:
                entry: dict[str, Any] = json.loads(entry_path.read_bytes())
                whole = path.stat().st_size == entry["sizeBytes"]
                return entry if whole and file_sha256(path) == entry["sha256"] else None
            except (ValueError, KeyError, TypeError):  # a damaged entry proves nothing
                return None

    def finish_shard(self, file: str, entry: dict[str, Any]) -> None:
        """Rename a written and synced shard into place, then journal it."""
        with storage_errors(self.output):
            self.partial_path(file).replace(self.shard_path(file))
            sync_directory(self.staged)
            write_atomically(self._journal_path(file), canonical_json(entry))

    def require_space(self, needed: int, files: Collection[str]) -> None:
        """Raise EnvironmentFault(OutOfSpace) unless `needed` bytes fit.

        What an earlier run left half-written of `files` goes first.
        """
        with storage_errors(self.output):
            for file in files:
                self.partial_path(file).unlink(missing_ok=True)
            free = shutil.disk_usage(self.root).free
        if free < needed:
            raise EnvironmentFault(
                Reason.OutOfSpace,
                str(self.output),
                f"'{self.output}' needs {needed:,} more bytes, but its disk has {free:,} free; "
                "free some space or choose another directory.",
            )

    def drop_all_but(self, files: Collection[str]) -> None:
        """Remove what an earlier run left beside its shards when it was killed near the end."""
        with storage_errors(self.output):
            for path in self.staged.iterdir():
                if path.name not in files:
                    path.unlink()

    def publish(self, document: CheckpointDocument, document_path: Path) -> None:
        """Make everything visible: the document first, then the checkpoint in one rename.

        A document without its checkpoint is of no use to anyone; the other way round, the next run
        would not know the directory as its own.
        """
        output = Path(os.path.realpath(self.output))
        inside = document_path.parent == output
        with storage_errors(self.output):
            document.save(self.staged / CHECKPOINT_FILE if inside else document_path)
            sync_directory(self.staged)
            self.staged.rename(output)  # replaces an empty directory, fails on any other
            sync_directory(output.parent)
        shutil.rmtree(self.root, ignore_errors=True)

    def _journal_path(self, file: str) -> Path:
        return self.root / _JOURNAL / f"{file}.json"


def _refuse_another(earlier: Plan, now: Plan, root: Path) -> None:
    """Raise RefusedInput unless both plans are one; what differs in the source is named."""
    if earlier.digest != now.digest:
        _refuse_changed_source(earlier, now)
    storage.refuse_another_plan(root, earlier.digest, now.digest)


def _refuse_changed_source(earlier: Plan, now: Plan) -> None:
    """Raise RefusedInput(SourceChanged) that names the first file that is not the same."""
    if earlier.source is None or now.source is None or earlier.recipe != now.recipe:
        return
    path = changed_file(earlier.source, now.source)
    if path is not None:
        raise RefusedInput(
            Reason.SourceChanged,
            path,
            f"'{path}' of the source is not the file that this work began with (its size or "
            "header differs); bring that one back, or remove the unfinished work.",
        )
