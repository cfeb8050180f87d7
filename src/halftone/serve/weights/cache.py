"""The directory on a node where proven checkpoints are kept, by digest, for all processes there.

    <directory>/<checkpoint digest>-<manifest digest 16>/   an artifact, as it was published
    <directory>/<checkpoint digest>-plain/                  a checkpoint without documents
    <directory>/.partial/<the same name>/                   on its way, or left by a killed process
    <directory>/.state/<the same name>.json                 a `Record`: sizes, digests, stamps
    <directory>/.state/<the same name>.lock, .filling       who uses it · who fills it

A directory gets its name in one step, once all of it was proven and is on disk. The name follows
from the content, so an entry is never written again. Whoever may write here can also write records,
so folders that are another user's, or that any user may write to, are refused.
"""

import os
import re
import shutil
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from halftone.serve.weights.locks import lock
from halftone.serve.weights.stamps import (
    KeptFile,
    Record,
    first_changed,
    folders_of,
    read_record,
    take_stamps,
)
from halftone.serve.weights.storage import CACHE_DIRECTORY, storage_errors
from halftone.serve.weights.transferring import Wanted
from halftone.spec.documents import WrittenFile, sync_directory, write_atomically
from halftone.spec.errors import EnvironmentFault, RefusedInput
from halftone.spec.names import Reason
from halftone.spec.serving import WeightsCache

_GIGABYTE: Final = 10**9
_PARTIAL: Final = ".partial"
_STATE: Final = ".state"
_NAME: Final = re.compile(r"^[0-9a-f]{64}-([0-9a-f]{16}|plain)$")
_LIMIT: Final = "cache.maxGigabytes"


@dataclass(frozen=True)
class Entry:
    """One checkpoint in the cache at `root`, whole or on its way."""

    root: Path
    name: str

    @property
    def folder(self) -> Path:
        """Where it lies when it is whole."""
        return self.root / self.name

    @property
    def partial(self) -> Path:
        """Where it lies until then."""
        return self.root / _PARTIAL / self.name

    @property
    def record_file(self) -> Path:
        """What is known of it."""
        return self.root / _STATE / f"{self.name}.json"

    @property
    def lock_file(self) -> Path:
        """Held, with others, by whoever uses it; its time is that of the last use."""
        return self.root / _STATE / f"{self.name}.lock"

    @property
    def filling_file(self) -> Path:
        """Held by whoever fills it or looks whether that is needed."""
        return self.root / _STATE / f"{self.name}.filling"

    def record(self) -> Record | None:
        """What was written of it last."""
        return read_record(self.record_file)

    def used(self) -> None:
        """Note that it is used now. Raises OSError."""
        os.utime(self.lock_file)

    def is_proven(self, files: Iterable[Wanted] = ()) -> bool:
        """Whether it can be used as it lies, with those of `files` that are asked for in it."""
        record = self.record()
        if record is None or not record.files or first_changed(self.folder, record.stamps):
            return False
        kept = {file.file.path: file.file for file in record.files}
        return all(
            file.path in kept
            and file.size_bytes == kept[file.path].sizeBytes
            and file.sha256 in (None, kept[file.path].sha256)
            for file in files
        )

    def taken(self) -> int:
        """Bytes that lie there now, whole or in part."""
        found = 0
        for place in (self.folder, self.partial):
            for folder, _, names in os.walk(place):
                for name in names:
                    # Whoever fills it may rename it at this moment.
                    with suppress(FileNotFoundError):
                        found += Path(folder, name).lstat().st_size
        return found

    def demote(self) -> None:
        """Take it back among those on their way: each file must be proven again.

        Raises OSError, and RefusedInput(AccessDenied) where another user could go on writing to it.
        """
        if self.folder.is_dir():
            _require_ours(self.folder)
            shutil.rmtree(self.partial, ignore_errors=True)
            self.folder.rename(self.partial)

    def promote(self, uri: str, files: Sequence[WrittenFile]) -> None:
        """Give it its name, with exactly `files`, which are proven and on disk. Raises OSError."""
        self._keep_only({file.path for file in files})
        self.partial.rename(self.folder)
        sync_directory(self.root)
        paths = [file.path for file in files]
        stamps = take_stamps(self.folder, paths)
        record = Record(
            uri=uri,
            sizeBytes=sum(file.sizeBytes for file in files),
            files=tuple(KeptFile(file=file, stamp=stamps[file.path]) for file in files),
            folders=take_stamps(self.folder, folders_of(paths)),
        )
        write_atomically(self.record_file, record.to_bytes())

    def remove(self) -> None:
        """All of it but its lock file, so that nobody finds half of it. Raises OSError."""
        self.record_file.unlink(missing_ok=True)
        for folder in (self.folder, self.partial):
            if folder.exists():
                shutil.rmtree(folder)
        self.filling_file.unlink(missing_ok=True)

    def empty(self) -> None:
        """Remove what is there of it on its way. Raises OSError."""
        shutil.rmtree(self.partial)
        self.partial.mkdir()

    def _keep_only(self, paths: set[str]) -> None:
        """Remove what an earlier process left that is no part of this checkpoint."""
        for path in list(self.partial.rglob("*")):
            kept = path.relative_to(self.partial).as_posix() in paths and not path.is_symlink()
            if not kept and (path.is_symlink() or path.is_file()):
                path.unlink()


class Cache:
    """The cache that `settings` name; made where it is missing."""

    def __init__(self, settings: WeightsCache) -> None:
        self._root = Path(settings.directory).absolute()
        self._most = None
        if settings.maxGigabytes is not None:
            self._most = settings.maxGigabytes * _GIGABYTE
        with storage_errors(self._root):
            for name in (_PARTIAL, _STATE):
                (self._root / name).mkdir(mode=0o755, parents=True, exist_ok=True)
                _require_ours(self._root / name)

    def entry(self, name: str) -> Entry:
        """The entry with that name, which may be empty."""
        return Entry(self._root, name)

    def whole(self, digest: str) -> list[Entry]:
        """Entries with that checkpoint digest, the last used first."""
        found = [
            entry
            for entry in self._entries()
            if entry.name.startswith(f"{digest}-") and entry.folder.is_dir()
        ]
        return sorted(found, key=_last_use, reverse=True)

    def hold(self, entry: Entry) -> IO[bytes]:
        """Keep `entry` from eviction until the file that is returned is closed."""
        with storage_errors(self._root):
            held = lock(entry.lock_file, shared=True)
            assert held is not None
            entry.used()
        return held

    def give_up(self, entry: Entry, held: IO[bytes]) -> None:
        """Let go of `entry`; where there is nothing of it and nobody has it, no trace stays."""
        held.close()
        with suppress(OSError):
            if entry.record_file.exists() or entry.folder.exists() or entry.partial.exists():
                return
            last = lock(entry.lock_file, wait=False)
            if last is not None:
                with last:
                    entry.filling_file.unlink(missing_ok=True)
                    entry.lock_file.unlink()

    @contextmanager
    def filling(self, entry: Entry) -> Iterator[None]:
        """Only one process looks at or fills `entry`, which it holds; others wait here."""
        with storage_errors(self._root):
            held = lock(entry.filling_file)
            assert held is not None
        with held:
            yield

    def make_room(self, entry: Entry, uri: str, nbytes: int) -> None:
        """Set `nbytes` aside for `entry`; what was used least lately goes, unless it is in use.

        Raises RefusedInput(OutOfSpace) when it could never fit under `maxGigabytes`, and
        EnvironmentFault(OutOfSpace) when what is in use, or the disk, leaves too little.
        """
        if self._most is not None and nbytes > self._most:
            raise RefusedInput(
                Reason.OutOfSpace,
                _LIMIT,
                f"`{uri}` takes {nbytes:,} bytes, and `{_LIMIT}` allows {self._most:,} in all; "
                f"set it to {-(-nbytes // _GIGABYTE)} or more.",
            )
        with storage_errors(self._root):
            held = lock(self._root / _STATE / "room.lock")
            assert held is not None
            with held:
                before = entry.record_file.read_bytes() if entry.record_file.exists() else None
                reserved = Record(uri=uri, sizeBytes=nbytes)
                write_atomically(entry.record_file, reserved.to_bytes())
                try:
                    self._evict_for(entry, uri)
                except EnvironmentFault:
                    entry.record_file.unlink()
                    if before is not None:
                        write_atomically(entry.record_file, before)
                    raise

    def _evict_for(self, entry: Entry, uri: str) -> None:
        for oldest in sorted(self._entries(), key=_last_use):
            if self._short(entry) is None:
                return
            if oldest == entry:
                continue
            held = lock(oldest.lock_file, wait=False)
            if held is not None:
                with held:
                    oldest.remove()
                    oldest.lock_file.unlink()
        short = self._short(entry)
        if short is not None:
            subject, why = short
            raise EnvironmentFault(Reason.OutOfSpace, subject, f"`{uri}` {why}")

    def _short(self, entry: Entry) -> tuple[str, str] | None:
        """The field that leaves too little room for all that was set aside, and a sentence."""
        rows = [(one, one.record(), one.taken()) for one in self._entries()]
        sizes = {one: record.sizeBytes if record else taken for one, record, taken in rows}
        others = sum(size for one, size in sizes.items() if one != entry)
        if self._most is not None and others + sizes[entry] > self._most:
            return (
                _LIMIT,
                f"takes {sizes[entry]:,} bytes and models in use take {others:,}, which is more "
                f"than `{_LIMIT}` allows ({self._most:,}); raise it, or stop what uses them.",
            )
        missing = sum(max(0, sizes[one] - taken) for one, _, taken in rows)
        free = shutil.disk_usage(self._root).free
        if missing > free:
            return (
                CACHE_DIRECTORY,
                f"does not fit: {missing:,} more bytes are needed below '{self._root}', and "
                f"{free:,} are free; let `{CACHE_DIRECTORY}` lie on a larger disk, or free some "
                "space there.",
            )
        return None

    def _entries(self) -> list[Entry]:
        """Every entry of which there is anything, in a fixed order."""
        records = (path.stem for path in (self._root / _STATE).glob("*.json"))
        partial = (path.name for path in (self._root / _PARTIAL).iterdir())
        whole = (path.name for path in self._root.iterdir())
        # Whatever else somebody keeps in this directory is not ours to remove.
        names = {name for name in (*records, *partial, *whole) if _NAME.match(name)}
        return [self.entry(name) for name in sorted(names)]


def artifact_name(checkpoint_digest: str, manifest_digest: str) -> str:
    """The entry of a published artifact; another publication of the checkpoint has another."""
    return f"{checkpoint_digest}-{manifest_digest[:16]}"


def plain_name(checkpoint_digest: str) -> str:
    """The entry of a checkpoint that has no documents."""
    return f"{checkpoint_digest}-plain"


def _require_ours(folder: Path) -> None:
    """Raise RefusedInput(AccessDenied) where another user than this one and root may write."""
    status = folder.lstat()
    ours = status.st_uid in (os.geteuid(), 0) and not status.st_mode & stat.S_IWOTH
    if not (ours and stat.S_ISDIR(status.st_mode)):
        raise RefusedInput(
            Reason.AccessDenied,
            CACHE_DIRECTORY,
            f"Other users may write to '{folder}', so nothing that lies there is proven; let "
            f"`{CACHE_DIRECTORY}` name a directory in which only the endpoint's user writes.",
        )


def _last_use(entry: Entry) -> int:
    try:
        return entry.lock_file.stat().st_mtime_ns
    except FileNotFoundError:
        return 0
