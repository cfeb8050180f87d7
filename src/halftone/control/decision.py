"""What a reconcile wants done: at most one status write, and writes before it.

Carried out by `operators.quantizationjob.apply`: finalizer, deletions, creations, what is asked of
a Kubeflow server, status, then events, and events only if the status was written.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from halftone.spec.cluster import EventReason
from halftone.spec.pipelines import RunRequest
from halftone.spec.status import JobStatus


@dataclass(frozen=True)
class Event:
    """One event on the QuantizationJob; `warning` says of which of the two types.

    Made by `telling.event`, which keeps the message within the API server's bound.
    """

    reason: EventReason
    message: str
    warning: bool = False


@dataclass(frozen=True)
class Deletion:
    """A child Job to delete, with its pods, if it still has `uid`."""

    name: str
    uid: str


@dataclass(frozen=True)
class SubmitRun:
    """Make this run, unless one of its name is there by now.

    Only where the claim in `status.pipelineRun` is ours, which the API server has confirmed.
    """

    request: RunRequest


@dataclass(frozen=True)
class TerminateRun:
    """End a run; one that has ended already is left as it is."""

    run_id: str


@dataclass(frozen=True)
class DeleteRun:
    """Remove a run that has ended from the server's list; one that is not there is no error."""

    run_id: str


@dataclass(frozen=True)
class Decision:
    """`status` is None if it is as it should be.

    `creations` are whole manifests (Job, PersistentVolumeClaim); one that exists is left as it is.
    `finalizer`: True to have it (or to make sure of it), False to give it up, None to leave it.
    `delete_self` when the time to live is over. `requeue_seconds`: look again then, whatever
    happens; None to wait for events. `progress_wanted`: children whose workers should be asked how
    far they are. `run`: what to ask of the Kubeflow server, after deletions and creations and
    before the status.
    """

    status: JobStatus | None = None
    creations: tuple[Mapping[str, Any], ...] = ()
    deletions: tuple[Deletion, ...] = ()
    run: SubmitRun | TerminateRun | DeleteRun | None = None
    finalizer: bool | None = None
    delete_self: bool = False
    events: tuple[Event, ...] = ()
    requeue_seconds: float | None = None
    progress_wanted: tuple[str, ...] = ()
