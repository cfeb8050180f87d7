"""Where the stages of one plan hand documents and shards to one another when they share no disk.

`s3://bucket/prefix.work/<namespace>.<job>/<plan digest>/`, beside the artifact and never read as
one: it has no `artifact.json`. Opened by `halftone.cli.handing_on`. Documents are small and written
in one piece; a shard goes up like a file of an artifact, checked by the store, and its journal
entry follows it: what has an entry was there whole, and is looked for once more before the entry
is believed.
"""

import json
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from copy import copy
from pathlib import Path
from typing import Any, Final, Self
from uuid import uuid4

from botocore.exceptions import ClientError

from halftone.spec.documents import WrittenFile, canonical_json, sha256_hex
from halftone.spec.errors import RefusedInput
from halftone.spec.names import CHECKPOINT_DIRECTORY, Reason
from halftone.stores.credentials import Credential
from halftone.stores.pinned import is_plain
from halftone.stores.s3_checksums import of_object
from halftone.stores.s3_folder import Folder
from halftone.stores.s3_upload import ArtifactUpload
from halftone.stores.s3_writing import PreconditionError, status_of, translated

_JOURNAL: Final = "journal"
_MARK: Final = "mark"
_READERS: Final = 8


def _unseen(_nbytes: int) -> None:
    """Nobody wants to know."""


class S3WorkArea:
    """The work area of one plan; a `halftone.quantize.shards.Depot` too. Threads may share it."""

    def __init__(
        self,
        uri: str,
        plan_digest: str,
        endpoint_url: str | None = None,
        credentials: Credential | None = None,
    ) -> None:
        """`uri` is that of all plans, such as `s3://bucket/prefix.work/namespace.job`."""
        self._all = Folder.to_write(uri, endpoint_url, credentials)
        self._folder = self._all.below(plan_digest)

    @property
    def uri(self) -> str:
        """Where it is."""
        return self._folder.uri

    def below(self, name: str) -> Self:
        """The part `name` of it, over the same connections."""
        part = copy(self)
        part._folder = self._folder.below(name)
        return part

    def push(self, source: Path, paths: Iterable[str]) -> None:
        """Put the files `paths` below `source` here, each whole or not at all."""
        for path in paths:
            data = (source / path).read_bytes()
            self._folder.put(path, data, of_object(sha256_hex(data)))

    def pull(self, target: Path, paths: Iterable[str]) -> list[str]:
        """Bring the documents `paths` to below `target`; return those that were there."""
        return [path for path in paths if self._pull(path, target / path)]

    def require(self, target: Path, paths: Iterable[str]) -> None:
        """Bring the documents `paths`, all of them.

        Raises RefusedInput(WorkdirInconsistent) that names one which is not here.
        """
        for path in paths:
            if not self._pull(path, target / path):
                raise RefusedInput(Reason.WorkdirInconsistent, path, self._lacks(path))

    def pull_folder(self, target: Path, name: str) -> None:
        """Bring every file of the folder `name` to below `target`.

        Raises RefusedInput(WorkdirInconsistent) for an object whose name leads elsewhere.
        """
        paths = [item.path for item in self._folder.below(name).objects()]
        for path in paths:
            if path and not path.endswith("/"):  # consoles mark folders with empty objects
                self._pull(f"{name}/{path}", target / name / path)

    def pull_checkpoint(self, target: Path, files: Sequence[WrittenFile]) -> None:
        """Bring the checkpoint's `files` to `target`/checkpoint; those that are there stay.

        Raises RefusedInput(WorkdirInconsistent) that names a file which is not here, or is another.
        """
        folder = target / CHECKPOINT_DIRECTORY
        folder.mkdir(parents=True, exist_ok=True)

        def bring(file: WrittenFile) -> None:
            path = folder / file.path
            if not (path.is_file() and path.stat().st_size == file.sizeBytes):
                found = self._pull(f"{CHECKPOINT_DIRECTORY}/{file.path}", path)
                if not found or path.stat().st_size != file.sizeBytes:
                    raise RefusedInput(
                        Reason.WorkdirInconsistent, file.path, self._lacks(file.path)
                    )

        with ThreadPoolExecutor(_READERS) as readers:
            list(readers.map(bring, files))

    def push_checkpoint(self, directory: Path, files: Sequence[WrittenFile]) -> None:
        """Put those of `files` here that lie in `directory`; shards are here already."""
        here = [file for file in files if (directory / file.path).is_file()]
        ArtifactUpload(self._folder.below(CHECKPOINT_DIRECTORY), directory, _unseen).run(here)

    def entry(self, file: str) -> dict[str, Any] | None:
        """See `Depot.entry`."""
        found = self._folder.read(f"{_JOURNAL}/{file}.json")
        if found is None:
            return None
        try:
            entry: dict[str, Any] = json.loads(found[0])
        except ValueError:
            return None  # written again together with its shard
        if not isinstance(entry, dict) or entry.get("file") != file:
            return None
        stored = self._size(f"{CHECKPOINT_DIRECTORY}/{file}")
        return entry if stored is not None and stored == entry.get("sizeBytes") else None

    def keep(self, path: Path, entry: dict[str, Any]) -> None:
        """See `Depot.keep`."""
        shard = WrittenFile(path=path.name, sizeBytes=entry["sizeBytes"], sha256=entry["sha256"])
        folder = self._folder.below(CHECKPOINT_DIRECTORY)
        ArtifactUpload(folder, path.parent, _unseen).run([shard])
        data = canonical_json(entry)
        self._folder.put(f"{_JOURNAL}/{path.name}.json", data, of_object(sha256_hex(data)))

    def mark(self) -> str:
        """A text that the area of all plans keeps until it is emptied; left here when it is not."""
        text = uuid4().hex.encode()
        with suppress(PreconditionError):
            self._all.put(_MARK, text, of_object(sha256_hex(text)), IfNoneMatch="*")
        found = self._all.read(_MARK)
        return text.decode() if found is None else found[0].decode(errors="replace")

    def forget_mark(self) -> None:
        """Have the next run begin anew, as if the area were empty."""
        self._all.delete([_MARK])

    def discard(self, path: str) -> None:
        """Remove a document."""
        self._folder.delete([path])

    def forget_shard(self, file: str) -> None:
        """Have a shard be written again; its object stays until then."""
        self._folder.delete([f"{_JOURNAL}/{file}.json"])

    def remove_checkpoint(self) -> None:
        """Give back the room of what was published; documents stay."""
        for name in (_JOURNAL, CHECKPOINT_DIRECTORY):
            folder = self._folder.below(name)
            folder.delete([item.path for item in folder.objects()])

    def remove(self) -> None:
        """Leave nothing of any plan: uploads that were begun, then every object."""
        for upload in self._all.uploads():
            self._all.abort(upload.path, upload.id)
        self._all.delete([item.path for item in self._all.objects()])

    def close(self) -> None:
        """Close the client's connections."""
        self._folder.client.close()

    def _pull(self, path: str, target: Path) -> bool:
        """Whether `path` was here; `target` appears whole."""
        if not is_plain(path):
            raise RefusedInput(
                Reason.WorkdirInconsistent,
                ascii(path),
                f"The work area `{self.uri}` is to hold {path!a}, which leads out of it, so "
                "somebody else wrote there; delete the job and apply it again.",
            )
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{target.name}.partial")
        folder = self._folder
        with translated(folder.uri, path, folder.access):
            try:
                folder.client.download_file(folder.bucket, folder.prefix + path, str(partial))
            except ClientError as error:
                if status_of(error) == 404:
                    return False
                raise
        partial.rename(target)
        return True

    def _size(self, path: str) -> int | None:
        """How many bytes the object `path` has; None when it is not here."""
        folder = self._folder
        with translated(folder.uri, path, folder.access):
            try:
                found = folder.client.head_object(Bucket=folder.bucket, Key=folder.prefix + path)
            except ClientError as error:
                if status_of(error) == 404:
                    return None
                raise
        return found["ContentLength"]

    def _lacks(self, path: str) -> str:
        return (
            f"The work area `{self.uri}` lacks `{path}`, or has another one than an earlier stage "
            "wrote there: somebody removed or changed it; delete the job and apply it again."
        )
