"""How a child is doing: absent, at work, waiting for something outside, done, or failed.

Called by `walking` and `ending`. One sentence for each way in which a Job or its pods can be stuck
or end; the kubelet's and the scheduler's own words are passed on, because they name what to mend.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from halftone.control.failures import FINAL_CODES, Failed, explain
from halftone.control.observed import ObservedChild, ObservedPod
from halftone.spec.cluster import Waiting
from halftone.spec.stage_results import StageResult

# What the kubelet says of a container that it cannot start, and what that means here.
_STUCK: Final = {
    "ErrImagePull": Waiting.ImageNotPulled,
    "ImagePullBackOff": Waiting.ImageNotPulled,
    "InvalidImageName": Waiting.ImageNotPulled,
    "ErrImageNeverPull": Waiting.ImageNotPulled,
    "ImageInspectError": Waiting.ImageNotPulled,
    "RegistryUnavailable": Waiting.ImageNotPulled,
    "SignatureValidationFailed": Waiting.ImageNotPulled,
    "CreateContainerConfigError": Waiting.ReferenceMissing,
    "CreateContainerError": Waiting.ContainerNotStarted,
    "RunContainerError": Waiting.ContainerNotStarted,
}
# A scheduling gate is Kueue's way to hold back a pod.
_GATED: Final = "SchedulingGated"
# A watch that is this far behind another has been cut, and will bring everything at once.
_PODS_FOLLOW: Final = timedelta(seconds=30)
# A pod that is seen at work although its Job has failed may be on a node that is lost.
_LOST: Final = timedelta(minutes=10)
_ENDED: Final = frozenset({"Succeeded", "Failed"})


@dataclass(frozen=True)
class Absent:
    """There is no such child, or it is on its way out."""


@dataclass(frozen=True)
class Working:
    """Pods run, or soon will; `waiting` says why they do not: (reason, message)."""

    waiting: tuple[Waiting, str] | None = None


@dataclass(frozen=True)
class Done:
    """All pods succeeded. `result` is None when there is none that can be read: `silent` names a
    pod that left none; None if all of them are gone.
    """

    result: StageResult | None
    silent: str | None = None


State = Absent | Working | Done | Failed


def judge(child: ObservedChild | None, now: datetime, plan_bytes: int | None = None) -> State:
    """What `child` came to. `plan_bytes` is the memory that the plan counts on."""
    if child is None or child.deleting:
        return Absent()
    if child.complete:
        return _completed(child, now)
    if child.failure is not None:
        return Working() if _has_more_to_show(child, now) else explain(child, plan_bytes)
    return Working(_waiting(child))


def is_live(child: ObservedChild) -> bool:
    """Whether pods of it may run now, or later."""
    return not child.complete and child.failure is None


def _completed(child: ObservedChild, now: datetime) -> State:
    good = [pod for pod in child.pods if pod.exit_code == 0 or pod.phase == "Succeeded"]
    result = newest_result(good, child.stage)
    if result is not None:
        return Done(result)
    if len(good) < len([pod for pod in child.pods if pod.phase != "Failed"]):
        return Working()  # a pod that is seen at work has ended: the Job says so
    if good:
        return Done(None, silent=max(good, key=_age).name)
    return Working() if _may_be_seen_yet(child, now, _PODS_FOLLOW) else Done(None)


def _has_more_to_show(child: ObservedChild, now: datetime) -> bool:
    """Jobs and pods are watched apart: how a pod ended may be seen after its Job has ended."""
    if any(pod.phase not in _ENDED and pod.exit_code is None for pod in child.pods):
        return _may_be_seen_yet(child, now, _LOST)
    ended = any(pod.phase == "Failed" or pod.exit_code not in (None, 0) for pod in child.pods)
    return not ended and _may_be_seen_yet(child, now, _PODS_FOLLOW)


def _may_be_seen_yet(child: ObservedChild, now: datetime, within: timedelta) -> bool:
    return child.finished is not None and now - child.finished < within


def newest_result(pods: Iterable[ObservedPod], stage: str) -> StageResult | None:
    """The newest result that is one of `stage`; an image may say anything."""
    found = [pod for pod in pods if pod.result is not None and pod.result.stage == stage]
    return max(found, key=_age).result if found else None


def _age(pod: ObservedPod) -> tuple[datetime, str]:
    return pod.created, pod.name


def _waiting(child: ObservedChild) -> tuple[Waiting, str] | None:
    """Why a child makes no progress, the nearest cause first; None when it does."""
    if child.suspended:
        return Waiting.Queued, f"The Job '{child.name}' is held back until its queue has room."
    if child.refusal is not None and not child.pods:
        reason, message = child.refusal
        return Waiting.PodsRefused, f"No pod of '{child.name}' may be made ({reason}): {message}"
    return why_waiting(child.pods)


def why_waiting(
    pods: Collection[ObservedPod], *, codes_tell: bool = True
) -> tuple[Waiting, str] | None:
    """Why none of `pods`, which carry out one stage, makes progress; None when one does.

    `codes_tell`: whether exit codes are those of the stage; Kubeflow's launcher makes 1 of all.
    """
    stuck = [found for pod in sorted(pods, key=_age) if (found := _stuck(pod)) is not None]
    return stuck[0] if stuck else _between(pods, FINAL_CODES if codes_tell else ())


def _stuck(pod: ObservedPod) -> tuple[Waiting, str] | None:
    if pod.phase != "Pending" or pod.waiting is None:
        return None
    reason, message = pod.waiting
    if not pod.scheduled:
        if reason == _GATED:
            return Waiting.Queued, f"Pod '{pod.name}' is held back until its queue has room."
        return Waiting.Unschedulable, f"Pod '{pod.name}': {message or reason}"
    if reason in _STUCK:
        return _STUCK[reason], f"Pod '{pod.name}' ({reason}): {message}"
    return None


def _between(pods: Collection[ObservedPod], final: Collection[int]) -> tuple[Waiting, str] | None:
    """A pod ended and no other has come to its end: which it was, and what it said."""
    running = any(pod.phase == "Running" and not pod.disrupted for pod in pods)
    ended = [pod for pod in pods if pod.phase == "Failed" or pod.disrupted]
    if running or not ended:
        return None
    last = max(ended, key=_age)
    if last.disrupted:
        return (
            Waiting.Disrupted,
            f"Pod '{last.name}' was preempted or evicted and is being replaced; finished work is "
            "kept.",
        )
    if last.exit_code in final:
        return None  # no other comes; the Job says so in a moment
    failure = last.result.failure if last.result is not None else None
    said = f": {failure.message}" if failure is not None else "."
    return Waiting.Retrying, f"Pod '{last.name}' failed and is being tried again{said}"
