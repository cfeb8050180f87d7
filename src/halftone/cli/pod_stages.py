"""A stage as a pod runs it: the job from the environment, documents from a work area, and a result.

Called by `halftone stage --result FILE`. A pod's disk is gone with it, so whatever the next stage
needs is handed on before the result says that this one is done. However a stage ends, but by a
kill, its result says so.
"""

import json
import os
import shutil
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final

from halftone.cli.handing_on import leave, take, work_area
from halftone.cli.parts import assemble, quantize_part
from halftone.cli.pod_results import facts, failed, foreseen
from halftone.cli.room import require_room, used
from halftone.cli.signals import ended_in_order
from halftone.cli.stages import STAGES, plan
from halftone.cli.validating import load_report, require_passed
from halftone.cli.workdir import put_job
from halftone.spec.artifacts import SHORT_DIGEST
from halftone.spec.documents import CheckpointDocument, Plan
from halftone.spec.errors import RefusedInput
from halftone.spec.job import QuantizationJob
from halftone.spec.names import (
    ARTIFACT_FILE,
    CHECKPOINT_DIRECTORY,
    CHECKPOINT_FILE,
    JOB_VARIABLE,
    PLAN_FILE,
    Reason,
)
from halftone.spec.recipes import parse_job
from halftone.spec.stage_results import OccupantFacts, StageResult

if TYPE_CHECKING:
    from halftone.stores.s3_work_area import S3WorkArea


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
    """Run the stage and write how it ended to `result_file`; raises what the stage raised.

    What nobody foresaw is told to the log and becomes an EnvironmentFault.
    """
    try:
        # The first process of a container ignores signals that it does not ask for.
        with ended_in_order():
            result = _run(order)
    except KeyboardInterrupt as error:
        result_file.write_bytes(failed(order.stage, order.workdir, error).to_bytes())
        raise
    except Exception as error:
        result_file.write_bytes(failed(order.stage, order.workdir, error).to_bytes())
        told = foreseen(order.stage, error)
        if told is error:
            raise
        raise told from None
    result_file.write_bytes(result.to_bytes())


def _run(order: Order) -> StageResult:
    job = _job(order.workdir)
    if order.stage == "target":
        return _ask_target(order, job)
    with work_area(job, order.plan_digest) as area:
        if order.stage == "clean-up":
            _clean_up(order.workdir, job, area)
            return StageResult(stage=order.stage)
        if area is not None:
            take(area, order.stage, order.workdir, job)
        _require_plan(order)
        _ACTIONS.get(order.stage, _simple)(order, job, area)
        if area is not None:
            leave(area, order.stage, order.workdir)
    return facts(order.stage, order.workdir)


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


def _plan(order: Order, job: QuantizationJob, _area: "S3WorkArea | None") -> None:
    plan(order.workdir, with_target=not order.without_target)
    made = Plan.load(order.workdir / PLAN_FILE)
    with work_area(job, made.digest) as area:
        if area is not None:
            leave(area, "plan", order.workdir)
            return
    # The volume that is here now is the one that quantizing will write to.
    require_room(order.workdir, _still_to_write(order.workdir, made), job, "quantize")


def _quantize(order: Order, job: QuantizationJob, area: "S3WorkArea | None") -> None:
    made = Plan.load(order.workdir / PLAN_FILE)
    if area is None:
        require_room(order.workdir, _still_to_write(order.workdir, made), job, "quantize")
    else:
        files = made.output.files[order.worker :: order.workers] if made.output else ()
        # One shard is written while another is on its way.
        needed = sum(sorted(file.sizeBytes for file in files)[-2:])
        require_room(order.workdir, needed, job, "quantize")
    if order.workers == 1 and area is None:
        _simple(order, job, area)
        return
    quantize_part(order.workdir, order.worker, order.workers, area)
    if order.workers == 1 and area is not None:
        assemble(order.workdir, area)
        leave(area, "assemble", order.workdir)


def _still_to_write(workdir: Path, made: Plan) -> int:
    """How many bytes of the checkpoint are on no disk yet."""
    if made.output is None or (workdir / CHECKPOINT_FILE).is_file():
        return 0
    return max(0, made.output.fileBytes - used(workdir / f".{CHECKPOINT_DIRECTORY}.partial"))


def _assemble(order: Order, _job: QuantizationJob, area: "S3WorkArea | None") -> None:
    assemble(order.workdir, area)


def _validate(order: Order, _job: QuantizationJob, area: "S3WorkArea | None") -> None:
    digest = STAGES["validate"](order.workdir, "")
    if area is not None:
        leave(area, "validate", order.workdir)  # a report that shuts publishing is looked at too
    require_passed(load_report(order.workdir, digest))


def _publish(order: Order, _job: QuantizationJob, area: "S3WorkArea | None") -> None:
    if area is None or not (order.workdir / ARTIFACT_FILE).is_file():
        STAGES["publish"](order.workdir, order.report_digest)


def _simple(order: Order, _job: QuantizationJob, _area: "S3WorkArea | None") -> None:
    STAGES[order.stage](order.workdir, order.report_digest)


_ACTIONS: Final[dict[str, Callable[[Order, QuantizationJob, "S3WorkArea | None"], None]]] = {
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


def _clean_up(workdir: Path, job: QuantizationJob, area: "S3WorkArea | None") -> None:
    """Abort what was being uploaded, then empty the work area, or the job's part of a volume.

    Where a job has no target, the checkpoint in its volume is what it was run for, and stays. The
    document that tells whose uploads they are goes last, so a pod that was killed is gone on with.
    """
    if area is not None:
        area.pull(workdir, (CHECKPOINT_FILE,))
    if (workdir / CHECKPOINT_FILE).is_file():
        _abort_uploads(job, CheckpointDocument.load(workdir / CHECKPOINT_FILE).digest)
    if area is not None:
        area.remove()
    kept = job.spec.publish is None
    for path in sorted(workdir.iterdir(), key=lambda path: path.name == CHECKPOINT_FILE):
        if kept and not path.name.startswith("."):
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _abort_uploads(job: QuantizationJob, checkpoint_digest: str) -> None:
    """Remove what this job's publisher left unfinished; it is gone, and will not come back."""
    from halftone.spec.publishing import LeftoverKind
    from halftone.stores.opening import open_target

    if job.spec.publish is None:
        return
    mine = checkpoint_digest[:SHORT_DIGEST]
    # Whatever its age: by the store's own clock, which need not be ours.
    with closing(open_target(job.spec.publish, dead_after=timedelta(days=-1))) as target:
        # Other publishers of this name may be alive; only S3 cannot tell those from dead ones.
        in_s3 = job.spec.publish.s3 is not None
        for leftover in target.leftovers():
            is_mine = not in_s3 or f"/{mine}-" in leftover.uri
            if leftover.kind is LeftoverKind.DeadUpload and is_mine:
                target.remove(leftover)
