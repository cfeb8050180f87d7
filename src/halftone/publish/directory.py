"""Publish to a directory: a copy under a temporary name, then one rename.

The same checkpoint digest twice does nothing; another one under the same name is refused.
"""

import os
import shutil
from pathlib import Path

from halftone.spec.documents import Artifact, CheckpointDocument, sync_directory
from halftone.spec.errors import EnvironmentFault, RefusedInput
from halftone.spec.names import ARTIFACT_FILE, CHECKPOINT_FILE, PLAN_FILE, Reason


def publish_directory(
    checkpoint: Path, document: CheckpointDocument, plan: Path, target: Path
) -> Artifact:
    """Copy `checkpoint` and its documents to `target`; return the artifact's document.

    Raises RefusedInput(OutputNotEmpty) when `target` holds something else.
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
        for file in sorted(checkpoint.iterdir()):
            _copy(file, staged / file.name)
        _copy(plan, staged / PLAN_FILE)
        document.save(staged / CHECKPOINT_FILE)
        artifact.save(staged / ARTIFACT_FILE)
        staged.rename(target)
        sync_directory(target.parent)
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
