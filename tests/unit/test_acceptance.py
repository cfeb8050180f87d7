"""What a cluster cannot carry out although the schema takes it, said before anything is made.

We test these aspects:
- each reason is a sentence that names the field and the way out, in `Accepted`;
- what the cluster may yet bring is waited for, what only the user can change is refused;
- a refused job goes on by itself when its cause is gone, and lives no longer than it says.
"""

from datetime import timedelta
from typing import Any

import pytest

from halftone.control.observed import ObservedClaim
from halftone.control.reconciling import reconcile
from halftone.spec.cluster import ChildStage, Condition
from halftone.spec.documents import Method
from halftone.spec.status import JobStatus
from tests.cluster.answers import result
from tests.control_cases import NOW, SETTINGS, World, claim, done, good_pod, row, seen, told
from tests.control_laws import check, jobs_of

WORK = {"workVolume": {"claimName": "work"}}
MADE = {"workVolume": {"storageClassName": "fast", "size": "1Gi"}}
SECRET = {"name": "s", "key": "k"}
OUT = {"uri": "s3://models/out"}


def gates(task: str) -> dict[str, Any]:
    gate = {"name": "hard", "metric": "Task", "task": task, "minRecoveryPercent": 99}
    return {"validation": {"gates": [gate]}}


REFUSED: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "another runner": (
        {"runner": "KubeflowPipelines"},
        {},
        "`spec.runner` asks for 'KubeflowPipelines'",
    ),
    "a path of a laptop": (
        {"source": {"directory": {"path": "model"}}},
        {},
        "`spec.source.directory.path` names a file of the machine",
    ),
    "data of a laptop": (
        {"quantization": {"preset": "nvfp4", "calibration": {"dataset": {"path": "a.jsonl"}}}},
        {},
        "`spec.quantization.calibration.dataset.path`",
    ),
    "prompts of a laptop": (
        {"validation": {"promptFile": "p"}},
        {},
        "`spec.validation.promptFile`",
    ),
    "a task of a laptop": (gates("mine.yaml"), {}, "`spec.validation.gates[hard].task`"),
    "a target on a laptop": (
        {"publish": {"directory": {"path": "out"}}, **WORK},
        {},
        "`spec.publish.directory.path`",
    ),
    "a key of a laptop": (
        {"publish": {"s3": OUT, "signingKeyRef": {"path": "key.pem"}}},
        {},
        "put the key into a Secret",
    ),
    "no place for the work": ({"publish": None}, {}, "`spec.workVolume` must be set unless"),
    "a work area without its target": (
        {"publish": {"huggingFace": {"repository": "a/b"}}, "workVolume": {"s3": {}}},
        {},
        "`spec.workVolume.s3` lies beside",
    ),
    "a Secret that only publishing may hold": (
        {"publish": {"s3": {**OUT, "credentialsSecretRef": SECRET}}},
        {},
        "may write under 's3://models/out.work/'",
    ),
    "workers on a claim of one node": (
        {**WORK, "parallelism": 2},
        claim("work", "ReadWriteOnce"),
        "name one with the access mode ReadWriteMany, or set `parallelism: 1`",
    ),
    "workers on a volume of one node": (
        {**MADE, "parallelism": 2},
        {"small-work": None},
        "set `workVolume.accessMode: ReadWriteMany`, or set `parallelism: 1`",
    ),
}


@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_run_here_is_refused(case: Any) -> None:
    blocks, claims, words = case
    decision = check(seen(blocks=blocks, claims=claims))
    found = row(decision.status, Condition.Accepted)
    assert (found.status.value, found.reason) == ("False", "NotRunnableHere")
    assert words in found.message
    assert (decision.creations, decision.finalizer) == ((), None)
    again = check(seen(blocks=blocks, claims=claims, status=decision.status))
    assert (again.status, again.events) == (None, ())


WAITING: dict[str, tuple[dict[str, Any], dict[str, Any], str, str]] = {
    "a claim that is not there": (
        WORK,
        {"work": None},
        "ReferenceMissing",
        "The claim 'work', which the job names for its work, is not in the namespace 'team'",
    ),
    "a claim of another namespace": (
        {"source": {"directory": {"path": "m", "claimName": "other.models"}}},
        {"other.models": None},
        "ReferenceMissing",
        "is not in the namespace 'team'; create it there, or name another.",
    ),
    "somebody else's volume of the same name": (
        MADE,
        claim("small-work", "ReadWriteOnce"),
        "NameTaken",
        "The claim 'small-work' is not this job's own",
    ),
}


@pytest.mark.parametrize("case", WAITING.values(), ids=WAITING.keys())
def test_what_the_cluster_may_bring_is_waited_for(case: Any) -> None:
    blocks, claims, reason, words = case
    decision = check(seen(blocks=blocks, claims=claims))
    found = row(decision.status, Condition.Accepted)
    assert (found.status.value, found.reason) == ("Unknown", reason)
    assert words in found.message
    assert decision.requeue_seconds
    assert decision.status is not None
    assert decision.status.completionTime is None


FINE: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "workers in S3": ({"parallelism": 8}, {}),
    "workers on a claim that they share": (
        {**WORK, "parallelism": 2},
        claim("work", "ReadWriteOnce", "ReadWriteMany"),
    ),
    "one worker on a claim of one node": (WORK, claim("work", "ReadWriteOnce")),
    "our own volume": (MADE, claim("small-work", "ReadWriteOnce", ours=True)),
    "a task of the harness": (gates("gsm8k"), {}),
    "credentials for work alone": (
        {
            "publish": {"s3": {**OUT, "credentialsSecretRef": SECRET}},
            "workVolume": {"s3": {"credentialsSecretRef": {"name": "w", "key": "k"}}},
        },
        {},
    ),
}


@pytest.mark.parametrize("case", FINE.values(), ids=FINE.keys())
def test_what_can_run_is_begun(case: Any) -> None:
    blocks, claims = case
    decision = check(seen(blocks=blocks, claims=claims))
    assert [stage for stage, _ in jobs_of(decision)] == [ChildStage.Plan, ChildStage.Target]


@pytest.mark.parametrize(
    ("meta", "blocks", "words"),
    [
        ({"name": "x" * 41}, {}, "at most 40 characters, because names of Jobs and pods"),
        ({}, {"source": {"s3": {"uri": "s3://a"}, "directory": {"path": "b"}}}, "exactly one"),
        ({}, {"quantization": {"preset": "nvfp4", "colour": "red"}}, "colour"),
    ],
)
def test_what_the_schema_would_not_take_is_refused_all_the_same(
    meta: dict[str, Any], blocks: dict[str, Any], words: str
) -> None:
    decision = reconcile(seen(meta=meta, blocks=blocks), SETTINGS)
    found = row(decision.status, Condition.Accepted)
    assert (found.status.value, found.reason) == ("False", "InvalidJob")
    assert words in found.message
    assert not decision.creations


def test_what_an_older_operator_cannot_read_stays_as_it_ended() -> None:
    world = World()
    world.run_to_rest()
    status = JobStatus.model_validate(world.status)
    newer = {"quantization": {"preset": "nvfp4", "colour": "red"}}
    assert reconcile(seen(status=status, blocks=newer), SETTINGS).status is None


def test_a_refused_job_goes_on_when_its_cause_is_gone() -> None:
    blocks = {**MADE, "parallelism": 2}
    refused = check(seen(blocks=blocks)).status
    decision = check(seen(blocks={**blocks, "parallelism": 1}, status=refused))
    assert told(decision.status)["Accepted"] == ("Unknown", "Planning")
    assert [manifest["kind"] for manifest in decision.creations] == [
        "PersistentVolumeClaim",
        "Job",
        "Job",
    ]


def test_a_refused_job_lives_no_longer_than_it_says() -> None:
    blocks = {"runner": "KubeflowPipelines", "ttlSecondsAfterFinished": 60}
    first = check(seen(blocks=blocks))
    assert (first.delete_self, first.requeue_seconds) == (False, 60)
    later = seen(blocks=blocks, status=first.status, now=NOW + timedelta(seconds=60))
    assert check(later).delete_self


def test_a_suspended_job_is_refused_too() -> None:
    decision = check(seen(blocks={"runner": "KubeflowPipelines", "suspend": True}))
    assert told(decision.status)["Succeeded"] == ("False", "NotRunnableHere")


@pytest.mark.parametrize(
    ("claims", "begins"),
    [(claim("work", "ReadWriteOnce"), False), (claim("work", "ReadWriteMany"), True)],
)
def test_workers_may_not_be_raised_later_on_a_claim_of_one_node(
    claims: dict[str, ObservedClaim | None], begins: bool
) -> None:
    children = (done(ChildStage.Plan), done(ChildStage.Target))
    decision = check(seen(*children, blocks={**WORK, "parallelism": 2}, claims=claims))
    assert [stage for stage, _ in jobs_of(decision)] == [ChildStage.Quantize] * begins
    reason = "Quantizing" if begins else "VolumeNotShared"
    assert told(decision.status)["Quantized"] == ("Unknown", reason)


def test_a_source_in_one_shard_has_one_worker() -> None:
    said = result(ChildStage.Plan, Method.DataFree)
    assert said.plan is not None
    small = said.model_copy(update={"plan": said.plan.model_copy(update={"shards": 1})})
    planned = done(ChildStage.Plan, pods=(good_pod(ChildStage.Plan, result=small),))
    decision = check(seen(planned, done(ChildStage.Target), blocks={"parallelism": 9}))
    ((_, manifest),) = jobs_of(decision)
    assert manifest["spec"]["parallelism"] == 1
    assert "completionMode" not in manifest["spec"]


TAKEN = {"taken": frozenset({"small-plan-1"})}
QUOTA = {"refused": {"small-plan-1": "exceeded quota: jobs"}}


@pytest.mark.parametrize(
    ("obstacle", "reason", "words"),
    [
        (TAKEN, "NameTaken", "'small-plan-1'"),
        ({"taken": frozenset({"small-work"})}, "NameTaken", "or its volume"),
        (QUOTA, "PodsRefused", "cannot be made: exceeded quota: jobs"),
        ({"refused": {"small-work": "no such class"}}, "PodsRefused", "no such class"),
    ],
)
def test_a_child_that_cannot_be_made_is_told_until_it_is(
    obstacle: dict[str, Any], reason: str, words: str
) -> None:
    children = (done(ChildStage.Target),)
    first = check(seen(*children, blocks=MADE, **obstacle))
    assert told(first.status)["Accepted"] == ("Unknown", reason)
    assert words in row(first.status, Condition.Accepted).message
    assert (first.creations, bool(first.requeue_seconds)) == ((), True)
    # The obstacle is forgotten after a while: it is tried again, and told as it was.
    second = check(seen(*children, blocks=MADE, status=first.status))
    assert [stage for stage, _ in jobs_of(second)] == [ChildStage.Plan]
    assert (second.status, second.events) == (None, ())
