"""Publish to a directory: a copy under a temporary name, then one rename.

The same checkpoint digest twice does nothing; another one under the same name is refused.
"""

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
        shutil.copytree(checkpoint, staged)
        shutil.copyfile(plan, staged / PLAN_FILE)
        document.save(staged / CHECKPOINT_FILE)
        artifact.save(staged / ARTIFACT_FILE)
        staged.rename(target)
        sync_directory(target.parent)
    except OSError as error:
        shutil.rmtree(staged, ignore_errors=True)
        raise EnvironmentFault(
            Reason.StorageFailed, str(target), f"'{error.filename or target}': {error.strerror}."
        ) from error
    return artifact
