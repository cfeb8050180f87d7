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
    variables,
)
from halftone.control.naming import volume_name
from halftone.control.settings import Settings, StageDefaults
from halftone.control.stages import Stage, Use
from halftone.spec.cluster import ChildStage
from halftone.spec.job import JobSpec
from halftone.spec.running import Resources, StageSettings
from halftone.spec.status import PlanStatus

CONTAINER: Final = "stage"
TERMINATION_LOG: Final = "/dev/termination-log"
# The group of our images' user. Volumes get its group, so that a stage can write what it mounts.
_GROUP: Final = 10001
# What the interpreter, its libraries and buffers of uploads take beside what the plan states.
_BASE_MEMORY: Final = 512 * 2**20
# What documents, evidence and compiled kernels take of a node's disk beside a checkpoint.
_BASE_DISK: Final = 2**30
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
    own = next((s for s in spec.stages if s.name is stage.settings), None)
    volumes, mounts = _volumes(metadata, spec, stage, settings)
    container = {
        "name": CONTAINER,
        "image": _image(spec, stage, defaults),
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


def _image(spec: JobSpec, stage: Stage, defaults: StageDefaults) -> str:
    engine = stage.child is ChildStage.Validate and spec.validation.needs_engine
    return defaults.engineImage if engine and defaults.engineImage else defaults.image


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
    named = claims(spec)
    made = spec.workVolume is not None and spec.workVolume.storageClassName is not None
    if made:
        named[Use.Work] = volume_name(str(metadata["name"]))
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
            # Jobs may share a claim; a job of the same name that comes later is another one.
            mount["subPath"] = f"halftone/{metadata['name']}-{str(metadata['uid'])[:8]}"
        mounts.append(mount)
    return volumes, mounts


def _resources(
    spec: JobSpec,
    stage: Stage,
    defaults: StageDefaults,
    own: StageSettings | None,
    plan: PlanStatus | None,
) -> dict[str, Any]:
    """The job's own over the installation's over what the plan knows."""
    chosen = (own and own.resources) or Resources()
    requests, limits = dict(chosen.requests or {}), dict(chosen.limits or {})
    # What the job says of a resource is all that is said of it: a request of the installation above
    # a limit of the job is a Job that the API server refuses.
    said = requests.keys() | limits.keys()
    given = defaults.resources
    requests |= {name: size for name, size in (given.requests or {}).items() if name not in said}
    limits |= {name: size for name, size in (given.limits or {}).items() if name not in said}
    if plan is not None and stage.child in _HOLDS_CHECKPOINT:
        known = {"memory": plan.memoryBytes + _BASE_MEMORY}
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
