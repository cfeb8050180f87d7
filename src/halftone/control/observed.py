"""What the operator saw of one job at one moment: everything that a decision may depend on.

Made by `operators.quantizationjob.observe` out of its watches; tests make it with builders. Frozen,
and free of any client's types.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from halftone.spec.cluster import ChildStage
from halftone.spec.pipelines import Run, Task
from halftone.spec.stage_results import StageResult


@dataclass(frozen=True)
class ObservedPod:
    """One pod of a child. `waiting` is the kubelet's or scheduler's (reason, message).

    `exit_code` is that of the container that does the work; `terminated_reason` is the pod's own
    (`Evicted`), or else the container's (`OOMKilled`). `result` is what it wrote into its
    termination message, if that can be read; `said` is what stands there otherwise, or what the
    kubelet says of the pod.
    """

    name: str
    phase: str
    created: datetime
    waiting: tuple[str, str] | None = None
    scheduled: bool = True
    disrupted: bool = False
    exit_code: int | None = None
    terminated_reason: str | None = None
    result: StageResult | None = None
    said: str = ""


@dataclass(frozen=True)
class ObservedChild:
    """One Job of ours. `failure` is the (reason, message) of its condition `Failed`.

    `retry` is the value of the annotation that it was made for, "" for the first attempt;
    `plan_digest` is of the plan that it carries out, "" for those that make one.
    """

    name: str
    uid: str
    stage: ChildStage
    attempt: int
    retry: str
    plan_digest: str
    created: datetime
    completions: int = 1
    deleting: bool = False
    deleting_since: datetime | None = None
    suspended: bool = False
    complete: bool = False
    failure: tuple[str, str] | None = None
    finished: datetime | None = None
    active: int = 0
    succeeded: int = 0
    failed: int = 0
    # Events of the Job controller that say why it makes no pod: (reason, message).
    refusal: tuple[str, str] | None = None
    # Of its container, as quantities; "" for none.
    memory_request: str = ""
    memory_limit: str = ""
    pods: tuple[ObservedPod, ...] = ()


@dataclass(frozen=True)
class ObservedClaim:
    """A PersistentVolumeClaim that the job names or that was made for it."""

    name: str
    access_modes: frozenset[str]
    ours: bool = False


@dataclass(frozen=True)
class ObservedRun:
    """What a Kubeflow server says about a job, and what its run's pods say.

    `runs` are all whose name holds the job's uid, newest first; None if the server was not asked,
    and `trouble` the sentence why it could not be. `pods` are of all those runs, by their task; the
    name of a pod's run is its `run` (`status.pipelineRun.name`).
    """

    runs: tuple[Run, ...] | None = None
    trouble: str | None = None
    pods: tuple["RunPod", ...] = ()


@dataclass(frozen=True)
class RunPod:
    """A pod of a run that carries out (or carried out) `task`; `run` is the name of the run."""

    task: Task
    run: str
    pod: ObservedPod


@dataclass(frozen=True)
class Observed:
    """One QuantizationJob with everything that belongs to it.

    `metadata`, `spec` and `status` are as the API server has them. `taken` names objects that have
    the name of a child of ours and another owner; `refused` has the API server's words on objects
    that it does not let us make, by their names. `claims` has an entry None for a claim that was
    looked for and is not there; it is empty once nothing depends on them. `progress` is
    (done, total) summed over running workers. `run` is None unless the job's runner is Kubeflow
    Pipelines. `identity` is the operator's replica that looks.
    """

    metadata: Mapping[str, Any]
    spec: Mapping[str, Any]
    status: Mapping[str, Any]
    now: datetime
    children: tuple[ObservedChild, ...] = ()
    taken: frozenset[str] = frozenset()
    refused: Mapping[str, str] = field(default_factory=dict)
    claims: Mapping[str, ObservedClaim | None] = field(default_factory=dict)
    progress: tuple[int, int] | None = None
    namespace_terminating: bool = False
    run: ObservedRun | None = None
    identity: str = ""
