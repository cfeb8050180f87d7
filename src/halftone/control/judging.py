"""How a child is doing: absent, at work, waiting for something outside, done, or failed.

Called by `reconciling`. One sentence for each way in which a Job or its pods can be stuck or end;
the kubelet's and the scheduler's own words are passed on, because they name what to mend.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from halftone.control.observed import ObservedChild, ObservedPod
from halftone.spec.cluster import Ended, Waiting
from halftone.spec.stage_results import StageResult

# What the kubelet says of a container that it cannot start, and what that means here.
_PULLS: Final = frozenset(
    {"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull"}
)
_REFERENCES: Final = frozenset({"CreateContainerConfigError", "CreateContainerError"})
# A watch that is this far behind another has been cut, and will bring everything at once.
_PODS_FOLLOW: Final = timedelta(seconds=30)
# Exit codes of `halftone.spec.errors`; 137 is SIGKILL, mostly for memory.
_KILLED: Final = 137


@dataclass(frozen=True)
class Absent:
    """There is no such child."""


@dataclass(frozen=True)
class Working:
    """Pods run, or soon will; `waiting` says why they do not: (reason, message)."""

    waiting: tuple[Waiting, str] | None = None


@dataclass(frozen=True)
class Done:
    """All pods succeeded. `result` is None when no pod is left to read it from."""

    result: StageResult | None


@dataclass(frozen=True)
class Failed:
    """Nothing more will be tried. `reason` is a word of ours; `result` has what was found."""

    reason: str
    message: str
    result: StageResult | None = None


State = Absent | Working | Done | Failed


def judge(child: ObservedChild | None, now: datetime) -> State:
    """What `child` came to."""
    if child is None or child.deleting:
        return Absent()
    if child.complete:
        result = _result(child.pods, failed=False)
        return Working() if result is None and _may_be_seen_yet(child, now) else Done(result)
    if child.failure is not None:
        ended = any(pod.exit_code not in (None, 0) for pod in child.pods)
        late = ended or not _may_be_seen_yet(child, now)
        return _failed(child, child.failure) if late else Working()
    return Working(_waiting(child))


def _may_be_seen_yet(child: ObservedChild, now: datetime) -> bool:
    """Jobs and pods are watched apart: how a pod ended may be seen after its Job has ended."""
    return child.finished is not None and now - child.finished < _PODS_FOLLOW


def _result(pods: Iterable[ObservedPod], *, failed: bool) -> StageResult | None:
    """The newest result of a pod that ended as asked for."""
    found = [pod for pod in pods if pod.result and (pod.exit_code != 0) is failed]
    return max(found, key=lambda pod: (pod.created, pod.name)).result if found else None


def _failed(child: ObservedChild, failure: tuple[str, str]) -> Failed:
    result = _result(child.pods, failed=True)
    # What ended the Job came last: an earlier pod may have failed for a reason that has gone.
    ended = [pod for pod in child.pods if pod.exit_code not in (None, 0)]
    last = max(ended, key=lambda pod: (pod.created, pod.name)) if ended else None
    if last is not None and (last.exit_code == _KILLED or last.terminated_reason == "OOMKilled"):
        return Failed(
            Ended.OutOfMemory,
            f"Pod '{last.name}' of the stage `{child.stage}` was killed for its memory; raise "
            f"`resources.limits.memory` of that stage in `spec.stages`.",
            result,
        )
    if result is not None and result.failure is not None:
        return Failed(result.failure.reason, result.failure.message, result)
    reason, message = failure
    known = Ended.BackoffLimitExceeded if reason == "BackoffLimitExceeded" else reason
    return Failed(
        known,
        f"The stage `{child.stage}` failed and left no reason ({message or reason}); see "
        f"`halftone logs`, or `kubectl logs job/{child.name}`.",
        result,
    )


def _waiting(child: ObservedChild) -> tuple[Waiting, str] | None:
    """Why a child makes no progress, the nearest cause first; None when it does."""
    if child.suspended:
        return Waiting.Queued, f"The Job '{child.name}' is held back until its queue has room."
    for pod in child.pods:
        stuck = _stuck(pod)
        if stuck is not None:
            return stuck
    if child.refusal is not None and not child.pods:
        reason, message = child.refusal
        return Waiting.PodsRefused, f"No pod of '{child.name}' may be made ({reason}): {message}"
    return _between(child)


def _stuck(pod: ObservedPod) -> tuple[Waiting, str] | None:
    if pod.phase != "Pending":
        return None
    if not pod.scheduled and pod.waiting is not None:
        return Waiting.Unschedulable, f"Pod '{pod.name}': {pod.waiting[1]}"
    if pod.waiting is None:
        return None
    reason, message = pod.waiting
    if reason in _PULLS:
        return Waiting.ImageNotPulled, f"Pod '{pod.name}' ({reason}): {message}"
    if reason in _REFERENCES:
        return Waiting.ReferenceMissing, f"Pod '{pod.name}': {message}"
    return None


def _between(child: ObservedChild) -> tuple[Waiting, str] | None:
    """A pod ended and no other has come to its end: which it was, and what it said."""
    running = any(pod.phase == "Running" for pod in child.pods)
    ended = [pod for pod in child.pods if pod.phase == "Failed" or pod.disrupted]
    if running or not ended:
        return None
    last = max(ended, key=lambda pod: (pod.created, pod.name))
    if last.disrupted:
        return (
            Waiting.Disrupted,
            f"Pod '{last.name}' was preempted or evicted and is being replaced; finished work is "
            "kept.",
        )
    failure = last.result.failure if last.result is not None else None
    said = f": {failure.message}" if failure is not None else "."
    return Waiting.Retrying, f"Pod '{last.name}' failed and is being tried again{said}"
