"""Publish to a directory: a copy under a temporary name, then one rename.

The same checkpoint digest twice does nothing; another one under the same name is refused.
"""

import os
import shutil
from pathlib import Path
from typing import NoReturn

from halftone.checkpoint.digests import file_sha256
from halftone.spec.documents import Artifact, CheckpointDocument, sync_directory
from halftone.spec.errors import CheckFailed, EnvironmentFault, RefusedInput
from halftone.spec.names import ARTIFACT_FILE, CHECKPOINT_FILE, PLAN_FILE, Reason


def publish_directory(
    checkpoint: Path, document: CheckpointDocument, plan: Path, target: Path
) -> Artifact:
    """Copy `checkpoint` and its documents to `target`; return the artifact's document.

    Only the files that `document` lists are copied, and each copy must have its digest. Raises
    RefusedInput(OutputNotEmpty) when `target` holds something else, CheckFailed(DigestDiffers) for
    a checkpoint that is not the one that was written.
    """
    artifact = Artifact(
        uri=str(target), checkpointDigest=document.digest, planDigest=document.planDigest
    )
    existing = _artifact(target)
    if existing is not None and existing.checkpointDigest == document.digest:
        return existing
    _refuse_occupied(target)
    staged = target.parent / f".{target.name}.publishing"
    try:
        shutil.rmtree(staged, ignore_errors=True)
        staged.mkdir(parents=True)
        for file in document.files:
            _copy(checkpoint / file.path, staged / file.path)
            _require_digest(staged / file.path, file.sha256)
        _copy(plan, staged / PLAN_FILE)
        document.save(staged / CHECKPOINT_FILE)
        artifact.save(staged / ARTIFACT_FILE)
        staged.rename(target)
        sync_directory(target.parent)
    except CheckFailed:
        shutil.rmtree(staged, ignore_errors=True)
        raise
    except OSError as error:
        shutil.rmtree(staged, ignore_errors=True)
        raise EnvironmentFault(
            Reason.StorageFailed,
            str(target),
            f"'{target}' could not be written ({error.strerror}); mend this and run the same "
            "command again.",
        ) from error
    return artifact


def refuse_taken(target: Path, workdir: Path, plan_digest: str) -> None:
    """Raise RefusedInput(OutputNotEmpty) unless the plan's artifact may be published to `target`.

    For the start of a job: what `publish_directory` would refuse after hours of work. The artifact
    of the same plan is in nobody's way.
    """
    target, workdir = target.resolve(), workdir.resolve()
    if target.is_relative_to(workdir) or workdir.is_relative_to(target):
        _refuse(
            target,
            f"and the work directory '{workdir}' may not lie in one another; choose a directory "
            "beside it",
        )
    existing = _artifact(target)
    if existing is None or existing.planDigest != plan_digest:
        _refuse_occupied(target)


def _artifact(target: Path) -> Artifact | None:
    path = target / ARTIFACT_FILE
    return Artifact.load(path) if path.is_file() else None


def _refuse_occupied(target: Path) -> None:
    if target.exists() and not target.is_dir():
        _refuse(target, "is a file; choose another path or remove that one")
    if target.is_dir() and any(target.iterdir()):
        _refuse(
            target,
            "is not empty and holds another artifact; choose another directory or remove that one",
        )
    if os.path.ismount(target):
        _refuse(
            target,
            "is a mount point, which an artifact cannot replace; give a directory inside it, such "
            f"as '{target / 'model'}'",
        )


def _refuse(target: Path, why: str) -> NoReturn:
    field = "publish.directory.path"
    raise RefusedInput(Reason.OutputNotEmpty, field, f"`{field}` '{target}' {why}.")


def _copy(file: Path, copy: Path) -> None:
    shutil.copyfile(file, copy)
    with copy.open("rb") as written:
        os.fsync(written.fileno())


def _require_digest(copy: Path, sha256: str) -> None:
    if file_sha256(copy) != sha256:
        raise CheckFailed(
            Reason.DigestDiffers,
            copy.name,
            f"'{copy.name}' is not the file that was written (its SHA-256 differs from "
            f"{CHECKPOINT_FILE}), so nothing is published; quantize again in a new work directory.",
        )
