"""Which folders and uploads below a published name nobody needs any more.

Called by `halftone.stores.s3_target` for `halftone gc`. What `artifact.json` names is never among
them. A folder that was replaced carries a mark and may go at once; any other may be the work of a
publisher that is still alive, and is dead only once nothing has happened to it for `dead_after`.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from halftone.spec.names import ARTIFACT_FILE
from halftone.spec.publishing import Leftover, LeftoverKind
from halftone.stores.s3_folder import Folder, Stored, Upload
from halftone.stores.s3_layout import (
    PROBES,
    PUBLISHING,
    SUPERSEDED,
    is_folder,
    understood,
)
from halftone.stores.s3_writing import UploadGoneError

# A publisher that has sent nothing for a day does not come back by itself; one that is started
# again later begins anew.
DEAD_AFTER: Final = timedelta(hours=24)


@dataclass
class _Found:
    """One folder: its objects, the uploads into it, and when something last happened to it."""

    objects: list[Stored] = field(default_factory=list)
    uploads: list[Upload] = field(default_factory=list)
    upload_bytes: int = 0
    touched: list[datetime] = field(default_factory=list)
    is_superseded: bool = False

    @property
    def size_bytes(self) -> int:
        return sum(item.size_bytes for item in self.objects) + self.upload_bytes


class Leftovers:
    """What lies below one published name; `current` is the folder of its artifact, or None."""

    def __init__(self, root: Folder, current: str | None, dead_after: timedelta) -> None:
        self._root = root
        self._current = current
        self._dead_after = dead_after

    def find(self) -> Iterator[Leftover]:
        """Everything that may go, in the order of its names."""
        _, names = self._root.level()
        uploads = list(self._root.uploads())
        state = list(self._root.below(".halftone").objects())
        folders = {name for name in names if is_folder(name)}
        folders |= {upload.path.partition("/")[0] for upload in uploads if _is_ours(upload.path)}
        folders |= {item.path.rpartition("/")[2] for item in state if "/" in item.path}
        for name in sorted(filter(is_folder, folders)):
            yield from self._judged(name, uploads, state)
        for item in state:
            if _is_probe(item) and self._is_dead([item.modified]):
                uri = f"{self._root.uri}/.halftone/{item.path}"
                yield Leftover(LeftoverKind.DeadUpload, uri, item.size_bytes, None)

    def remove(self, leftover: Leftover) -> None:
        """Remove it, if it still is a leftover; judged again because time has passed."""
        path, _, upload = leftover.uri.removeprefix(self._root.uri + "/").partition("?uploadId=")
        if upload:
            if leftover in list(self.find()):
                self._root.abort(path, upload)
        elif is_folder(path):
            self._remove_folder(path)
        elif path.startswith(PROBES):
            self._root.delete([path])

    def _remove_folder(self, name: str) -> None:
        state = list(self._root.below(".halftone").objects())
        uploads = list(self._root.uploads(f"{name}/"))
        if name == self._current or not list(self._judged(name, uploads, state)):
            return
        folder = self._root.below(name)
        for upload in folder.uploads():
            folder.abort(upload.path, upload.id)
        # First what makes it an artifact, last the mark: a removal that is killed is gone on with.
        folder.delete([ARTIFACT_FILE])
        folder.delete([item.path for item in folder.objects()])
        self._root.delete([PUBLISHING + name, SUPERSEDED + name])

    def _judged(
        self, name: str, uploads: Iterable[Upload], state: Iterable[Stored]
    ) -> Iterator[Leftover]:
        """The folder if it may go; of the artifact's own folder the uploads, which nobody needs."""
        mine = [upload for upload in uploads if upload.path.startswith(f"{name}/")]
        if name == self._current:
            for upload in mine:
                size, _ = self._parts(upload)
                uri = f"{self._root.uri}/{upload.path}?uploadId={upload.id}"
                yield Leftover(LeftoverKind.DeadUpload, uri, size, None)
            return
        found = self._look(name, mine, state)
        if not found.is_superseded and not self._is_dead(found.touched):
            return
        document = self._root.read(f"{name}/{ARTIFACT_FILE}")
        artifact = understood(document[0]) if document else None
        kind = LeftoverKind.DeadUpload if artifact is None else LeftoverKind.Superseded
        digest = artifact.checkpointDigest if artifact else None
        yield Leftover(kind, f"{self._root.uri}/{name}", found.size_bytes, digest)

    def _look(self, name: str, uploads: list[Upload], state: Iterable[Stored]) -> _Found:
        found = _Found(list(self._root.below(name).objects()), uploads)
        found.touched += [item.modified for item in found.objects]
        for upload in uploads:
            size, touched = self._parts(upload)
            found.upload_bytes += size
            found.touched += [upload.begun, *touched]
        marks = {f".halftone/{item.path}": item.modified for item in state}
        found.is_superseded = SUPERSEDED + name in marks and PUBLISHING + name not in marks
        found.touched += [
            marks[key + name] for key in (PUBLISHING, SUPERSEDED) if key + name in marks
        ]
        return found

    def _parts(self, upload: Upload) -> tuple[int, list[datetime]]:
        """Bytes that an upload holds, and when they came."""
        try:
            parts = self._root.parts(upload.path, upload.id).values()
        except UploadGoneError:
            return 0, []
        return sum(part.size_bytes for part in parts), [part.modified for part in parts]

    def _is_dead(self, touched: list[datetime]) -> bool:
        now = self._root.clock()
        return all(now - moment >= self._dead_after for moment in touched)


def _is_ours(path: str) -> bool:
    return is_folder(path.partition("/")[0])


def _is_probe(item: Stored) -> bool:
    return f".halftone/{item.path}".startswith(PROBES)
