"""Manifests of what is made for a job: one Job a stage, and a claim where it is to be made.

Called by `reconciling`. A manifest depends on the object, the plan and the installation alone, so
it is the same whenever it is made; a Job that exists is never changed, because others (Kueue, an
administrator) own fields of it.
"""

from collections.abc import Mapping
from typing import Any

from halftone.control.failures import FINAL_CODES
from halftone.control.naming import child_name, labels, owner, volume_name
from halftone.control.pods import CONTAINER, TERMINATION_LOG, pod_spec
from halftone.control.settings import Settings
from halftone.control.stages import STAGES
from halftone.spec.cluster import (
    FIELD_MANAGER,
    JOB_LABEL,
    MANAGED_BY_LABEL,
    PLAN_DIGEST_ANNOTATION,
    QUEUE_LABEL,
    RETRY_ANNOTATION,
    ChildStage,
)
from halftone.spec.job import JobSpec
from halftone.spec.running import AccessMode
from halftone.spec.status import JobStatus


def child_job(
    metadata: Mapping[str, Any],
    spec: JobSpec,
    status: JobStatus,
    stage: ChildStage,
    attempt: int,
    retry: str,
    settings: Settings,
) -> dict[str, Any]:
    """The Job that carries out `stage` for the `attempt`th time, of the plan in `status`."""
    job = str(metadata["name"])
    tags = labels(job, stage, attempt)
    workers = worker_count(spec, status) if stage is ChildStage.Quantize else 1
    placement = settings.stages[STAGES[stage].settings].placement
    queue = (metadata.get("labels") or {}).get(QUEUE_LABEL) or placement.queueName
    digest = status.plan.digest if status.plan is not None else ""
    annotations = {PLAN_DIGEST_ANNOTATION: digest, RETRY_ANNOTATION: retry}
    arguments = _arguments(status, stage, workers)
    pod = pod_spec(metadata, spec, STAGES[stage], arguments, status.plan, settings)
    indexed = {"completionMode": "Indexed"} if workers > 1 else {}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": child_name(job, stage, attempt),
            "namespace": metadata["namespace"],
            "labels": {**tags, **({QUEUE_LABEL: queue} if queue else {})},
            "annotations": annotations,
            "ownerReferences": [owner(metadata)],
        },
        "spec": {
            "backoffLimit": settings.backoffLimit,
            "completions": workers,
            "parallelism": workers,
            **indexed,
            "podReplacementPolicy": "Failed",
            "podFailurePolicy": {
                "rules": [
                    {
                        "action": "Ignore",
                        "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}],
                    },
                    {
                        "action": "FailJob",
                        "onExitCodes": {
                            "containerName": CONTAINER,
                            "operator": "In",
                            "values": list(FINAL_CODES),
                        },
                    },
                ]
            },
            "template": {"metadata": {"labels": tags}, "spec": pod},
        },
    }


def worker_count(spec: JobSpec, status: JobStatus) -> int:
    """How many pods write shards: never more than there are."""
    return spec.parallelism if status.plan is None else min(spec.parallelism, status.plan.shards)


def work_claim(metadata: Mapping[str, Any], spec: JobSpec) -> dict[str, Any] | None:
    """The claim that `spec.workVolume` asks the operator to make, None if it asks for none."""
    volume = spec.workVolume
    if volume is None or volume.storageClassName is None:
        return None
    job = str(metadata["name"])
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {
            "name": volume_name(job),
            "namespace": metadata["namespace"],
            "labels": {MANAGED_BY_LABEL: FIELD_MANAGER, JOB_LABEL: job},
            "ownerReferences": [owner(metadata)],
        },
        "spec": {
            "accessModes": [(volume.accessMode or AccessMode.ReadWriteOnce).value],
            "storageClassName": volume.storageClassName,
            "resources": {"requests": {"storage": volume.size}},
        },
    }


def _arguments(status: JobStatus, stage: ChildStage, workers: int) -> list[str]:
    """What `halftone stage NAME` is told beside its work directory."""
    found = ["--result", TERMINATION_LOG]
    if stage is ChildStage.Plan:
        found.append("--without-target")  # which is asked with the publisher's own rights
    if status.plan is not None and stage not in (ChildStage.Plan, ChildStage.Target):
        found += ["--plan-digest", status.plan.digest]
    if workers > 1:
        found += ["--workers", str(workers), "--worker", "$(JOB_COMPLETION_INDEX)"]
    if stage is ChildStage.Publish and status.report is not None:
        found += ["--report-digest", status.report.digest]
    return found
