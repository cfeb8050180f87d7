"""Names of what belongs to a job. The API bounds a job's name, so none of them is ever too long."""

from typing import Any

from halftone.spec.cluster import (
    ATTEMPT_LABEL,
    FIELD_MANAGER,
    GROUP,
    JOB_LABEL,
    MANAGED_BY_LABEL,
    STAGE_LABEL,
    VERSION,
    ChildStage,
)
from halftone.spec.names import JOB_KIND


def child_name(job: str, stage: ChildStage, attempt: int) -> str:
    """The same for the same work, so that no child is ever made twice."""
    return f"{job}-{stage}-{attempt}"


def volume_name(job: str) -> str:
    """The claim that is made for a job which asks for one."""
    return f"{job}-work"


def labels(job: str, stage: ChildStage, attempt: int) -> dict[str, str]:
    """On a child and its pods."""
    return {
        MANAGED_BY_LABEL: FIELD_MANAGER,
        JOB_LABEL: job,
        STAGE_LABEL: stage.value,
        ATTEMPT_LABEL: str(attempt),
    }


def owner(metadata: Any) -> dict[str, Any]:
    """The owner reference that lets garbage collection reach what belongs to a job.

    It blocks no deletion: the finalizer waits for pods itself, cleaning up comes after a deletion
    in the foreground, and some clusters let only those block who may write finalizers of the owner.
    """
    return {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": JOB_KIND,
        "name": metadata["name"],
        "uid": metadata["uid"],
        "controller": True,
        "blockOwnerDeletion": False,
    }
