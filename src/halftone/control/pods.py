"""The pod of a stage: what it mounts, what it may do, what it gets.

Called by `children`. Pod Security "restricted" holds for every pod; no pod has an API token.
"""

from collections.abc import Mapping
from typing import Any, Final

from halftone.control.acceptance import claims
from halftone.control.inside import (
    CACHE_PLACE,
    TEMPORARY_PLACE,
    WORK_PLACE,
    claim_place,
    hands_on_in_s3,
    own_folder,
    variables,
)
from halftone.control.naming import volume_name
from halftone.control.settings import Settings, StageDefaults
from halftone.control.stages import Stage, Use
from halftone.spec.cluster import ChildStage
from halftone.spec.job import JobSpec
from halftone.spec.running import Resources, StageName, StageSettings
from halftone.spec.status import PlanStatus

CONTAINER: Final = "stage"
TERMINATION_LOG: Final = "/dev/termination-log"
# The group of our images' user. Volumes get its group, so that a stage can write what it mounts.
_GROUP: Final = 10001
# What the interpreter, its libraries and buffers of uploads take beside what the plan states.
_BASE_MEMORY: Final = 512 * 2**20
# What vLLM's process takes of a node's memory, whatever the model; on a CPU 1.74 GB were seen.
_ENGINE_MEMORY: Final = 2 * 2**30
# What documents, evidence and compiled kernels take of a node's disk beside a checkpoint.
_BASE_DISK: Final = 2**30
# Stages whose processes may hand tensors to one another; a container has 64 MB for it unasked, and
# processes of one server for several GPUs need more. It counts as the container's memory.
_SHARES_MEMORY: Final = frozenset({ChildStage.Calibrate, ChildStage.Validate})
_SHARED_MEMORY_PLACE: Final = "/dev/shm"  # noqa: S108 - an emptyDir of the pod's own
# Stages that hold a whole checkpoint on the pod's own disk when no volume carries it.
_HOLDS_CHECKPOINT: Final = frozenset(
    {ChildStage.Quantize, ChildStage.Assemble, ChildStage.Validate, ChildStage.Publish}
)


def pod_spec(
    metadata: Mapping[str, Any],
    spec: JobSpec,
    stage: Stage,
    arguments: list[str],
    plan: PlanStatus | None,
    settings: Settings,
) -> dict[str, Any]:
    """The pod that carries out `stage` of the job, whole."""
    defaults = settings.stages[stage.settings]
    own = own_settings(spec, stage.settings)
    volumes, mounts = _volumes(metadata, spec, stage, settings)
    container = {
        "name": CONTAINER,
        "image": stage_image(spec, stage.child, defaults),
        "imagePullPolicy": defaults.imagePullPolicy,
        "args": ["stage", stage.child.value, "--workdir", WORK_PLACE, *arguments],
        "env": variables(metadata, spec, stage),
        "resources": _resources(spec, stage, defaults, own, plan),
        "volumeMounts": mounts,
        "terminationMessagePath": TERMINATION_LOG,
        "terminationMessagePolicy": "File",
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
    }
    account = (own and own.serviceAccountName) or spec.serviceAccountName
    placement = defaults.placement
    optional = {
        "nodeSelector": dict(placement.nodeSelector),
        "tolerations": [dict(one) for one in placement.tolerations],
        "priorityClassName": placement.priorityClassName,
        "runtimeClassName": placement.runtimeClassName,
        "imagePullSecrets": [{"name": name} for name in settings.imagePullSecrets],
    }
    return {
        "restartPolicy": "Never",
        "serviceAccountName": account or defaults.serviceAccountName,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "fsGroup": _GROUP,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container],
        "volumes": volumes,
        **{key: value for key, value in optional.items() if value},
    }


def own_settings(spec: JobSpec, name: StageName) -> StageSettings | None:
    """What the job says of a stage, None if nothing."""
    return next((one for one in spec.stages if one.name is name), None)


def stage_image(spec: JobSpec, child: ChildStage, defaults: StageDefaults) -> str:
    """The stage's own image, or the one that has a server where its gates need one."""
    engine = _has_engine(spec, child) and defaults.engineImage
    return engine or defaults.image


def _has_engine(spec: JobSpec, child: ChildStage) -> bool:
    """Whether the stage runs a server, for gates that need one."""
    return child is ChildStage.Validate and spec.validation.needs_engine


def _volumes(
    metadata: Mapping[str, Any], spec: JobSpec, stage: Stage, settings: Settings
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Volumes of the pod, and where its container has them."""
    limit = {"sizeLimit": settings.cacheSizeLimit} if settings.cacheSizeLimit else {}
    volumes: list[dict[str, Any]] = [
        {"name": "cache", "emptyDir": limit},
        {"name": "temporary", "emptyDir": {}},
    ]
    mounts: list[dict[str, Any]] = [
        {"name": "cache", "mountPath": CACHE_PLACE},
        {"name": "temporary", "mountPath": TEMPORARY_PLACE},
    ]
    if stage.child in _SHARES_MEMORY:
        volumes.append({"name": "shared-memory", "emptyDir": {"medium": "Memory"}})
        mounts.append({"name": "shared-memory", "mountPath": _SHARED_MEMORY_PLACE})
    named = named_claims(metadata, spec)
    if Use.Work not in named or Use.Work not in stage.claims:
        volumes.append({"name": Use.Work.value, "emptyDir": {}})
        mounts.append({"name": Use.Work.value, "mountPath": WORK_PLACE})
    for use in sorted(stage.claims & named.keys()):
        reads = use not in (Use.Work, Use.Publish)
        claim = {"claimName": named[use], **({"readOnly": True} if reads else {})}
        volumes.append({"name": use.value, "persistentVolumeClaim": claim})
        place = WORK_PLACE if use is Use.Work else claim_place(use)
        mount = {"name": use.value, "mountPath": place, **({"readOnly": True} if reads else {})}
        if use is Use.Work:
            mount["subPath"] = own_folder(metadata)  # for jobs may share a claim
        mounts.append(mount)
    return volumes, mounts


def named_claims(metadata: Mapping[str, Any], spec: JobSpec) -> dict[Use, str]:
    """The claims of a job by their use, the one that is made for it among them."""
    named = claims(spec)
    if spec.workVolume is not None and spec.workVolume.storageClassName is not None:
        named[Use.Work] = volume_name(str(metadata["name"]))
    return named


def chosen_resources(
    own: StageSettings | None, given: Resources
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Requests and limits: the job's own over the installation's.

    What the job says of a resource is all that is said of it: a request of the installation above a
    limit of the job is a pod that the API server refuses.
    """
    chosen = (own and own.resources) or Resources()
    requests, limits = dict(chosen.requests or {}), dict(chosen.limits or {})
    said = requests.keys() | limits.keys()
    requests |= {name: size for name, size in (given.requests or {}).items() if name not in said}
    limits |= {name: size for name, size in (given.limits or {}).items() if name not in said}
    return requests, limits


def _resources(
    spec: JobSpec,
    stage: Stage,
    defaults: StageDefaults,
    own: StageSettings | None,
    plan: PlanStatus | None,
) -> dict[str, Any]:
    """The job's own over the installation's over what the plan knows."""
    requests, limits = chosen_resources(own, defaults.resources)
    if plan is not None and stage.child in _HOLDS_CHECKPOINT:
        engine = _ENGINE_MEMORY if _has_engine(spec, stage.child) else 0
        known = {"memory": plan.memoryBytes + _BASE_MEMORY + engine}
        if hands_on_in_s3(spec):
            known["ephemeral-storage"] = plan.sizeBytes + _BASE_DISK
        # A limit alone is its own request; one below what the plan knows is the user's to try.
        requests |= {
            name: str(size)
            for name, size in known.items()
            if name not in requests and name not in limits
        }
    both = {"requests": requests, "limits": limits}
    return {name: values for name, values in both.items() if values}
