"""What must hold of every decision, whatever was observed.

Called by the property tests of `halftone.control` with an observation and what came of it.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from halftone.control.decision import Decision
from halftone.control.inside import secret_refs
from halftone.control.observed import Observed
from halftone.control.reconciling import read_status, reconcile
from halftone.control.stages import STAGES, Use
from halftone.spec.cluster import FINALIZER, STAGE_LABEL, ChildStage, Condition
from halftone.spec.job import JobSpec
from halftone.spec.reports import PUBLISHABLE
from halftone.spec.status import ConditionStatus, JobStatus
from tests.control_cases import SETTINGS

ORDER: Final = tuple(Condition)
# Which condition the children of a stage make true.
MAKES: Final = {
    ChildStage.Plan: Condition.Accepted,
    ChildStage.Target: Condition.Accepted,
    ChildStage.Calibrate: Condition.Calibrated,
    ChildStage.Quantize: Condition.Quantized,
    ChildStage.Assemble: Condition.Quantized,
    ChildStage.Validate: Condition.Validated,
    ChildStage.Publish: Condition.Published,
}


def jobs_of(decision: Decision) -> Iterator[tuple[ChildStage, Mapping[str, Any]]]:
    """The Jobs that are to be made, with their stages."""
    for manifest in decision.creations:
        if manifest["kind"] == "Job":
            yield ChildStage(manifest["metadata"]["labels"][STAGE_LABEL]), manifest


def check(observed: Observed) -> Decision:
    """What is decided of `observed`, after all laws were asked."""
    decision = reconcile(observed, SETTINGS)
    assert decision == reconcile(observed, SETTINGS)
    _check_creations(observed, decision)
    _check_deletions(observed, decision)
    if decision.status is not None:
        _check_status(observed, decision.status)
    if decision.finalizer is False:
        assert observed.metadata.get("deletionTimestamp")
    assert decision.requeue_seconds is None or decision.requeue_seconds >= 0
    return decision


def check_status_laws(observed: Observed, decision: Decision) -> None:
    """What holds of a status whoever carries the job out."""
    if decision.status is not None:
        _check_status(observed, decision.status)


def _check_creations(observed: Observed, decision: Decision) -> None:
    names = [manifest["metadata"]["name"] for manifest in decision.creations]
    assert len(names) == len(set(names))
    assert not set(names) & {child.name for child in observed.children}
    assert not set(names) & observed.taken
    deleted = bool(observed.metadata.get("deletionTimestamp"))
    before = read_status(observed.status)
    for stage, manifest in jobs_of(decision):
        assert (stage is ChildStage.CleanUp) is deleted
        check_manifest(observed, stage, manifest)
        live = [c for c in observed.children if not c.complete and c.failure is None]
        assert not [child for child in live if child.stage is stage]
        if deleted:
            assert not live
            assert FINALIZER in observed.metadata["finalizers"]
            continue
        assert not observed.spec.get("suspend")
        _check_reason_to_make(stage, before, decision.status or before)


def _check_reason_to_make(stage: ChildStage, before: JobStatus, now: JobStatus) -> None:
    """Nothing is made after the end, or again for nothing, or before what it builds on."""
    summary = now.condition(Condition.Succeeded)
    assert summary is not None
    assert summary.status is ConditionStatus.UNKNOWN
    assert now.completionTime is None
    row = now.condition(MAKES[stage])
    assert row is not None
    assert row.status is not ConditionStatus.TRUE
    earlier = ORDER[: ORDER.index(MAKES[stage])]
    rows = [found for kind in earlier if (found := now.condition(kind)) is not None]
    assert all(found.status is ConditionStatus.TRUE for found in rows)
    if stage is ChildStage.Publish:
        validated = now.condition(Condition.Validated)
        assert validated is not None
        assert now.report is not None
        assert now.report.verdict in PUBLISHABLE


def _check_deletions(observed: Observed, decision: Decision) -> None:
    children = {(child.name, child.uid): child for child in observed.children}
    for deletion in decision.deletions:
        assert not children[deletion.name, deletion.uid].deleting
    assert len(decision.deletions) == len(set(decision.deletions))


def _check_status(observed: Observed, status: JobStatus) -> None:
    assert JobStatus.model_validate(status.model_dump(mode="json")) == status
    kinds = [row.type for row in status.conditions]
    assert kinds == sorted(kinds, key=ORDER.index)
    assert kinds[-1] is Condition.Succeeded
    told = [row.status for row in status.conditions[:-1]]
    summary = status.conditions[-1].status
    if ConditionStatus.FALSE in told:
        assert summary is ConditionStatus.FALSE
    else:
        whole = set(told) == {ConditionStatus.TRUE}
        assert summary is (ConditionStatus.TRUE if whole else ConditionStatus.UNKNOWN)
    # True, then at most one that is at work or failed, then what has to wait for it.
    assert told == sorted(told, key=lambda one: one is not ConditionStatus.TRUE)
    assert (status.completionTime is not None) is (summary is not ConditionStatus.UNKNOWN)
    before = read_status(observed.status)
    for row in status.conditions:
        former = before.condition(row.type)
        if former is not None and former.status is row.status:
            assert row.lastTransitionTime == former.lastTransitionTime
        assert row.observedGeneration == observed.metadata["generation"]


def check_manifest(observed: Observed, stage: ChildStage, manifest: Mapping[str, Any]) -> None:
    """Least privilege, Pod Security "restricted", and nothing of a queue's own."""
    about, body = manifest["metadata"], manifest["spec"]
    assert len(about["name"]) <= 63
    assert about["ownerReferences"][0]["uid"] == observed.metadata["uid"]
    assert not {"suspend", "ttlSecondsAfterFinished", "activeDeadlineSeconds"} & body.keys()
    pod = body["template"]["spec"]
    assert pod["restartPolicy"] == "Never"
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert {next(iter(v.keys() - {"name"})) for v in pod["volumes"]} <= {
        "emptyDir",
        "persistentVolumeClaim",
    }
    (container,) = pod["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert body["podFailurePolicy"]["rules"][0]["action"] == "Ignore"
    check_secrets(observed, stage, manifest)


def check_secrets(observed: Observed, stage: ChildStage, manifest: Mapping[str, Any]) -> None:
    """A stage sees the Secrets and claims of its row in the table, each for its own use."""
    refs = secret_refs(JobSpec.model_validate(dict(observed.spec)))
    allowed = {(refs[use].name, refs[use].key) for use in STAGES[stage].secrets & refs.keys()}
    text = repr(manifest["spec"]["template"])
    env = manifest["spec"]["template"]["spec"]["containers"][0]["env"]
    named = {
        (found["name"], found["key"])
        for one in env
        if (found := one.get("valueFrom", {}).get("secretKeyRef"))
    }
    assert named == allowed
    assert text.count("secretKeyRef") == len(named)
    assert "envFrom" not in text
    assert "'secret'" not in text.replace(env[0]["value"], "")
    if stage not in (ChildStage.Publish, ChildStage.Target):
        assert Use.SigningKey not in STAGES[stage].secrets
    if stage not in (ChildStage.Publish, ChildStage.Target, ChildStage.CleanUp):
        assert Use.Publish not in STAGES[stage].secrets
