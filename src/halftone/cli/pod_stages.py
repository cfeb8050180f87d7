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
from typing import Final

from halftone.cli import pod_pipeline
from halftone.cli.handing_on import Areas, leave, take, work_area
from halftone.cli.parts import assemble, quantize_part
from halftone.cli.pod_results import facts, failed, foreseen
from halftone.cli.room import require_room, used
from halftone.cli.signals import ended_in_order
from halftone.cli.stages import STAGES, plan
from halftone.cli.validating import load_report, require_passed
from halftone.cli.workdir import put_job
from halftone.spec.artifacts import SHORT_DIGEST
from halftone.spec.documents import CheckpointDocument, Plan
from halftone.spec.errors import CheckFailed, RefusedInput
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

# A name for the place below which plans have theirs, for stages that know of no plan.
_NO_PLAN: Final = "no-plan"


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
    pipeline: bool = False
    source_digest: str = ""
    device: str = ""
    engine: str = ""
    checkpoint_digest: str = ""

    @property
    def tells_of_all(self) -> bool:
        """Cached tasks have no pods, so the last one tells of all documents."""
        return self.pipeline and self.stage == "publish"


def run_in_pod(order: Order, result_file: Path) -> None:
    """Run the stage and write how it ended to `result_file`; raises what the stage raised.

    What nobody foresaw is told to the log and becomes an EnvironmentFault.
    """

    def tell(error: BaseException) -> None:
        told = failed(order.stage, order.workdir, error, of_all=order.tells_of_all)
        result_file.write_bytes(told.to_bytes())

    try:
        # The first process of a container ignores signals that it does not ask for.
        with ended_in_order():
            result = _run(order)
    except KeyboardInterrupt as error:
        tell(error)
        raise
    except Exception as error:
        tell(error)
        told = foreseen(order.stage, error)
        if told is error:
            raise
        raise told from None
    result_file.write_bytes(result.to_bytes())


def _run(order: Order) -> StageResult:
    job = _job()
    if order.stage == "resolve":
        with work_area(job, _NO_PLAN) as area:
            found = pod_pipeline.resolve(job, area, order.workdir)
        return StageResult(stage=order.stage, source=found)
    put_job(job, order.workdir)
    if order.stage == "target":
        return _ask_target(order, job)
    if order.pipeline:
        return _run_in_pipeline(order, job)
    with work_area(job, order.plan_digest) as area:
        if order.stage == "clean-up":
            _clean_up(order.workdir, job, area)
            return StageResult(stage=order.stage)
        if area is not None and order.stage == "publish":
            area.pull(order.workdir, (ARTIFACT_FILE,))
        _carry_out(order, job, area)
    return facts(order.stage, order.workdir)


def _run_in_pipeline(order: Order, job: QuantizationJob) -> StageResult:
    """The same where earlier stages may have come from a cache."""
    gates = pod_pipeline.folder_of_gates(job, order.device, order.engine)
    stage, workdir = order.stage, order.workdir
    with work_area(job, order.plan_digest, gates) as area:
        try:
            if area and pod_pipeline.is_done(stage, job, area, workdir, order.plan_digest):
                _require_checkpoint(order)
                pod_pipeline.require_done(stage, job, area, workdir, order.report_digest)
            else:
                _carry_out(order, job, area)
        except RefusedInput as error:
            if not pod_pipeline.is_gone(stage, error):
                raise
            raise pod_pipeline.gone(error, area, workdir) from error
        except CheckFailed as error:
            raise pod_pipeline.begin_anew_after(error, area, workdir) from error
    return facts(stage, workdir, of_all=order.tells_of_all)


def _carry_out(order: Order, job: QuantizationJob, area: Areas | None) -> None:
    if area is not None:
        take(area, order.stage, order.workdir, job)
    _require_plan(order)
    _ACTIONS.get(order.stage, _simple)(order, job, area)
    if area is not None:
        leave(area, order.stage, order.workdir)


def _job() -> QuantizationJob:
    """The job that was put into this pod."""
    text = os.environ.get(JOB_VARIABLE)
    if not text:
        raise RefusedInput(
            Reason.InvalidJob,
            JOB_VARIABLE,
            f"`{JOB_VARIABLE}` is not set, which holds the job of a pod (in a pipeline the "
            "parameter `job`); elsewhere leave out `--result`, and give `--job JOB.yaml`.",
        )
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise RefusedInput(
            Reason.InvalidJob,
            JOB_VARIABLE,
            f"`{JOB_VARIABLE}`, in a pipeline the parameter `job`, is not the JSON of a "
            "QuantizationJob; give one.",
        )
    return parse_job(found, JOB_VARIABLE)


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


def _require_checkpoint(order: Order) -> None:
    """The checkpoint that lies here must be the one that a report is cached by."""
    if not order.checkpoint_digest:
        return
    found = CheckpointDocument.load(order.workdir / CHECKPOINT_FILE)
    if found.digest != order.checkpoint_digest:
        raise RefusedInput(
            Reason.WorkdirInconsistent,
            CHECKPOINT_FILE,
            f"{CHECKPOINT_FILE} is that of {found.digest[:12]}, and this pod judges "
            f"{order.checkpoint_digest[:12]}.",
        )


def _plan(order: Order, job: QuantizationJob, _area: Areas | None) -> None:
    if order.source_digest:
        pod_pipeline.require_source(job, order.source_digest)
    plan(order.workdir, with_target=not order.without_target)
    made = Plan.load(order.workdir / PLAN_FILE)
    with work_area(job, made.digest) as area:
        if area is not None:
            leave(area, "plan", order.workdir)
            return
    # The volume that is here now is the one that quantizing will write to.
    require_room(order.workdir, _still_to_write(order.workdir, made), job, "quantize")


def _quantize(order: Order, job: QuantizationJob, area: Areas | None) -> None:
    made = Plan.load(order.workdir / PLAN_FILE)
    if area is None:
        if order.pipeline and _is_assembled(order.workdir, made):
            return  # `assemble` proves it
        require_room(order.workdir, _still_to_write(order.workdir, made), job, "quantize")
    else:
        files = made.output.files[order.worker :: order.workers] if made.output else ()
        # One shard is written while another is on its way.
        needed = sum(sorted(file.sizeBytes for file in files)[-2:])
        require_room(order.workdir, needed, job, "quantize")
    if order.workers == 1 and area is None:
        _simple(order, job, area)
        return
    quantize_part(order.workdir, order.worker, order.workers, area.work if area else None)
    if order.workers == 1 and area is not None:
        assemble(order.workdir, area.work)
        leave(area, "assemble", order.workdir)


def _is_assembled(workdir: Path, made: Plan) -> bool:
    path = workdir / CHECKPOINT_FILE
    return path.is_file() and CheckpointDocument.load(path).planDigest == made.digest


def _still_to_write(workdir: Path, made: Plan) -> int:
    """How many bytes of the checkpoint are on no disk yet."""
    if made.output is None or (workdir / CHECKPOINT_FILE).is_file():
        return 0
    return max(0, made.output.fileBytes - used(workdir / f".{CHECKPOINT_DIRECTORY}.partial"))


def _assemble(order: Order, job: QuantizationJob, area: Areas | None) -> None:
    if order.pipeline and area is None:
        STAGES["quantize"](order.workdir, "")  # takes over the shards that are there
        return
    if order.pipeline:
        _quantize(order, job, area)
        return
    assemble(order.workdir, area.work if area else None)


def _validate(order: Order, _job: QuantizationJob, area: Areas | None) -> None:
    _require_checkpoint(order)
    digest = STAGES["validate"](order.workdir, "")
    if area is not None:
        leave(area, "validate", order.workdir)  # a report that shuts publishing is looked at too
    require_passed(load_report(order.workdir, digest))


def _publish(order: Order, _job: QuantizationJob, area: Areas | None) -> None:
    if area is None or not (order.workdir / ARTIFACT_FILE).is_file():
        STAGES["publish"](order.workdir, order.report_digest)


def _simple(order: Order, _job: QuantizationJob, _area: Areas | None) -> None:
    STAGES[order.stage](order.workdir, order.report_digest)


_ACTIONS: Final[dict[str, Callable[[Order, QuantizationJob, Areas | None], None]]] = {
    "plan": _plan,
    "quantize": _quantize,
    "assemble": _assemble,
    "validate": _validate,
    "publish": _publish,
}
POD_STAGES: Final = (*STAGES, "resolve", "target", "assemble", "clean-up")


def _ask_target(order: Order, job: QuantizationJob) -> StageResult:
    """Whether this pod, with the publisher's rights, can publish there, and who lies there."""
    from halftone.cli.publishing import refuse_occupied, signing_key
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
        if order.plan_digest:
            refuse_occupied(target.uri, there, order.plan_digest, publish)
    if there is None:
        return StageResult(stage=order.stage)
    occupant = OccupantFacts(planDigest=there.planDigest, checkpointDigest=there.checkpointDigest)
    return StageResult(stage=order.stage, occupant=occupant)


def _clean_up(workdir: Path, job: QuantizationJob, area: Areas | None) -> None:
    """Abort what was being uploaded, then empty the work area, or the job's part of a volume.

    Where a job has no target, the checkpoint in its volume is what it was run for, and stays. The
    document that tells whose uploads they are goes last, so a pod that was killed is gone on with.
    """
    if area is not None:
        area.pull(workdir, (CHECKPOINT_FILE,))
    if (workdir / CHECKPOINT_FILE).is_file():
        _abort_uploads(job, CheckpointDocument.load(workdir / CHECKPOINT_FILE).digest)
    if area is not None:
        area.work.remove()
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
