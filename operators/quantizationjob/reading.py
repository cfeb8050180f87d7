"""Objects of the API as `halftone.control` knows them; what is not needed is dropped here.

Called by `pump` for every event, so that memory holds a few numbers a pod and not the pod.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

from pydantic import ValidationError

from halftone.control.conditions import read_time
from halftone.control.observed import ObservedChild, ObservedPod, RunPod
from halftone.control.pods import CONTAINER
from halftone.spec.cluster import (
    ATTEMPT_LABEL,
    JOB_LABEL,
    PLAN_DIGEST_ANNOTATION,
    RETRY_ANNOTATION,
    STAGE_LABEL,
    ChildStage,
)
from halftone.spec.pipelines import JOB_UID_LABEL, RUN_ANNOTATION, RUN_CONTAINER, Task
from halftone.spec.stage_results import StageResult

# Of a pod of a run: the run's id.
_RUN_ID_LABEL: Final = "pipeline/runid"
# Of metadata: what a decision or a write needs. Managed fields alone are larger than all the rest.
_METADATA: Final = (
    "name",
    "namespace",
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "deletionTimestamp",
    "finalizers",
    "labels",
)
# Of what a runtime or the kubelet says beside a result; a message is told, not kept.
_SAID: Final = 512
_EPOCH: Final = datetime.fromtimestamp(0, UTC)
# An integer of a status has 64 bits, and a job has many workers: more than any model's bytes.
_MOST: Final = 1 << 50


class Key(NamedTuple):
    """Which QuantizationJob."""

    namespace: str
    name: str


class OwnedChild(NamedTuple):
    """A Job that carries our labels, and the uid of the QuantizationJob that it says it is of.

    `tried` says whether the Job controller has looked at it, and so has tried to make its pods.
    `started` is since when it may, which begins anew after a suspension; None before that.
    """

    owner_uid: str
    child: ObservedChild
    tried: bool
    started: datetime | None = None


class OwnedPod(NamedTuple):
    """A pod that carries our labels, and the uid of its Job.

    `run` is there for a pod of a pipeline's run, with the uid of its QuantizationJob.
    """

    job_uid: str
    pod: ObservedPod
    run: RunPod | None = None
    object_uid: str = ""


def key_of_child(body: Mapping[str, Any]) -> Key | None:
    """Whose child or pod it is by its label; None for what is not ours."""
    metadata = body["metadata"]
    name = (metadata.get("labels") or {}).get(JOB_LABEL)
    return Key(metadata["namespace"], name) if name else None


def read_object(body: Mapping[str, Any]) -> dict[str, Any]:
    """A QuantizationJob without what nobody reads."""
    metadata = body["metadata"]
    kept = {name: metadata[name] for name in _METADATA if name in metadata}
    annotations = metadata.get("annotations") or {}
    retry = annotations.get(RETRY_ANNOTATION)
    kept["annotations"] = {} if retry is None else {RETRY_ANNOTATION: retry}
    return {
        "metadata": kept,
        "spec": dict(body.get("spec") or {}),
        "status": dict(body.get("status") or {}),
    }


def read_child(body: Mapping[str, Any]) -> OwnedChild | None:
    """A Job of ours; None for one whose labels are not what we write."""
    metadata, spec, status = body["metadata"], body["spec"], body.get("status") or {}
    labels = metadata.get("labels") or {}
    try:
        stage, attempt = ChildStage(labels[STAGE_LABEL]), int(labels[ATTEMPT_LABEL])
    except (KeyError, ValueError):
        return None
    annotations = metadata.get("annotations") or {}
    conditions = {
        row["type"]: row for row in status.get("conditions") or () if row["status"] == "True"
    }
    failed = conditions.get("Failed")
    child = ObservedChild(
        name=metadata["name"],
        uid=metadata["uid"],
        stage=stage,
        attempt=attempt,
        retry=annotations.get(RETRY_ANNOTATION, ""),
        plan_digest=annotations.get(PLAN_DIGEST_ANNOTATION, ""),
        created=read_time(metadata.get("creationTimestamp")) or _EPOCH,
        completions=int(spec.get("completions") or 1),
        deleting="deletionTimestamp" in metadata,
        deleting_since=read_time(metadata.get("deletionTimestamp")),
        suspended=bool(spec.get("suspend")),
        complete="Complete" in conditions,
        finished=_ended_at(status, conditions),
        failure=None if failed is None else (failed.get("reason", ""), failed.get("message", "")),
        active=int(status.get("active") or 0),
        succeeded=int(status.get("succeeded") or 0),
        failed=int(status.get("failed") or 0),
        memory_request=_memory(spec, "requests"),
        memory_limit=_memory(spec, "limits"),
    )
    started = read_time(status.get("startTime"))
    return OwnedChild(_controller_uid(metadata), child, "startTime" in status, started)


def _memory(spec: Mapping[str, Any], kind: str) -> str:
    """What the only container requests, or is limited to; "" for nothing."""
    container: Mapping[str, Any] = next(iter(spec["template"]["spec"]["containers"]), {})
    return str(((container.get("resources") or {}).get(kind) or {}).get("memory", ""))


def _ended_at(
    status: Mapping[str, Any], conditions: Mapping[str, Mapping[str, Any]]
) -> datetime | None:
    failed = conditions.get("Failed") or {}
    return read_time(status.get("completionTime") or failed.get("lastTransitionTime"))


def read_pod(body: Mapping[str, Any]) -> OwnedPod:
    """A pod of a child, or of a run."""
    metadata, status = body["metadata"], body.get("status") or {}
    labels = metadata.get("labels") or {}
    conditions = {row["type"]: row for row in status.get("conditions") or ()}
    scheduled = conditions.get("PodScheduled") or {}
    container = _container(status.get("containerStatuses") or (), of_run=JOB_UID_LABEL in labels)
    state = container.get("state") or {}
    waiting, terminated = state.get("waiting"), state.get("terminated") or {}
    is_scheduled = scheduled.get("status") != "False"
    why = waiting if is_scheduled else scheduled
    pod = ObservedPod(
        name=metadata["name"],
        phase=status.get("phase", "Pending"),
        created=read_time(metadata.get("creationTimestamp")) or _EPOCH,
        waiting=(why.get("reason", ""), why.get("message", "")) if why else None,
        scheduled=is_scheduled,
        disrupted=(conditions.get("DisruptionTarget") or {}).get("status") == "True",
        exit_code=terminated.get("exitCode"),
        terminated_reason=status.get("reason") or terminated.get("reason"),
        result=_result(terminated.get("message")),
        said=str(status.get("message") or terminated.get("message") or "")[:_SAID],
    )
    uid = str(labels.get(JOB_UID_LABEL, ""))
    return OwnedPod(_controller_uid(metadata), pod, _run_pod(metadata, pod) if uid else None, uid)


def _container(rows: Sequence[Mapping[str, Any]], *, of_run: bool) -> Mapping[str, Any]:
    """The status of the container that does the work; Argo has others beside it, and a mesh."""
    wanted = RUN_CONTAINER if of_run else CONTAINER
    return next((row for row in rows if row.get("name") == wanted), {})


def _run_pod(metadata: Mapping[str, Any], pod: ObservedPod) -> RunPod | None:
    """Of which task and run it is; None for what is not ours, whatever its labels say."""
    labels, annotations = metadata["labels"], metadata.get("annotations") or {}
    run = annotations.get(RUN_ANNOTATION) or labels.get(_RUN_ID_LABEL)
    try:
        task = Task(labels[STAGE_LABEL])
    except (KeyError, ValueError):
        return None
    return None if run is None else RunPod(task, str(run), pod)


def progress_of(log: str) -> tuple[int, int] | None:
    """(done, total) of the last line of a stage's log that tells them."""
    for line in reversed(log.splitlines()):
        try:
            told = json.loads(line)
            unit = "bytes" if "bytesDone" in told else "steps"
            done, total = int(told[f"{unit}Done"]), int(told[f"{unit}Total"])
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
            continue
        if max(abs(done), abs(total)) <= _MOST:
            return done, total
    return None


def _result(message: str | None) -> StageResult | None:
    """What a container left; anything can stand there, for instance a runtime's own error."""
    if not message:
        return None
    try:
        return StageResult.model_validate_json(message)
    except ValidationError:
        return None


def _controller_uid(metadata: Mapping[str, Any]) -> str:
    owners = metadata.get("ownerReferences") or ()
    return next((str(one["uid"]) for one in owners if one.get("controller")), "")
