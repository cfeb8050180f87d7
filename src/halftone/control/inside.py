"""What a pod finds inside: its places, its variables, and the job with paths as they are there.

Called by `pods` and `kubeflow`; `halftone stage` reads it at the other end. Names of places are
part of no API.
"""

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any, Final

from halftone.control.stages import Stage, Use
from halftone.spec.api_model import SecretKeyRef
from halftone.spec.documents import canonical_json
from halftone.spec.gates import TASK_FILES
from halftone.spec.job import JobSpec
from halftone.spec.names import (
    API_VERSION,
    CACHE_DIRECTORY,
    CREDENTIALS_PREFIX,
    JOB_KIND,
    JOB_VARIABLE,
    WORK_AREA,
)

WORK_PLACE: Final = "/var/run/halftone/work"
CACHE_PLACE: Final = "/var/cache/halftone"
TEMPORARY_PLACE: Final = "/tmp"  # noqa: S108 - an emptyDir of the pod's own
CLAIMS_PLACE: Final = "/mnt/halftone"
# Variables that name these places.
PLACES: Final[Mapping[str, str]] = {
    CACHE_DIRECTORY: CACHE_PLACE,
    "HOME": CACHE_PLACE,
    "TMPDIR": TEMPORARY_PLACE,
    "NUMBA_CACHE_DIR": f"{CACHE_PLACE}/numba",
}
# Blocks of the spec that say how it runs, which a stage has no use for. The work volume it has:
# it says whose credentials open the work area, and what to raise when there is no room.
_ABOUT_RUNNING: Final = frozenset(
    {
        "serviceAccountName",
        "stages",
        "parallelism",
        "suspend",
        "activeDeadlineSeconds",
        "ttlSecondsAfterFinished",
        "runner",
    }
)
# Where the spec has paths, by what the claim is for; `*` is every entry of a list.
_PATHS: Final = (
    (Use.Source, ("source", "directory", "path")),
    (Use.Dataset, ("quantization", "calibration", "dataset", "path")),
    (Use.Validation, ("validation", "promptFile")),
    (Use.Publish, ("publish", "directory", "path")),
)


def claim_place(use: Use) -> str:
    """Where the claim for `use` is mounted."""
    return f"{CLAIMS_PLACE}/{use.value}"


def job_inside(name: str, spec: JobSpec) -> str:
    """The job as a stage in a pod reads it: canonical JSON, paths those of mounted claims."""
    inside = spec.model_dump(mode="json", exclude_unset=True)
    for block in _ABOUT_RUNNING:
        inside.pop(block, None)
    for use, path in _PATHS:
        _move(inside, path, use)
    for gate in inside.get("validation", {}).get("gates", ()):
        if str(gate.get("task", "")).endswith(TASK_FILES):
            gate["task"] = _moved(gate["task"], Use.Validation)
    job = {"apiVersion": API_VERSION, "kind": JOB_KIND, "metadata": {"name": name}, "spec": inside}
    return canonical_json(job).decode().rstrip()


def variables(metadata: Mapping[str, Any], spec: JobSpec, stage: Stage) -> list[dict[str, Any]]:
    """The environment of a stage's container, as in a pod."""
    found: list[dict[str, Any]] = [
        {"name": JOB_VARIABLE, "value": job_inside(str(metadata["name"]), spec)},
        *({"name": name, "value": value} for name, value in PLACES.items()),
    ]
    area = work_area(metadata, spec)
    if area is not None:
        found.append({"name": WORK_AREA, "value": area})
    for variable, ref in credentials(spec, stage.secrets).items():
        key = {"name": ref.name, "key": ref.key}
        found.append({"name": variable, "valueFrom": {"secretKeyRef": key}})
    return found


def credentials(spec: JobSpec, uses: frozenset[Use]) -> dict[str, SecretKeyRef]:
    """What holds the credentials for `uses`, by the variables that they are given in."""
    secrets = secret_refs(spec)
    return {
        CREDENTIALS_PREFIX + use.value.upper().replace("-", "_"): secrets[use]
        for use in sorted(uses & secrets.keys())
    }


def own_folder(metadata: Mapping[str, Any]) -> str:
    """The job's folder in a claim for work; a job of the same name that comes later is another."""
    return f"halftone/{metadata['name']}-{str(metadata['uid'])[:8]}"


def work_area(metadata: Mapping[str, Any], spec: JobSpec) -> str | None:
    """`s3://bucket/prefix.work/NAMESPACE.NAME`, None when a volume carries the work.

    The job's own, so that cleaning up after one job takes nothing from another with its target; and
    by its name, so that a job that is made again finds what it had.
    """
    target = spec.publish and spec.publish.s3
    if not target or not hands_on_in_s3(spec):
        return None
    return f"{target.uri.rstrip('/')}.work/{metadata['namespace']}.{metadata['name']}"


def hands_on_in_s3(spec: JobSpec) -> bool:
    """Whether stages hand their work on in S3, beside the artifact, and in no volume."""
    volume = spec.workVolume
    in_s3 = spec.publish is not None and spec.publish.s3 is not None
    return in_s3 and (volume is None or volume.s3 is not None)


def secret_refs(spec: JobSpec) -> dict[Use, SecretKeyRef]:
    """Every Secret that the job names, by its use."""
    named: dict[Use, SecretKeyRef | None] = {}
    if spec.source.huggingFace is not None:
        named[Use.Source] = spec.source.huggingFace.tokenSecretRef
    if spec.source.s3 is not None:
        named[Use.Source] = spec.source.s3.credentialsSecretRef
    calibration = spec.quantization.calibration
    if calibration is not None and calibration.dataset.huggingFace is not None:
        named[Use.Dataset] = calibration.dataset.huggingFace.tokenSecretRef
    if calibration is not None and calibration.dataset.s3 is not None:
        named[Use.Dataset] = calibration.dataset.s3.credentialsSecretRef
    if spec.workVolume is not None and spec.workVolume.s3 is not None:
        named[Use.Work] = spec.workVolume.s3.credentialsSecretRef
    publish = spec.publish
    if publish is not None and publish.huggingFace is not None:
        named[Use.Publish] = publish.huggingFace.tokenSecretRef
    if publish is not None and publish.s3 is not None:
        named[Use.Publish] = publish.s3.credentialsSecretRef
    if publish is not None and publish.signingKeyRef is not None:
        named[Use.SigningKey] = publish.signingKeyRef.secret
    return {use: ref for use, ref in named.items() if ref is not None}


def _move(inside: dict[str, Any], path: tuple[str, ...], use: Use) -> None:
    block: Any = inside
    for key in path[:-1]:
        block = block.get(key) if isinstance(block, dict) else None
    if isinstance(block, dict) and block.get(path[-1]) is not None:
        block[path[-1]] = _moved(block[path[-1]], use)
        block.pop("claimName", None)


def _moved(path: str, use: Use) -> str:
    return str(PurePosixPath(claim_place(use), path.lstrip("/")))
