"""Builders of what the operator sees of one job, and a small world that carries decisions out.

Called by the tests of `halftone.control`. The world is a model of an API server, a Job controller
and a kubelet, no larger than what a decision can notice; the real ones are in `tests/api`.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from halftone.control.decision import Decision
from halftone.control.observed import Observed, ObservedChild, ObservedClaim, ObservedPod
from halftone.control.reconciling import reconcile
from halftone.control.settings import Settings
from halftone.spec.cluster import (
    ATTEMPT_LABEL,
    PLAN_DIGEST_ANNOTATION,
    RETRY_ANNOTATION,
    STAGE_LABEL,
    ChildStage,
    Condition,
)
from halftone.spec.documents import Method
from halftone.spec.running import StageName
from halftone.spec.stage_results import Failure, StageResult
from halftone.spec.status import ConditionRow, JobStatus
from tests.cluster.answers import PLAN, job, result

NOW: Final = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
SETTINGS: Final = Settings.model_validate(
    {
        "stages": {
            stage.value: {"image": f"registry.example/{stage.lower()}:1"} for stage in StageName
        }
    }
)
NAME: Final = "small"
SPACE: Final = "team"


def metadata(**more: Any) -> dict[str, Any]:
    """Of a job; `more` replaces or adds."""
    return {"name": NAME, "namespace": SPACE, "uid": "uid-of-job", "generation": 1, **more}


def spec(**blocks: Any) -> dict[str, Any]:
    """Of a job from S3 to S3, data-free; a block that is None is left out."""
    found = {**job(NAME, SPACE)["spec"], **blocks}
    return {name: block for name, block in found.items() if block is not None}


def failure(reason: str, message: str = "It is not as it should be; mend it.") -> Failure:
    """What a stage says of an error of ours."""
    return Failure(reason=reason, subject="thing", message=message)


def failed(stage: ChildStage, reason: str, message: str = "It is wrong; mend it.") -> StageResult:
    """The result of a stage that ended with an error of ours."""
    return StageResult(stage=stage.value, failure=failure(reason, message))


def pod(name: str = "p", **more: Any) -> ObservedPod:
    """A pod that runs, unless `more` says otherwise."""
    return ObservedPod(**{"name": name, "phase": "Running", "created": NOW, **more})


def good_pod(stage: ChildStage, name: str = "p", **more: Any) -> ObservedPod:
    """A pod that did what `stage` does."""
    told = more.pop("result", result(stage))
    return pod(name, phase="Succeeded", exit_code=0, result=told, **more)


def child(stage: ChildStage, **more: Any) -> ObservedChild:
    """A Job of `stage` that was made just now."""
    attempt = more.get("attempt", 1)
    before_plan = stage in (ChildStage.Plan, ChildStage.Target)
    found = {
        "name": f"{NAME}-{stage.value}-{attempt}",
        "uid": f"uid-{stage.value}-{attempt}",
        "stage": stage,
        "attempt": attempt,
        "retry": "",
        "plan_digest": "" if before_plan else PLAN,
        "created": NOW,
        **more,
    }
    return ObservedChild(**found)


def done(stage: ChildStage, **more: Any) -> ObservedChild:
    """A Job that succeeded, with the pod that says what it found."""
    pods = more.pop("pods", (good_pod(stage),))
    return child(stage, complete=True, finished=NOW, pods=pods, **more)


def broken(stage: ChildStage, *pods: ObservedPod, **more: Any) -> ObservedChild:
    """A Job that failed because of its last pod."""
    why = more.pop("failure", ("PodFailurePolicy", ""))
    return child(stage, failure=why, finished=NOW, pods=pods, **more)


def bad_pod(stage: ChildStage, reason: str, code: int = 2, **more: Any) -> ObservedPod:
    """A pod that ended with an error of ours."""
    said = failed(stage, reason, more.pop("message", "It is wrong; mend it."))
    return pod(more.pop("name", "p"), phase="Failed", exit_code=code, result=said, **more)


def seen(
    *children: ObservedChild,
    status: JobStatus | None = None,
    blocks: Mapping[str, Any] | None = None,
    meta: Mapping[str, Any] | None = None,
    **more: Any,
) -> Observed:
    """What the operator sees."""
    told = {} if status is None else status.model_dump(mode="json", exclude_none=True)
    return Observed(
        metadata=metadata(**(meta or {})),
        spec=spec(**(blocks or {})),
        status=told,
        children=children,
        **{"now": NOW, **more},
    )


def row(status: JobStatus | None, kind: Condition) -> ConditionRow:
    """A condition that must be there."""
    found = None if status is None else status.condition(kind)
    assert found is not None, f"there is no {kind}"
    return found


def told(status: JobStatus | None) -> dict[str, tuple[str, str]]:
    """Each condition's status and reason, in their order."""
    assert status is not None
    return {one.type.value: (one.status.value, one.reason) for one in status.conditions}


@dataclass
class SimulatedJob:
    """A Job in the world: its manifest, and what its pods came to."""

    manifest: Mapping[str, Any]
    uid: str
    created: datetime
    deleting: bool = False
    complete: bool = False
    failure: tuple[str, str] | None = None
    finished: datetime | None = None
    failures: int = 0
    pods: list[ObservedPod] = field(default_factory=list)

    @property
    def stage(self) -> ChildStage:
        """Which stage it carries out."""
        return ChildStage(self.manifest["metadata"]["labels"][STAGE_LABEL])

    @property
    def is_live(self) -> bool:
        """Whether pods of it may run."""
        return not self.complete and self.failure is None

    def observed(self) -> ObservedChild:
        """As the operator's index has it."""
        about = self.manifest["metadata"]
        return ObservedChild(
            name=about["name"],
            uid=self.uid,
            stage=self.stage,
            attempt=int(about["labels"][ATTEMPT_LABEL]),
            retry=about["annotations"][RETRY_ANNOTATION],
            plan_digest=about["annotations"][PLAN_DIGEST_ANNOTATION],
            created=self.created,
            completions=self.manifest["spec"]["completions"],
            deleting=self.deleting,
            complete=self.complete,
            failure=self.failure,
            finished=self.finished,
            pods=tuple(self.pods),
        )


@dataclass
class World:
    """One QuantizationJob and what became of it. `made` counts Jobs by stage."""

    blocks: dict[str, Any] = field(default_factory=dict)
    method: Method = Method.DataFree
    now: datetime = NOW
    meta: dict[str, Any] = field(default_factory=dict)
    status: dict[str, Any] = field(default_factory=dict)
    version: int = 1
    jobs: dict[str, SimulatedJob] = field(default_factory=dict)
    made: list[ChildStage] = field(default_factory=list)
    events: list[str] = field(default_factory=list)
    is_gone: bool = False
    counter: int = 0

    def observe(self) -> tuple[Observed, int]:
        """What is to be seen now, and the version of the object."""
        observed = Observed(
            metadata=metadata(**json.loads(json.dumps(self.meta))),
            spec=spec(**self.blocks),
            status=json.loads(json.dumps(self.status)),
            now=self.now,
            children=tuple(one.observed() for one in self.jobs.values()),
        )
        return observed, self.version

    def visit(self) -> Decision:
        """Observe, judge and apply, with nothing in between."""
        observed, version = self.observe()
        decision = reconcile(observed, SETTINGS)
        self.apply(decision, version)
        return decision

    def settle(self, limit: int = 20) -> None:
        """Visit until there is nothing to do."""
        for _ in range(limit):
            decision = self.visit()
            if not (decision.status or decision.creations or decision.deletions):
                return
        raise AssertionError("the operator never comes to rest")

    def apply(self, decision: Decision, version: int) -> None:
        """As `operators.quantizationjob.apply` would, with a conflict where the object changed."""
        if decision.finalizer is True:
            self._touch(finalizers=["halftone.dev/uploads"])
            version = self.version if version == self.version - 1 else version
        for deletion in decision.deletions:
            found = self.jobs.get(deletion.name)
            if found is not None and found.uid == deletion.uid:
                found.deleting = True
        for manifest in decision.creations:
            self._create(manifest)
        if decision.status is not None:
            if version != self.version:
                return
            self.status = decision.status.model_dump(mode="json", exclude_none=True)
            self.version += 1
        self.events += [event.reason.value for event in decision.events]
        if decision.finalizer is False:
            self.is_gone = True

    def _touch(self, **about: Any) -> None:
        self.meta.update(about)
        self.version += 1

    def _create(self, manifest: Mapping[str, Any]) -> None:
        name = manifest["metadata"]["name"]
        if manifest["kind"] != "Job" or name in self.jobs:
            return
        self.counter += 1
        self.jobs[name] = SimulatedJob(manifest, f"uid-{self.counter}", self.now)
        self.made.append(self.jobs[name].stage)

    def edit(self, **blocks: Any) -> None:
        """As a user edits the spec."""
        self.blocks.update(blocks)
        self._touch(generation=int(self.meta.get("generation", 1)) + 1)

    def ask_again(self, value: str) -> None:
        """As a user sets the annotation."""
        self._touch(annotations={RETRY_ANNOTATION: value})

    def delete(self) -> None:
        """As a user deletes the object."""
        self._touch(deletionTimestamp=self.now.strftime("%Y-%m-%dT%H:%M:%SZ"))

    def collect(self) -> None:
        """Garbage collection: Jobs that are being deleted go, with their pods."""
        self.jobs = {name: one for name, one in self.jobs.items() if not one.deleting}

    def live(self) -> list[SimulatedJob]:
        """Jobs whose pods may run, in the order in which they were made."""
        return [one for one in self.jobs.values() if one.is_live and not one.deleting]

    def succeed(self, one: SimulatedJob) -> None:
        """All pods of a Job end well."""
        one.pods = [*self._others(one), self._pod(one, 0, result(one.stage, self.method))]
        one.complete, one.finished = True, self.now

    def fail(self, one: SimulatedJob, reason: str, code: int) -> None:
        """A pod of a Job fails; after a refusal, or too often, so does the Job."""
        one.pods = [*self._others(one), self._pod(one, code, failed(one.stage, reason))]
        one.failures += 1
        if code != 3 or one.failures > one.manifest["spec"]["backoffLimit"]:
            why = "PodFailurePolicy" if code != 3 else "BackoffLimitExceeded"
            one.failure, one.finished = (why, ""), self.now

    def start(self, one: SimulatedJob) -> None:
        """A pod of a Job runs."""
        self.counter += 1
        one.pods = [*self._others(one), pod(f"pod-{self.counter}", created=self.now)]

    def disrupt(self, one: SimulatedJob) -> None:
        """The running pod of a Job is preempted."""
        one.pods = [replace(p, disrupted=True, phase="Failed", exit_code=143) for p in one.pods]

    def _others(self, one: SimulatedJob) -> list[ObservedPod]:
        return [found for found in one.pods if found.phase == "Failed"]

    def _pod(self, one: SimulatedJob, code: int, told_by: StageResult) -> ObservedPod:
        self.counter += 1
        phase = "Failed" if code else "Succeeded"
        return pod(
            f"pod-{self.counter}", phase=phase, exit_code=code, result=told_by, created=self.now
        )

    def pass_time(self, seconds: float) -> None:
        """Let time pass."""
        self.now += timedelta(seconds=seconds)

    def run_to_rest(self, limit: int = 60) -> None:
        """Everything goes well from here on, until there is nothing left to do."""
        for _ in range(limit):
            self.settle()
            self.collect()
            live = self.live()
            for one in live:
                self.succeed(one)
            self.pass_time(60)
            decision = self.visit()
            if not (live or decision.status or decision.creations or decision.deletions):
                return
        raise AssertionError("the job never ends")

    @property
    def read(self) -> JobStatus:
        """The status as it stands."""
        return JobStatus.model_validate(self.status)


def claim(name: str, *modes: str, ours: bool = False) -> dict[str, ObservedClaim | None]:
    """A claim that is there."""
    return {name: ObservedClaim(name, frozenset(modes), ours)}


def statuses(world: World) -> dict[str, str]:
    """Each condition's status."""
    return {name: status for name, (status, _) in told(world.read).items()}


def run_until(world: World, stage: ChildStage) -> None:
    """Go on until a Job of `stage` is at work."""
    for _ in range(20):
        world.settle()
        world.collect()
        if any(one.stage is stage for one in world.live()):
            return
        for one in world.live():
            world.succeed(one)
        world.pass_time(1)
    raise AssertionError(f"there is never a {stage}")


def at_work(world: World, stage: ChildStage) -> SimulatedJob:
    """The Job of `stage` that is live."""
    return next(one for one in world.live() if one.stage is stage)
