"""What Kubernetes is told of each task's pod: Secrets, claims, volumes, placement, labels.

Called by `rendering`. It writes the message `KubernetesExecutorConfig` as servers of version 2.14
know it, who refuse a run for a field that they do not know:
https://github.com/kubeflow/pipelines/blob/2.14.3/kubernetes_platform/proto/kubernetes_executor_config.proto
That has no security context, no subpath and no read-only mount, so a claim is mounted whole.
"""

from collections.abc import Mapping
from typing import Any, Final

from halftone.control.inside import (
    CACHE_PLACE,
    PLACES,
    TEMPORARY_PLACE,
    WORK_PLACE,
    claim_place,
    credentials,
    own_folder,
)
from halftone.control.kubeflow.task_table import TASKS
from halftone.control.pods import chosen_resources, named_claims, own_settings
from halftone.control.settings import Settings
from halftone.control.stages import Use
from halftone.spec.cluster import JOB_LABEL, QUEUE_LABEL, STAGE_LABEL
from halftone.spec.job import JobSpec
from halftone.spec.pipelines import JOB_UID_LABEL, RUN_ANNOTATION, TASK_WORKDIR, Task
from halftone.spec.running import StageName

# A claim's volume has the claim's name, so ours have names that no claim may have here.
CACHE_VOLUME: Final = "halftone-cache"
TEMPORARY_VOLUME: Final = "halftone-temporary"
WORK_VOLUME: Final = "halftone-work"
MEMORY_VOLUME: Final = "halftone-shared-memory"
# Tasks whose processes hand tensors to one another through shared memory.
_SHARES_MEMORY: Final = frozenset({Task.Calibrate, Task.Validate})
_PULL_POLICIES: Final = frozenset({"Always", "Never", "IfNotPresent"})
# (field of a toleration in a pod, its name in the message)
_TOLERATION: Final = ("key", "operator", "value", "effect", "tolerationSeconds")
PLAIN_RESOURCES: Final = {"cpu": "Cpu", "memory": "Memory"}


def executor_config(
    task: Task, metadata: Mapping[str, Any], spec: JobSpec, settings: Settings, run: str
) -> dict[str, Any]:
    """The `KubernetesExecutorConfig` of a task, as JSON."""
    stage = TASKS[task]
    defaults = settings.stages[stage.settings]
    placement = defaults.placement
    config: dict[str, Any] = {
        "podMetadata": {
            "labels": _labels(task, metadata, settings),
            "annotations": {RUN_ANNOTATION: run},
        },
        "secretAsEnv": [
            {
                "secretName": ref.name,
                "secretNameParameter": _constant(ref.name),
                "keyToEnv": [{"secretKey": ref.key, "envVar": variable}],
            }
            for variable, ref in credentials(spec, stage.secrets).items()
        ],
        "pvcMount": [
            {"pvcNameParameter": _constant(name), "mountPath": claim_place(use)}
            for use, name in _claims(task, metadata, spec).items()
        ],
        "emptyDirMounts": _own_volumes(task, metadata, spec, settings),
        "nodeSelector": {"labels": dict(placement.nodeSelector)} if placement.nodeSelector else {},
        "tolerations": [_toleration(one) for one in placement.tolerations],
        "imagePullSecret": [
            {"secretName": name, "secretNameParameter": _constant(name)}
            for name in settings.imagePullSecrets
        ],
    }
    if defaults.imagePullPolicy in _PULL_POLICIES:
        config["imagePullPolicy"] = defaults.imagePullPolicy
    if spec.activeDeadlineSeconds is not None:
        # A JSON int64 is a string, or a number large enough comes as 3e+07.
        config["activeDeadlineSeconds"] = str(spec.activeDeadlineSeconds)
    return {name: value for name, value in config.items() if value}


def environment(task: Task, metadata: Mapping[str, Any], spec: JobSpec) -> list[dict[str, str]]:
    """Variables of a task's container, without credentials; job and work area are parameters."""
    found = dict(PLACES)
    if Use.Work in _claims(task, metadata, spec):
        found[TASK_WORKDIR] = f"{claim_place(Use.Work)}/{own_folder(metadata)}"
    return [{"name": name, "value": value} for name, value in found.items()]


def container_resources(name: StageName, spec: JobSpec, settings: Settings) -> dict[str, Any]:
    """The `ResourceSpec` of a container: the job's own over the installation's, as quantities."""
    given = settings.stages[name].resources
    requests, limits = chosen_resources(own_settings(spec, name), given)
    found: dict[str, Any] = {}
    for kind, values in (("Request", requests), ("Limit", limits)):
        for resource, word in PLAIN_RESOURCES.items():
            if resource in values:
                found[f"resource{word}{kind}"] = str(values[resource])
    for resource, count in accelerators(name, spec, settings).items():
        found["accelerator"] = {"resourceType": resource, "resourceCount": count}
    return found


def accelerators(name: StageName, spec: JobSpec, settings: Settings) -> dict[str, str]:
    """Devices that a stage asks for, as (resource, count); none of which it wants no piece."""
    given = settings.stages[name].resources
    requests, limits = chosen_resources(own_settings(spec, name), given)
    return {
        resource: str(count)
        for resource, count in sorted({**requests, **limits}.items())
        if "/" in resource and str(count) != "0"
    }


def _claims(task: Task, metadata: Mapping[str, Any], spec: JobSpec) -> dict[Use, str]:
    named = named_claims(metadata, spec)
    return {use: named[use] for use in sorted(TASKS[task].claims & named.keys())}


def _own_volumes(
    task: Task, metadata: Mapping[str, Any], spec: JobSpec, settings: Settings
) -> list[dict[str, Any]]:
    limit = {"sizeLimit": settings.cacheSizeLimit} if settings.cacheSizeLimit else {}
    found: list[dict[str, Any]] = [
        {"volumeName": CACHE_VOLUME, "mountPath": CACHE_PLACE, **limit},
        {"volumeName": TEMPORARY_VOLUME, "mountPath": TEMPORARY_PLACE},
    ]
    if Use.Work not in _claims(task, metadata, spec):
        found.append({"volumeName": WORK_VOLUME, "mountPath": WORK_PLACE})
    if task in _SHARES_MEMORY:
        memory = {"volumeName": MEMORY_VOLUME, "mountPath": "/dev/shm", "medium": "Memory"}  # noqa: S108
        found.append(memory)
    return found


def _labels(task: Task, metadata: Mapping[str, Any], settings: Settings) -> dict[str, str]:
    """Kueue takes a pod by its label too: https://kueue.sigs.k8s.io/docs/tasks/run/plain_pods/"""
    placement = settings.stages[TASKS[task].settings].placement
    queue = (metadata.get("labels") or {}).get(QUEUE_LABEL) or placement.queueName
    return {
        JOB_LABEL: str(metadata["name"]),
        STAGE_LABEL: task.value,
        JOB_UID_LABEL: str(metadata["uid"]),
        **({QUEUE_LABEL: queue} if queue else {}),
    }


def _toleration(given: Mapping[str, Any]) -> dict[str, Any]:
    return {name: str(given[name]) for name in _TOLERATION if given.get(name) is not None}


def _constant(value: str) -> dict[str, Any]:
    return {"runtimeValue": {"constant": value}}
