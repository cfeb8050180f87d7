"""Why a child failed, in a reason and a sentence with the way out.

Called by `judging`. A stage's own words are passed on as they are; where a container was killed
before it could say anything, what the kubelet knows takes their place.
"""

import re
from dataclasses import dataclass
from typing import Final

from halftone.control.observed import ObservedChild, ObservedPod
from halftone.control.stages import STAGES
from halftone.spec.cluster import RETRY_ANNOTATION, Ended
from halftone.spec.errors import CheckFailed, RefusedInput
from halftone.spec.names import Reason
from halftone.spec.running import StageName
from halftone.spec.stage_results import StageResult

# The Job controller's own reason for a failure that our rules call final.
_RULE: Final = "PodFailurePolicy"
# 128 + SIGKILL; nothing but the kernel's want of memory kills like this unannounced.
_KILLED: Final = 137
# Trying again is useless after a failed check, a refusal, or a kill for memory.
FINAL_CODES: Final = (CheckFailed.exit_code, RefusedInput.exit_code, _KILLED)
# What `metav1.Condition` takes as a reason.
_WORD: Final = re.compile(r"[A-Za-z](?:[A-Za-z0-9_,:]{0,62}[A-Za-z0-9_])?")
# How much of a runtime's own error is passed on.
_SAID: Final = 512


@dataclass(frozen=True)
class Failed:
    """Nothing more will be tried. `reason` is a word of ours; `result` has what was found."""

    reason: str
    message: str
    result: StageResult | None = None


def explain(child: ObservedChild, plan_bytes: int | None) -> Failed:
    """Why `child`, which has failed, did so."""
    assert child.failure is not None
    pod = _culprit(child, *child.failure)
    if pod is None:
        return _unexplained(child, f"its pods are gone; {child.failure[1] or child.failure[0]}")
    name, settings = child.stage.value, STAGES[child.stage].settings
    memory = Memory(plan_bytes, child.memory_request, child.memory_limit)
    found = of_pod(name, settings, pod, memory)
    return found or _unexplained(child, what_is_known(pod), own_result(name, pod))


@dataclass(frozen=True)
class Memory:
    """What is known of a pod's memory: by the plan in bytes, and as quantities ("" for none).

    `whose` is what asked for it.
    """

    plan_bytes: int | None
    request: str
    limit: str
    whose: str = "its Job"


def of_pod(stage: str, settings: StageName, pod: ObservedPod, memory: Memory) -> Failed | None:
    """Why `pod` of `stage` ended badly, None if neither it nor the kubelet says so.

    `settings` is the stage of the API whose resources it has.
    """
    result = own_result(stage, pod)
    if pod.terminated_reason == "Evicted":
        return Failed(Reason.OutOfSpace, _evicted(stage, settings, pod), result)
    if pod.terminated_reason == "OOMKilled" or pod.exit_code == _KILLED:
        return Failed(Ended.OutOfMemory, _out_of_memory(stage, settings, pod, memory), result)
    if result is not None and result.failure is not None:
        return Failed(word(result.failure.reason), result.failure.message, result)
    return None


def own_result(stage: str, pod: ObservedPod) -> StageResult | None:
    """What `pod` left, if it is of `stage`; an image may say anything."""
    return pod.result if pod.result is not None and pod.result.stage == stage else None


def what_is_known(pod: ObservedPod) -> str:
    """How `pod` ended, where nothing better is to be said."""
    code = "" if pod.exit_code is None else f" with exit code {pod.exit_code}"
    said = f": {pod.said[:_SAID].strip()}" if pod.said.strip() else " and said nothing"
    return f"pod '{pod.name}' ended{code}{said}"


def word(reason: str) -> str:
    """`reason` if it can stand in a condition; whoever made an image may have written anything."""
    return reason if _WORD.fullmatch(reason) else Ended.StageFailed


def silent(stage: str, pod: str) -> Failed:
    """A pod that ended well, and left nothing that can be read."""
    return Failed(
        Ended.StageFailed,
        f"Pod '{pod}' of the stage `{stage}` ended well and left no result that can be read; give "
        "the operator and its stages images of one version, then set the annotation "
        f"`{RETRY_ANNOTATION}`.",
    )


def _culprit(child: ObservedChild, reason: str, message: str) -> ObservedPod | None:
    """The pod that ended the Job: the one that its controller names, else the last to fail.

    Others may have failed earlier for a reason that has gone, or were killed because of this one.
    """
    ended = [pod for pod in child.pods if pod.phase == "Failed" or pod.exit_code not in (None, 0)]
    named = [pod for pod in ended if f"/{pod.name} " in message]
    if reason == _RULE and not named:
        named = [pod for pod in ended if pod.result is not None and pod.result.failure is not None]
    counted = [pod for pod in ended if not pod.disrupted]
    chosen = named or counted or ended
    return max(chosen, key=lambda pod: (pod.created, pod.name)) if chosen else None


def _out_of_memory(stage: str, settings: StageName, pod: ObservedPod, memory: Memory) -> str:
    facts = [
        f"the plan counts on {memory.plan_bytes} bytes" if memory.plan_bytes is not None else "",
        f"{memory.whose} requests {memory.request}" if memory.request else "",
        f"its limit is {memory.limit}" if memory.limit else "it has no limit",
    ]
    known = ", ".join(fact for fact in facts if fact)
    field = "limits" if memory.limit else "requests"
    return (
        f"Pod '{pod.name}' of the stage `{stage}` was killed for its memory ({known}); raise "
        f"`resources.{field}.memory` of '{settings}' in `spec.stages`, then set the annotation "
        f"`{RETRY_ANNOTATION}`."
    )


def _evicted(stage: str, settings: StageName, pod: ObservedPod) -> str:
    return (
        f"Pod '{pod.name}' of the stage `{stage}` was evicted: {pod.said[:_SAID].strip()} Give "
        f"'{settings}' more of it in `spec.stages`, or have the installation's "
        f"`cacheSizeLimit` raised, then set the annotation `{RETRY_ANNOTATION}`."
    )


def _unexplained(child: ObservedChild, what: str, result: StageResult | None = None) -> Failed:
    assert child.failure is not None
    backoff = child.failure[0] == Ended.BackoffLimitExceeded
    return Failed(
        Ended.BackoffLimitExceeded if backoff else Ended.StageFailed,
        f"The stage `{child.stage}` failed: {what.rstrip('.')}. See `halftone logs`, or `kubectl "
        f"logs job/{child.name}`, then set the annotation `{RETRY_ANNOTATION}`.",
        result,
    )
