"""How one child is judged: what stands in a condition while it waits, and when it ends.

We test these aspects:
- what keeps pods from running is told in the words of whoever knows, and is no failure;
- what ended a Job is told by the pod that ended it; memory, eviction, and pods that say nothing or
  nonsense have sentences of their own, with the way out;
- what is seen of Jobs and of pods need not be of one moment.
"""

from datetime import timedelta
from typing import Any

import pytest

from halftone.control.failures import Failed
from halftone.control.judging import Done, Working, judge
from halftone.control.observed import ObservedPod
from halftone.spec.cluster import ChildStage, Waiting
from halftone.spec.names import Reason
from tests.cluster.answers import result
from tests.control_cases import NOW, bad_pod, broken, child, done, failed, good_pod, pod

QUANTIZE = ChildStage.Quantize
LATER = NOW + timedelta(hours=1)


def pending(reason: str, message: str = "the words", **more: Any) -> ObservedPod:
    return pod(phase="Pending", waiting=(reason, message), **more)


WAITING = {
    "no node has room": (
        {"pods": (pending("Unschedulable", "0/3 nodes: Insufficient memory.", scheduled=False),)},
        Waiting.Unschedulable,
        "Pod 'p': 0/3 nodes: Insufficient memory.",
    ),
    "a queue holds back pods": (
        {"pods": (pending("SchedulingGated", scheduled=False),)},
        Waiting.Queued,
        "until its queue has room",
    ),
    "a queue holds back the Job": ({"suspended": True}, Waiting.Queued, "until its queue has room"),
    "an image is not there": (
        {"pods": (pending("ErrImagePull", "manifest unknown"),)},
        Waiting.ImageNotPulled,
        "Pod 'p' (ErrImagePull): manifest unknown",
    ),
    "an image is still not there": (
        {"pods": (pending("ImagePullBackOff"),)},
        Waiting.ImageNotPulled,
        "the words",
    ),
    "a Secret is not there": (
        {"pods": (pending("CreateContainerConfigError", 'secret "token" not found'),)},
        Waiting.ReferenceMissing,
        'secret "token" not found',
    ),
    "a key is not there": (
        {"pods": (pending("CreateContainerConfigError", "couldn't find key k in Secret a/b"),)},
        Waiting.ReferenceMissing,
        "couldn't find key k in Secret a/b",
    ),
    "the runtime fails": (
        {"pods": (pending("RunContainerError", "exec format error"),)},
        Waiting.ContainerNotStarted,
        "exec format error",
    ),
    "a quota is used up": (
        {"refusal": ("FailedCreate", "exceeded quota: small, requested: pods=1")},
        Waiting.PodsRefused,
        "exceeded quota: small",
    ),
    "a pod was preempted": (
        {"pods": (pod(phase="Failed", disrupted=True, exit_code=143),)},
        Waiting.Disrupted,
        "finished work is kept",
    ),
    "a pod is being evicted": ({"pods": (pod(disrupted=True),)}, Waiting.Disrupted, "evicted"),
    "a fault of the surroundings": (
        {"pods": (bad_pod(QUANTIZE, "StoreUnavailable", 3, message="S3 said 503."),)},
        Waiting.Retrying,
        "is being tried again: S3 said 503.",
    ),
    "a pod that said nothing": (
        {"pods": (pod(phase="Failed", exit_code=3),)},
        Waiting.Retrying,
        "is being tried again.",
    ),
}


@pytest.mark.parametrize("case", WAITING.values(), ids=WAITING.keys())
def test_what_is_waited_for_is_told_and_is_no_failure(case: Any) -> None:
    facts, reason, words = case
    state = judge(child(QUANTIZE, **facts), LATER)
    assert isinstance(state, Working)
    assert state.waiting is not None
    assert state.waiting[0] is reason
    assert words in state.waiting[1]


AT_WORK = {
    "no pod yet": (),
    "a pod was refused, and the Job does not say so yet": (
        bad_pod(QUANTIZE, "RecipeUnknown", 2, message="No such recipe."),
    ),
    "a pod was killed for memory": (pod(phase="Failed", exit_code=137),),
    "an image is being pulled": (pending("ContainerCreating"),),
    "a pod runs": (pod(),),
    "another pod runs after a failure": (bad_pod(QUANTIZE, "OutOfSpace", 3), pod("q")),
    "one of two was preempted": (pod("q"), pod(phase="Failed", disrupted=True)),
    "a pod whose word has not come through": (pod(phase="Pending"),),
}


@pytest.mark.parametrize("pods", AT_WORK.values(), ids=AT_WORK.keys())
def test_what_is_at_work_waits_for_nothing(pods: tuple[ObservedPod, ...]) -> None:
    assert judge(child(QUANTIZE, pods=pods), LATER) == Working()


RULE = ("PodFailurePolicy", "")
NAMED = (
    "PodFailurePolicy",
    "Container stage for pod team/b failed with exit code 2 matching FailJob rule at index 1",
)
OFTEN = ("BackoffLimitExceeded", "Job has reached the specified backoff limit")
OLDER = {"created": NOW - timedelta(minutes=5)}
FAILED = {
    "a refusal is passed on word for word": (
        (bad_pod(QUANTIZE, "SourceChanged", message="It is not the one; plan again."),),
        RULE,
        "SourceChanged",
        "It is not the one; plan again.",
    ),
    "the pod that the controller names": (
        (bad_pod(QUANTIZE, "AccessDenied", name="b"), pod("z", phase="Failed", exit_code=137)),
        NAMED,
        "AccessDenied",
        "It is wrong; mend it.",
    ),
    "the last of several faults": (
        (
            bad_pod(QUANTIZE, "StoreUnavailable", 3, name="a", **OLDER),
            bad_pod(QUANTIZE, "OutOfSpace", 3, name="b"),
        ),
        OFTEN,
        "OutOfSpace",
        "It is wrong; mend it.",
    ),
    "not a fault that has gone": (
        (
            bad_pod(QUANTIZE, "StoreUnavailable", 3, name="a", **OLDER),
            pod("b", phase="Failed", exit_code=139),
        ),
        OFTEN,
        "BackoffLimitExceeded",
        "pod 'b' ended with exit code 139 and said nothing",
    ),
    "not one that was preempted": (
        (
            bad_pod(QUANTIZE, "OutOfSpace", 3, name="a", **OLDER),
            pod("b", phase="Failed", exit_code=143, disrupted=True),
        ),
        OFTEN,
        "OutOfSpace",
        "It is wrong; mend it.",
    ),
    "a disk that is full": (
        (
            pod(
                phase="Failed",
                exit_code=137,
                terminated_reason="Evicted",
                said='Usage of EmptyDir volume "cache" exceeds the limit "1Gi". ',
            ),
        ),
        RULE,
        "OutOfSpace",
        'was evicted: Usage of EmptyDir volume "cache" exceeds the limit "1Gi". Give',
    ),
    "a runtime's own words": (
        (pod(phase="Failed", exit_code=128, said="exec: no such file"),),
        OFTEN,
        "BackoffLimitExceeded",
        "pod 'p' ended with exit code 128: exec: no such file. See `halftone logs`",
    ),
    "a pod that never had a container": (
        (pod(phase="Failed", said="Pod was rejected: no room for pods"),),
        OFTEN,
        "BackoffLimitExceeded",
        "pod 'p' ended: Pod was rejected: no room for pods",
    ),
    "a bug": ((pod(phase="Failed", exit_code=1),), RULE, "StageFailed", "kubectl logs job/small-"),
    "pods that are gone": ((), RULE, "StageFailed", "its pods are gone; PodFailurePolicy"),
    "the word of another stage": (
        (pod(phase="Failed", exit_code=2, result=failed(ChildStage.Plan, "AccessDenied")),),
        RULE,
        "StageFailed",
        "exit code 2",
    ),
    "a reason that no condition can hold": (
        (bad_pod(QUANTIZE, "not a word", message="Really."),),
        RULE,
        "StageFailed",
        "Really.",
    ),
}


@pytest.mark.parametrize("case", FAILED.values(), ids=FAILED.keys())
def test_what_ended_a_job_is_told(case: Any) -> None:
    pods, failure, reason, words = case
    state = judge(broken(QUANTIZE, *pods, failure=failure), LATER)
    assert isinstance(state, Failed)
    assert state.reason == reason
    assert words in state.message


@pytest.mark.parametrize(
    ("killed", "facts", "words"),
    [
        ({"terminated_reason": "OOMKilled"}, {"memory_limit": "2Gi"}, "its limit is 2Gi"),
        ({}, {"memory_limit": "2Gi"}, "raise `resources.limits.memory` of 'Quantize'"),
        ({}, {"memory_request": "1Gi"}, "its Job requests 1Gi, it has no limit"),
        ({}, {"memory_request": "1Gi"}, "raise `resources.requests.memory` of 'Quantize'"),
        ({}, {}, "the plan counts on 700 bytes"),
    ],
)
@pytest.mark.parametrize("stage", [QUANTIZE, ChildStage.Assemble])
def test_too_little_memory_says_what_to_raise(
    stage: ChildStage, killed: dict[str, Any], facts: dict[str, Any], words: str
) -> None:
    ended = pod(phase="Failed", exit_code=137, **killed)
    state = judge(broken(stage, ended, **facts), LATER, 700)
    assert isinstance(state, Failed)
    assert state.reason == "OutOfMemory"
    assert words in state.message
    assert "`halftone.dev/retry`" in state.message


def test_the_result_is_the_newest_of_the_right_stage() -> None:
    older = good_pod(QUANTIZE, "a", **OLDER)
    other = good_pod(QUANTIZE, "z", result=result(ChildStage.Plan))
    newest = good_pod(QUANTIZE, "b")
    state = judge(done(QUANTIZE, pods=(older, other, newest)), LATER)
    assert isinstance(state, Done)
    assert state.result is newest.result


@pytest.mark.parametrize("told", [None, result(ChildStage.Plan)])
def test_a_pod_that_left_nothing_readable_is_named(told: Any) -> None:
    silent = pod(phase="Succeeded", exit_code=0, result=told)
    assert judge(done(QUANTIZE, pods=(silent,)), LATER) == Done(None, silent="p")


# The Job's end is seen; of its pods something older, for so many seconds since it ended.
TORN = {
    "no pod yet": ((), 1, True),
    "no pod any more": ((), 31, False),
    "a pod that still runs": ((pod(),), 3600, True),
    "a pod that has yet to start": ((pod(phase="Pending"),), 3600, True),
}


@pytest.mark.parametrize("case", TORN.values(), ids=TORN.keys())
def test_a_job_may_be_seen_complete_before_its_pods(case: Any) -> None:
    pods, seconds, waits = case
    state = judge(done(QUANTIZE, pods=pods), NOW + timedelta(seconds=seconds))
    assert isinstance(state, Working if waits else Done)


LOST = {
    "no pod yet": ((), 1, True),
    "no pod any more": ((), 31, False),
    "a pod that still runs": ((pod(),), 60, True),
    "a pod on a node that is lost": ((pod(),), 601, False),
    "only a pod that failed before": ((bad_pod(QUANTIZE, "OutOfSpace", 3), pod("q")), 1, True),
}


@pytest.mark.parametrize("case", LOST.values(), ids=LOST.keys())
def test_a_job_may_be_seen_failed_before_its_pods(case: Any) -> None:
    pods, seconds, waits = case
    state = judge(broken(QUANTIZE, *pods), NOW + timedelta(seconds=seconds))
    assert isinstance(state, Working if waits else Failed)


def test_every_reason_fits_into_a_condition() -> None:
    for reason in Reason:
        state = judge(broken(QUANTIZE, bad_pod(QUANTIZE, reason)), LATER)
        assert isinstance(state, Failed)
        assert state.reason == reason
