"""Publish to a directory: a copy under a temporary name, then one rename.

The same checkpoint digest twice does nothing; another one under the same name is refused.
"""

import os
import shutil
from pathlib import Path

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
    existing = target / ARTIFACT_FILE
    if existing.is_file() and Artifact.load(existing).checkpointDigest == document.digest:
        return Artifact.load(existing)
    if target.exists() and any(target.iterdir()):
        raise RefusedInput(
            Reason.OutputNotEmpty,
            "publish.directory.path",
            f"`publish.directory.path` '{target}' is not empty and holds another artifact; "
            "choose another directory or remove that one.",
        )
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
