"""Publish to a prefix of a bucket: files into a folder of their own, then one conditional write.

Opened by `halftone.stores.opening`. What readers start from, `PREFIX/artifact.json`, is written
last and only if nobody else has written it meanwhile, so of several publishers one wins, and no
reader ever sees two artifacts mixed. `halftone.stores.s3_layout` says what lies where.
"""

from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Final

from halftone.spec.artifacts import SHORT_DIGEST, Artifact
from halftone.spec.documents import sha256_hex
from halftone.spec.errors import HalftoneError, RefusedInput
from halftone.spec.names import ARTIFACT_FILE, Reason
from halftone.spec.publishing import Leftover, Progress
from halftone.spec.targets import Existing
from halftone.stores.credentials import Credential
from halftone.stores.s3_checksums import of_object
from halftone.stores.s3_folder import Folder
from halftone.stores.s3_layout import PUBLISHING, SUPERSEDED, folder_of, is_folder, understood
from halftone.stores.s3_leftovers import DEAD_AFTER, Leftovers
from halftone.stores.s3_probe import refuse_unsafe
from halftone.stores.s3_upload import ArtifactUpload
from halftone.stores.s3_writing import FIELD, PreconditionError

_NOTHING: Final = of_object(sha256_hex(b""))


class S3ArtifactTarget:
    """The name `s3://bucket/prefix`; see `halftone.spec.publishing.ArtifactTarget`.

    `dead_after` is how long a folder that no `artifact.json` names is left to its publisher.
    """

    def __init__(
        self,
        uri: str,
        endpoint_url: str | None = None,
        dead_after: timedelta = DEAD_AFTER,
        credentials: Credential | None = None,
    ) -> None:
        self._root = Folder.to_write(uri, endpoint_url, credentials)
        self._dead_after = dead_after

    @property
    def uri(self) -> str:
        """`s3://bucket/prefix`, without a closing slash."""
        return self._root.uri

    def current(self) -> Artifact | None:
        """What `PREFIX/artifact.json` says; its `uri` is the folder that holds the files.

        Raises RefusedInput(TargetOccupied) when objects lie here that are no artifact of ours.
        """
        found = self._found()
        return found[0] if found else None

    def refuse_unusable(self) -> None:
        """Raise unless the server checks what it is sent and honours conditional writes."""
        replacing = self.current() is not None
        root = self._root
        refuse_unsafe(
            root.client,
            root.bucket,
            root.prefix,
            self.uri,
            replacing=replacing,
            access=root.access,
        )

    def publish(
        self, tree: Path, artifact: Artifact, existing: Existing, progress: Progress
    ) -> Artifact:
        """See `ArtifactTarget.publish`; a former artifact stays in its own folder."""
        former = self._found()
        if former is not None:
            if former[0].checkpointDigest == artifact.checkpointDigest:
                return former[0]
            if existing is Existing.Refuse:
                raise self._occupied_by(former[0])
        self.refuse_unusable()
        name = folder_of(artifact)
        folder = self._root.below(name)
        published = artifact.model_copy(update={"uri": folder.uri, "revision": None}).sealed()
        document = published.to_bytes()
        checksum = of_object(sha256_hex(document))
        self._root.put(PUBLISHING + name, b"", _NOTHING)
        ArtifactUpload(folder, tree, progress).run(artifact.files)
        folder.put(ARTIFACT_FILE, document, checksum)
        condition = {"IfMatch": former[1]} if former else {"IfNoneMatch": "*"}
        try:
            self._root.put(ARTIFACT_FILE, document, checksum, **condition)
        except PreconditionError as error:
            return self._raced(published, error)
        self._tidy(name, former[0] if former else None)
        return published

    def add_cards(self, tree: Path, paths: Sequence[str]) -> None:
        """See `ArtifactTarget.add_cards`; they go into the folder of the artifact.

        Raises RefusedInput(SourceNotFound) when there is no artifact.
        """
        if not paths:
            return
        current = self.current()
        if current is None:
            raise RefusedInput(
                Reason.SourceNotFound,
                FIELD,
                f"`{self.uri}` holds no artifact to put capacity cards beside; publish it first.",
            )
        folder = self._root.below(_name(current))
        for path in paths:
            data = (tree / path).read_bytes()
            checksum = of_object(sha256_hex(data))
            if folder.checksum(path) != checksum:
                folder.put(path, data, checksum)

    def leftovers(self) -> list[Leftover]:
        """Superseded folders, folders of publishers that did not come back, dead uploads."""
        return list(self._leftovers().find())

    def remove(self, leftover: Leftover) -> None:
        """Remove one of `leftovers()`; what is none of them stays."""
        self._leftovers().remove(leftover)

    def close(self) -> None:
        """Close the client's connections."""
        self._root.client.close()

    def _found(self) -> tuple[Artifact, str] | None:
        """The artifact that the name holds, and its document's ETag."""
        document = self._root.read(ARTIFACT_FILE)
        if document is None:
            objects, _ = self._root.level()
            if objects:
                raise self._occupied(f"holds `{objects[0].path}`, which is no artifact")
            return None
        artifact = understood(document[0])
        if artifact is None or not is_folder(_name(artifact)):
            raise self._occupied(f"holds an `{ARTIFACT_FILE}` that this version did not write")
        return artifact, document[1]

    def _raced(self, ours: Artifact, error: PreconditionError) -> Artifact:
        """Somebody else wrote the name: the same artifact is as good, another one stays."""
        winner = self._found()
        if winner is not None and winner[0].checkpointDigest == ours.checkpointDigest:
            self._tidy(_name(ours), None)
            return winner[0]
        if winner is not None:
            raise self._occupied_by(winner[0]) from error
        raise self._occupied("was changed by somebody else meanwhile") from error

    def _tidy(self, name: str, former: Artifact | None) -> None:
        """Mark what was replaced, and end what other publishers of the same folder began.

        The artifact is visible already: what cannot be done now, `halftone gc` finds by its age.
        """
        with suppress(HalftoneError):
            if former is not None:
                self._root.put(SUPERSEDED + _name(former), b"", _NOTHING)
            for upload in self._root.below(name).uploads():
                self._root.below(name).abort(upload.path, upload.id)
            self._root.delete([PUBLISHING + name, SUPERSEDED + name])

    def _leftovers(self) -> Leftovers:
        current = self.current()
        return Leftovers(self._root, _name(current) if current else None, self._dead_after)

    def _occupied_by(self, other: Artifact) -> RefusedInput:
        digest = other.checkpointDigest[:SHORT_DIGEST]
        return RefusedInput(
            Reason.TargetOccupied,
            FIELD,
            f"`{self.uri}` holds another artifact, {digest}; publish under another name, or set "
            "`publish.existing: Replace`, which keeps the former reachable by its digest.",
        )

    def _occupied(self, why: str) -> RefusedInput:
        return RefusedInput(
            Reason.TargetOccupied,
            FIELD,
            f"`{self.uri}` {why}; choose another prefix, or look at what lies there.",
        )


def _name(artifact: Artifact) -> str:
    """The folder that a published artifact says it lies in."""
    return artifact.uri.rpartition("/")[2]
