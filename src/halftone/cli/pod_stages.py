"""A stage as a pod runs it: the job from the environment, documents from a work area, and a result.

Called by `halftone stage --result FILE`. A pod's disk is gone with it, so whatever the next stage
needs is handed on before the result says that this one is done.
"""

import json
import os
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from halftone.cli.handing_on import leave, take, work_area
from halftone.cli.parts import assemble, quantize_part
from halftone.cli.stages import STAGES, plan
from halftone.cli.validating import load_report, require_passed
from halftone.cli.workdir import put_job
from halftone.spec.artifacts import Artifact
from halftone.spec.documents import CheckpointDocument, Plan
from halftone.spec.errors import HalftoneError, RefusedInput
from halftone.spec.job import QuantizationJob
from halftone.spec.names import (
    ARTIFACT_FILE,
    CHECKPOINT_FILE,
    JOB_VARIABLE,
    PLAN_FILE,
    REPORT_FILE,
    STATISTICS_FILE,
    Reason,
)
from halftone.spec.recipes import parse_job
from halftone.spec.reports import Report
from halftone.spec.stage_results import (
    ArtifactFacts,
    CheckpointFacts,
    Failure,
    GateFacts,
    OccupantFacts,
    PlanFacts,
    ReportFacts,
    StageResult,
)
from halftone.spec.statistics import StatisticsDocument

if TYPE_CHECKING:
    from halftone.stores.s3_work_area import S3WorkArea

# A termination message has 4,096 bytes; reasons and subjects of ours are short, paths are not.
_SUBJECT: Final = 256


@dataclass(frozen=True)
class Order:
    """What the pod was told on its command line."""

    stage: str
    workdir: Path
    plan_digest: str = ""
    report_digest: str = ""
    worker: int = 0
    workers: int = 1
    without_target: bool = False


def run_in_pod(order: Order, result_file: Path) -> None:
    """Run the stage and write how it ended to `result_file`; raises what the stage raised."""
    try:
        result = _run(order)
    except HalftoneError as error:
        failure = Failure(
            reason=error.reason, subject=error.subject[:_SUBJECT], message=error.message
        )
        found = _facts(order).model_copy(update={"failure": failure})
        result_file.write_bytes(found.to_bytes())
        raise
    result_file.write_bytes(result.to_bytes())


def _run(order: Order) -> StageResult:
    job = _job(order.workdir)
    if order.stage == "target":
        return _ask_target(order, job)
    with work_area(job, order.plan_digest) as area:
        if order.stage == "clean-up":
            _clean_up(job, area)
            return StageResult(stage=order.stage)
        if area is not None:
            take(area, order.stage, order.workdir)
        _require_plan(order)
        _ACTIONS.get(order.stage, _simple)(order, area)
        if area is not None:
            leave(area, order.stage, order.workdir)
    return _facts(order)


def _job(workdir: Path) -> QuantizationJob:
    """The job that the operator put into this pod, and into the work directory."""
    text = os.environ.get(JOB_VARIABLE)
    if not text:
        raise RefusedInput(
            Reason.InvalidJob,
            JOB_VARIABLE,
            f"`{JOB_VARIABLE}` is not set, which holds the job of a pod; elsewhere leave out "
            "`--result`, and give `--job JOB.yaml`.",
        )
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise RefusedInput(Reason.InvalidJob, JOB_VARIABLE, f"`{JOB_VARIABLE}` is not JSON.")
    job = parse_job(found, JOB_VARIABLE)
    put_job(job, workdir)
    return job


def _require_plan(order: Order) -> None:
    """The plan that lies here must be the one that this pod was made for."""
    if order.stage == "plan" or not order.plan_digest:
        return
    found = Plan.load(order.workdir / PLAN_FILE)
    if found.digest != order.plan_digest:
        raise RefusedInput(
            Reason.WorkdirInconsistent,
            PLAN_FILE,
            f"{PLAN_FILE} is that of the plan {found.digest[:12]}, and this pod carries out "
            f"{order.plan_digest[:12]}; have the job planned again.",
        )


def _plan(order: Order, _area: "S3WorkArea | None") -> None:
    plan(order.workdir, with_target=not order.without_target)
    made = Plan.load(order.workdir / PLAN_FILE)
    with work_area(_job(order.workdir), made.digest) as area:
        if area is not None:
            leave(area, "plan", order.workdir)


def _quantize(order: Order, area: "S3WorkArea | None") -> None:
    if order.workers == 1 and area is None:
        _simple(order, area)
        return
    quantize_part(order.workdir, order.worker, order.workers, area)
    if order.workers == 1 and area is not None:
        assemble(order.workdir, area)
        leave(area, "assemble", order.workdir)


def _assemble(order: Order, area: "S3WorkArea | None") -> None:
    assemble(order.workdir, area)


def _validate(order: Order, area: "S3WorkArea | None") -> None:
    digest = STAGES["validate"](order.workdir, "")
    if area is not None:
        leave(area, "validate", order.workdir)  # a report that shuts publishing is looked at too
    require_passed(load_report(order.workdir, digest))


def _publish(order: Order, area: "S3WorkArea | None") -> None:
    if area is None or not (order.workdir / ARTIFACT_FILE).is_file():
        STAGES["publish"](order.workdir, order.report_digest)


def _simple(order: Order, _area: "S3WorkArea | None") -> None:
    STAGES[order.stage](order.workdir, order.report_digest)


_ACTIONS: Final[dict[str, Callable[[Order, "S3WorkArea | None"], None]]] = {
    "plan": _plan,
    "quantize": _quantize,
    "assemble": _assemble,
    "validate": _validate,
    "publish": _publish,
}
POD_STAGES: Final = (*STAGES, "target", "assemble", "clean-up")


def _ask_target(order: Order, job: QuantizationJob) -> StageResult:
    """Whether this pod, with the publisher's rights, can publish there, and who lies there."""
    from halftone.cli.publishing import signing_key
    from halftone.stores.opening import open_target

    publish = job.spec.publish
    if publish is None:
        return StageResult(stage=order.stage)
    key = signing_key(publish)
    if key is not None:
        from halftone.publish.signing import refuse_unusable_key

        refuse_unusable_key(key)
    with closing(open_target(publish)) as target:
        there = target.current()
        target.refuse_unusable()
    if there is None:
        return StageResult(stage=order.stage)
    occupant = OccupantFacts(planDigest=there.planDigest, checkpointDigest=there.checkpointDigest)
    return StageResult(stage=order.stage, occupant=occupant)


def _clean_up(job: QuantizationJob, area: "S3WorkArea | None") -> None:
    """Abort what was being uploaded, and empty the work area."""
    from halftone.spec.publishing import LeftoverKind
    from halftone.stores.opening import open_target

    if area is not None:
        area.remove()
    if job.spec.publish is None:
        return
    with closing(open_target(job.spec.publish)) as target:
        for leftover in target.leftovers():
            if leftover.kind is LeftoverKind.DeadUpload:
                target.remove(leftover)


def _facts(order: Order) -> StageResult:
    """What the documents in the work directory say, as far as this stage wrote them."""
    found: dict[str, object] = {"stage": order.stage}
    folder = order.workdir
    if order.stage == "plan" and (folder / PLAN_FILE).is_file():
        found["plan"] = _plan_facts(Plan.load(folder / PLAN_FILE))
    if order.stage == "calibrate" and (folder / STATISTICS_FILE).is_file():
        found["statisticsDigest"] = StatisticsDocument.load(folder / STATISTICS_FILE).digest
    if order.stage in ("quantize", "assemble") and (folder / CHECKPOINT_FILE).is_file():
        document = CheckpointDocument.load(folder / CHECKPOINT_FILE)
        size = sum(file.sizeBytes for file in document.files)
        found["checkpoint"] = CheckpointFacts(digest=document.digest, sizeBytes=size)
    if order.stage == "validate" and (folder / REPORT_FILE).is_file():
        found["report"] = _report_facts(Report.load(folder / REPORT_FILE))
    if order.stage == "publish" and (folder / ARTIFACT_FILE).is_file():
        artifact = Artifact.load(folder / ARTIFACT_FILE)
        found["artifact"] = ArtifactFacts(
            uri=artifact.uri,
            revision=artifact.revision,
            digest=artifact.checkpointDigest,
            sizeBytes=artifact.sizeBytes,
        )
    return StageResult.model_validate(found)


def _plan_facts(made: Plan) -> PlanFacts | None:
    if made.refusal is not None or not (made.recipe and made.output and made.resources):
        return None
    return PlanFacts(
        digest=made.digest,
        method=made.method,
        recipe=made.recipe.name,
        sourceRevision=made.source.revision if made.source else None,
        sizeBytes=made.output.fileBytes,
        memoryBytes=made.resources.peakMemoryBytes,
        shards=len(made.output.files),
    )


def _report_facts(report: Report) -> ReportFacts:
    return ReportFacts(
        digest=report.digest,
        verdict=report.verdict,
        recoveryPercent=report.recoveryPercent or None,
        gates=tuple(
            GateFacts(name=gate.name, outcome=gate.outcome, value=gate.score)
            for gate in report.gates
        ),
    )
