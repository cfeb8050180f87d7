"""A directory as a target: a real one that `vllm serve PATH` loads, exchanged in one rename.

Opened by `halftone.stores.opening`. Beside `PATH` there may lie, and nothing else is ever made:

    .NAME.publishing        copies on their way; after an exchange, for a moment, the former
    .NAME.publishing.lock   held while somebody publishes
    PATH.<digest12>         a former artifact, named after its checkpoint digest

A copy counts only if its digest is right, so whoever was killed is taken up where they were. What
lies in `.NAME.publishing` with an `artifact.json` is complete: either the new artifact just before
the exchange, or the former just after it, and the digests say which.
"""

import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NoReturn

from halftone.spec.artifacts import SHORT_DIGEST, Artifact
from halftone.spec.documents import sync_directory, write_atomically
from halftone.spec.errors import HalftoneError, RefusedInput
from halftone.spec.names import ARTIFACT_FILE, Reason
from halftone.spec.publishing import Leftover, LeftoverKind, Progress
from halftone.spec.targets import Existing
from halftone.stores.directory_lock import is_locked, locked, storage_errors
from halftone.stores.exchanging import can_exchange, exchange
from halftone.stores.staging import stage_files

_FIELD: Final = "publish.directory.path"
# Failures after which the copies are of no use to the next run.
_SPOILING: Final = frozenset({Reason.OutOfSpace, Reason.DigestDiffers})


class DirectoryArtifactTarget:
    """`path`, where at most one artifact is visible. A symbolic link stays and is followed."""

    def __init__(self, path: Path) -> None:
        self._uri = str(path)
        self._path = Path(os.path.realpath(path))
        self._parent = self._path.parent
        self._staged = self._parent / f".{self._path.name}.publishing"
        self._lock = self._parent / f".{self._path.name}.publishing.lock"

    @property
    def uri(self) -> str:
        """The path as the user gave it."""
        return self._uri

    def current(self) -> Artifact | None:
        """The artifact in the directory; None when it is absent or empty.

        Raises RefusedInput(TargetOccupied) for a file, or a directory with other content.
        """
        with storage_errors(self._uri):
            if self._path.exists() and not self._path.is_dir():
                self._refuse("is a file; choose another path or remove that one")
            if not self._path.is_dir() or not any(self._path.iterdir()):
                return None
            artifact = _artifact_in(self._path)
        if artifact is None:
            self._refuse(
                f"is not empty and holds no {ARTIFACT_FILE} of this version; choose another "
                "directory or remove that one"
            )
        return artifact

    def refuse_unusable(self) -> None:
        """Raise RefusedInput unless an artifact can appear here: no mount point, a parent that may
        be written, and an exchange where something would have to be exchanged.
        """
        with storage_errors(self._uri):
            self._refuse_place()
            if self.current() is not None and not is_locked(self._lock):
                with locked(self._lock, self._uri):
                    self._refuse_without_exchange()

    def publish(
        self, tree: Path, artifact: Artifact, existing: Existing, progress: Progress
    ) -> Artifact:
        """See `ArtifactTarget.publish`; a former artifact stays as `PATH.<digest12>`.

        Raises EnvironmentFault(OutputBusy) while another process publishes here.
        """
        with storage_errors(self._uri):
            self._parent.mkdir(parents=True, exist_ok=True)
        with locked(self._lock, self._uri), storage_errors(self._uri):
            self._refuse_place()
            former = self.current()
            self._settle(artifact, former)
            if former is not None and former.checkpointDigest == artifact.checkpointDigest:
                return former
            if former is not None:
                self._refuse_kept(former, existing)
            published = artifact.model_copy(update={"uri": self._uri, "revision": None}).sealed()
            self._stage(tree, published, progress)
            self._appear(former)
            return published

    def add_cards(self, tree: Path, paths: Sequence[str]) -> None:
        """See `ArtifactTarget.add_cards`."""
        if not paths:
            return
        with locked(self._lock, self._uri), storage_errors(self._uri):
            if self.current() is None:
                raise RefusedInput(
                    Reason.SourceNotFound,
                    _FIELD,
                    f"`{_FIELD}` '{self._uri}' holds no artifact to put capacity cards beside; "
                    "publish it first.",
                )
            for path in paths:
                data, there = (tree / path).read_bytes(), self._path / path
                if not there.is_file() or there.read_bytes() != data:
                    write_atomically(there, data)

    def leftovers(self) -> list[Leftover]:
        """`PATH.<digest12>` directories that hold an artifact, and what dead publishers left.

        What a publisher works on at this moment is none.
        """
        found = []
        with storage_errors(self._uri):
            if not self._parent.is_dir():
                return []
            for path in sorted(self._parent.iterdir()):
                artifact = _artifact_in(path) if self._is_former(path) else None
                if artifact is not None and self._kept(artifact) == path:
                    found.append(_superseded(path, artifact))
            if not is_locked(self._lock):
                found += [self._abandoned(path) for path in self._dead()]
        return found

    def remove(self, leftover: Leftover) -> None:
        """Remove the directory of one of `leftovers()`; what is none of them stays."""
        with storage_errors(self._uri):
            if leftover not in self.leftovers():
                return
            path = Path(leftover.uri)
            with locked(self._lock, self._uri):
                if self._is_former(path):
                    # Half removed, it must not be taken for an artifact, nor be forgotten.
                    doomed = self._parent / f".{path.name}.removing"
                    if doomed.exists():  # of a removal that was killed, when it was here before
                        shutil.rmtree(doomed)
                    path.rename(doomed)
                    path = doomed
                shutil.rmtree(path)

    def close(self) -> None:
        """Nothing to give back."""

    def _refuse_place(self) -> None:
        """What of `refuse_unusable` needs no trial."""
        if os.path.ismount(self._path):
            self._refuse(
                "is a mount point, which an artifact cannot replace; give a directory inside it, "
                f"such as '{Path(self._uri) / 'model'}'"
            )
        if self._staged.is_symlink():
            raise RefusedInput(
                Reason.TargetUnsafe,
                _FIELD,
                f"'{self._staged}' is a link, and `{_FIELD}` '{self._uri}' would be made where it "
                "leads; remove it.",
            )
        self.current()
        above = next(path for path in self._path.parents if path.exists())
        if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
            raise RefusedInput(
                Reason.AccessDenied,
                _FIELD,
                f"'{above}' cannot be written by this user, so `{_FIELD}` '{self._uri}' cannot be "
                "made there; choose another path or change its permissions.",
            )

    def _settle(self, artifact: Artifact, current: Artifact | None) -> None:
        """Give a former artifact its name that was left unnamed right after an exchange."""
        left = _artifact_in(self._staged)
        if left is None or current is None:
            return
        ours = artifact.checkpointDigest
        if left.checkpointDigest not in (ours, current.checkpointDigest):
            self._name(left)

    def _refuse_kept(self, former: Artifact, existing: Existing) -> None:
        """Raise unless `former` may be replaced, and can be kept under its own name."""
        if existing is not Existing.Replace:
            self._refuse(
                "holds another artifact; choose another directory, or write `existing: Replace`, "
                "which keeps that one under its digest"
            )
        kept = self._kept(former)
        if kept.exists() and not _is_artifact(kept, former.checkpointDigest):
            self._refuse(
                f"holds another artifact, which would be kept as '{kept}', and that is something "
                "else; move it away"
            )
        self._refuse_without_exchange()

    def _refuse_without_exchange(self) -> None:
        made = not self._staged.exists()
        self._staged.mkdir(exist_ok=True)
        possible = can_exchange(self._staged)
        if made:
            self._staged.rmdir()
        if not possible:
            raise RefusedInput(
                Reason.TargetUnsafe,
                _FIELD,
                f"The file system of `{_FIELD}` '{self._uri}' cannot exchange two directories in "
                "one step, so the artifact there cannot be replaced safely; choose another path.",
            )

    def _stage(self, tree: Path, artifact: Artifact, progress: Progress) -> None:
        """Make `.NAME.publishing` the whole artifact, on disk."""
        try:
            with storage_errors(self._uri):
                # What is changed file by file must not be taken for a whole artifact.
                (self._staged / ARTIFACT_FILE).unlink(missing_ok=True)
                stage_files(tree, self._staged, artifact.files, progress)
                artifact.save(self._staged / ARTIFACT_FILE)
        except HalftoneError as error:
            if error.reason in _SPOILING:
                shutil.rmtree(self._staged, ignore_errors=True)
            raise

    def _appear(self, former: Artifact | None) -> None:
        """The one step that readers see; then give the former its name."""
        if former is None:
            self._staged.rename(self._path)  # which is absent or empty, or this fails
        else:
            exchange(self._staged, self._path)
            sync_directory(self._parent)
            self._name(former)
        sync_directory(self._parent)

    def _name(self, former: Artifact) -> None:
        """Bring `former`, which lies in `.NAME.publishing`, to `PATH.<digest12>`."""
        kept = self._kept(former)
        if not kept.exists():
            self._staged.rename(kept)
        elif _is_artifact(kept, former.checkpointDigest):
            exchange(self._staged, kept)  # the same checkpoint was here before: keep the later one
            shutil.rmtree(self._staged)
        else:
            self._refuse(f"had an artifact that is kept as '{kept}', but that is something else")

    def _kept(self, artifact: Artifact) -> Path:
        return self._parent / f"{self._path.name}.{artifact.checkpointDigest[:SHORT_DIGEST]}"

    def _is_former(self, path: Path) -> bool:
        name = rf"{re.escape(self._path.name)}\.[0-9a-f]{{{SHORT_DIGEST}}}"
        return path.parent == self._parent and re.fullmatch(name, path.name) is not None

    def _dead(self) -> list[Path]:
        """What a publisher or a removal left that is not at work any more."""
        removing = rf"\.{re.escape(self._path.name)}\.[0-9a-f]{{{SHORT_DIGEST}}}\.removing"
        return [
            path
            for path in sorted(self._parent.iterdir())
            if path == self._staged or re.fullmatch(removing, path.name)
        ]

    def _abandoned(self, path: Path) -> Leftover:
        """A dead upload, or a former artifact that did not get its name yet."""
        artifact, current = _artifact_in(path), _artifact_in(self._path)
        if artifact is not None and current is not None and path == self._staged:
            return _superseded(path, artifact)
        size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
        return Leftover(LeftoverKind.DeadUpload, str(path), size, None)

    def _refuse(self, why: str) -> NoReturn:
        raise RefusedInput(Reason.TargetOccupied, _FIELD, f"`{_FIELD}` '{self._uri}' {why}.")


def _artifact_in(directory: Path) -> Artifact | None:
    """The artifact that `directory` holds, if it holds one of this version."""
    path = directory / ARTIFACT_FILE
    try:
        return Artifact.load(path) if path.is_file() else None
    except RefusedInput:
        return None


def _is_artifact(directory: Path, checkpoint_digest: str) -> bool:
    artifact = _artifact_in(directory)
    return artifact is not None and artifact.checkpointDigest == checkpoint_digest


def _superseded(directory: Path, artifact: Artifact) -> Leftover:
    kind, digest = LeftoverKind.Superseded, artifact.checkpointDigest
    return Leftover(kind, str(directory), artifact.sizeBytes, digest)


def refuse_nested(target: Path, workdir: Path) -> None:
    """Raise RefusedInput(TargetOccupied) if `target` and `workdir` lie in one another.

    For the start of a job: publishing would replace what it reads from.
    """
    target, workdir = Path(os.path.realpath(target)), Path(os.path.realpath(workdir))
    if target.is_relative_to(workdir) or workdir.is_relative_to(target):
        raise RefusedInput(
            Reason.TargetOccupied,
            _FIELD,
            f"`{_FIELD}` '{target}' and the work directory '{workdir}' may not lie in one another; "
            "choose a directory beside it.",
        )
