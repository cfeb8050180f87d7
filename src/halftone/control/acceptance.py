"""What the schema cannot say: predicates over a job as it is in the cluster, the first one wins.

    refusal = first_refusal(spec, observed)

Each predicate is a sentence that a user reads as `Accepted=False`. What only a source can tell is
found out by the child `plan`.
"""

from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from halftone.control.naming import volume_name
from halftone.control.observed import Observed
from halftone.control.stages import Use
from halftone.spec.cluster import Ended, Waiting
from halftone.spec.gates import TASK_FILES, Metric
from halftone.spec.job import JobSpec
from halftone.spec.running import AccessMode

_MANY: Final = frozenset({AccessMode.ReadWriteMany.value})


class Refusal(NamedTuple):
    """Why a job cannot run here. One that `waits` is looked at again: the cluster may change."""

    reason: str
    message: str
    waits: bool = False


def claims(spec: JobSpec) -> dict[Use, str]:
    """The claims that a job names, by their use."""
    named = {
        Use.Source: spec.source.directory and spec.source.directory.claimName,
        Use.Dataset: spec.quantization.calibration
        and spec.quantization.calibration.dataset.claimName,
        Use.Validation: spec.validation.claimName,
        Use.Work: spec.workVolume and spec.workVolume.claimName,
        Use.Publish: spec.publish and spec.publish.directory and spec.publish.directory.claimName,
    }
    return {use: name for use, name in named.items() if name}


def first_refusal(spec: JobSpec, observed: Observed) -> Refusal | None:
    """The first reason why `spec` cannot run in this cluster, None if it can.

    What only a run of a pipeline cannot do is said by `kubeflow.accepting`.
    """
    for predicate in _PREDICATES:
        refusal = predicate(spec, observed)
        if refusal is not None:
            return refusal
    return None


def _paths_lie_in_claims(spec: JobSpec, _observed: Observed) -> Refusal | None:
    for field, claim in _files(spec):
        if claim is None:
            return _not_here(
                f"`spec.{field}` names a file of the machine that the job was written on; set "
                "`claimName` beside it to the claim that holds it."
            )
    return None


def _files(spec: JobSpec) -> Iterator[tuple[str, str | None]]:
    """Every path of the job, and the claim that it lies in."""
    if spec.source.directory is not None:
        yield "source.directory.path", spec.source.directory.claimName
    calibration = spec.quantization.calibration
    if calibration is not None and calibration.dataset.path is not None:
        yield "quantization.calibration.dataset.path", calibration.dataset.claimName
    if spec.validation.promptFile is not None:
        yield "validation.promptFile", spec.validation.claimName
    for gate in spec.validation.gates:
        if gate.metric is Metric.Task and gate.task.endswith(TASK_FILES):
            yield f"validation.gates[{gate.name}].task", spec.validation.claimName
    if spec.publish is not None and spec.publish.directory is not None:
        yield "publish.directory.path", spec.publish.directory.claimName


def _key_is_a_secret(spec: JobSpec, _observed: Observed) -> Refusal | None:
    key = spec.publish and spec.publish.signingKeyRef
    if not key or key.path is None:
        return None
    return _not_here(
        "`spec.publish.signingKeyRef.path` names a file of the machine that the job was written "
        "on; put the key into a Secret and name it in `secret`."
    )


def _work_has_a_place(spec: JobSpec, _observed: Observed) -> Refusal | None:
    area, publish = spec.workVolume, spec.publish
    in_s3 = publish is not None and publish.s3 is not None
    if area is None and not in_s3:
        return _not_here(
            "`spec.workVolume` must be set unless `spec.publish.s3` is: the stages hand documents "
            "and shards to one another there; name a claim, or `storageClassName` and `size`."
        )
    if area is not None and area.s3 is not None and not in_s3:
        return _not_here(
            "`spec.workVolume.s3` lies beside `spec.publish.s3`, which is not set; name a claim, "
            "or `storageClassName` and `size`."
        )
    if area is None and publish and publish.s3 and publish.s3.credentialsSecretRef:
        return _not_here(
            "`spec.workVolume` must be set when `spec.publish.s3.credentialsSecretRef` is, because "
            "only publishing may hold that Secret: set `workVolume.s3.credentialsSecretRef` to one "
            f"that may write under '{publish.s3.uri.rstrip('/')}.work/', or name a claim."
        )
    return None


def _claims_are_there(spec: JobSpec, observed: Observed) -> Refusal | None:
    for use, name in claims(spec).items():
        if name in observed.claims and observed.claims[name] is None:
            return Refusal(
                Waiting.ReferenceMissing,
                f"The claim '{name}', which the job names for its {use.value}, is not in the "
                f"namespace '{observed.metadata['namespace']}'; create it there, or name another.",
                waits=True,
            )
    return None


def _volume_is_ours(spec: JobSpec, observed: Observed) -> Refusal | None:
    name = volume_name(str(observed.metadata["name"]))
    made = spec.workVolume is not None and spec.workVolume.storageClassName is not None
    claim = observed.claims.get(name)
    if not made or claim is None or claim.ours:
        return None
    return Refusal(
        Waiting.NameTaken,
        f"The claim '{name}' is not this job's own, and that is the name of the volume to be made; "
        "delete it, or create this QuantizationJob under another name.",
        waits=True,
    )


def workers_share_the_volume(spec: JobSpec, observed: Observed) -> Refusal | None:
    """Asked again before workers are made, for `parallelism` may change after the beginning."""
    area = spec.workVolume
    if spec.parallelism == 1 or area is None or area.s3 is not None:
        return None
    if area.storageClassName is not None:
        shared = area.accessMode is AccessMode.ReadWriteMany
        way_out = "set `workVolume.accessMode: ReadWriteMany`"
    else:
        claim = observed.claims.get(area.claimName or "")
        shared = claim is None or bool(claim.access_modes & _MANY)
        way_out = "name one with the access mode ReadWriteMany"
    if shared:
        return None
    return _not_here(
        f"`spec.parallelism` is {spec.parallelism}, and the work volume can be mounted by one node "
        f"only (ReadWriteOnce); {way_out}, or set `parallelism: 1`."
    )


def _not_here(message: str) -> Refusal:
    return Refusal(Ended.NotRunnableHere, message)


_PREDICATES: Final[tuple[Callable[[JobSpec, Observed], Refusal | None], ...]] = (
    _paths_lie_in_claims,
    _key_is_a_secret,
    _work_has_a_place,
    _claims_are_there,
    _volume_is_ours,
    workers_share_the_volume,
)
