"""The stages: one function each, from the documents in a work directory to the next document.

`halftone run` calls them one after the other, `halftone stage NAME` calls one; a Kubernetes Job or
a pipeline step does the same. Every retry is safe: `plan` always looks at the source again;
`calibrate` goes on after its last whole layer; `quantize` proves by SHA-256 the checkpoint that it
finds; `validate` and `publish` do nothing more where their document states the digests of what lies
there.

A stage returns what it hands on beside its document: `validate` the report digest, the others
nothing. `publish` wants that digest back from whoever ran the gates, so that a report which was
edited in between opens nothing.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from halftone.cli.elsewhere import QUANTIZE, SERVE, run_stage
from halftone.cli.opening import opened, opened_checkpoint
from halftone.cli.progress import progress, steps
from halftone.cli.quantize import bytes_to_read, default_workers
from halftone.cli.signals import ended_in_order
from halftone.cli.workdir import read_job
from halftone.plan.changes import changed_file
from halftone.plan.layout import MAX_SHARD_BYTES
from halftone.plan.planning import Planned, plan_checkpoint
from halftone.spec.documents import CheckpointDocument, Method, Plan, PlanSource
from halftone.spec.errors import RefusedInput
from halftone.spec.gates import Validation
from halftone.spec.job import QuantizationJob
from halftone.spec.names import (
    CHECKPOINT_DIRECTORY,
    CHECKPOINT_FILE,
    PLAN_FILE,
    Reason,
)
from halftone.spec.recipes import resolve

if TYPE_CHECKING:
    from halftone.checkpoint.index import Checkpoint
    from halftone.quantize.statistics import Statistics


def plan(workdir: Path, _handed: str = "", *, with_target: bool = True) -> str:
    """Write `plan.json`; a refused plan is written too, then raised.

    What would fail hours later is refused before anything is written: gates that cannot decide,
    a licence that nobody acknowledged, a target that cannot be published to. Without `with_target`
    nothing is asked of the target: somebody else does it, with rights that this process lacks.
    """
    from halftone.cli.calibrate import refuse_without_data
    from halftone.cli.publishing import refuse_unpublishable

    job = read_job(workdir)
    with opened_checkpoint(job.spec.source) as checkpoint:
        planned = _planned(job, checkpoint)
        if planned.plan.method is Method.Calibrated:
            refuse_without_data(planned.plan, checkpoint)
    refusal = planned.plan.refusal
    if refusal is None:
        _refuse_undecidable(job.spec.validation)
        if job.spec.publish is not None:
            refuse_unpublishable(job.spec.publish, planned.plan, workdir, with_target=with_target)
    planned.full_document().save(workdir / PLAN_FILE)
    if refusal is not None:
        raise RefusedInput(refusal.reason, refusal.subject, refusal.message)
    return ""


def calibrate(workdir: Path, _handed: str = "") -> str:
    """Write `statistics.json` and its tensors; nothing for a plan that needs none.

    Runs in the environment with llm-compressor.
    """
    if Plan.load(workdir / PLAN_FILE).method is Method.DataFree:
        return ""
    if not QUANTIZE.is_here:
        return run_stage("calibrate", workdir, QUANTIZE.python())

    from halftone.cli.calibrate import warn
    from halftone.quantize.calibration.calibrating import calibrate as measure

    job = read_job(workdir)
    with (
        ended_in_order(),
        opened_checkpoint(job.spec.source) as checkpoint,
        steps("calibrate") as shown,
    ):
        measure(
            planned_again(job, checkpoint, workdir),
            checkpoint,
            workdir.absolute(),
            progress=shown,
            notice=warn,
        )
    return ""


def measured(workdir: Path, planned: Planned) -> "Statistics | None":
    """The statistics in the work directory, None for a plan that takes none."""
    from halftone.quantize.statistics import read_statistics

    calibrated = planned.plan.method is Method.Calibrated
    return read_statistics(workdir, planned) if calibrated else None


def quantize(workdir: Path, _handed: str = "") -> str:
    """Write `checkpoint/` and `checkpoint.json` as `plan.json` and the statistics say."""
    from halftone.quantize.engine import quantize as carry_out

    job = read_job(workdir)
    with opened_checkpoint(job.spec.source) as checkpoint:
        planned = planned_again(job, checkpoint, workdir)
        statistics = measured(workdir, planned)
        with progress("quantize", bytes_to_read(planned)) as shown:
            carry_out(
                planned,
                checkpoint,
                workdir.absolute() / CHECKPOINT_DIRECTORY,
                statistics=statistics,
                workers=default_workers(),
                document_path=workdir.absolute() / CHECKPOINT_FILE,
                progress=shown,
            )
    return ""


def validate(workdir: Path, _handed: str = "") -> str:
    """Write `report.json`, `report.html` and evidence; return the report digest.

    Runs in the environment with vLLM when a gate needs it. A failed gate is not raised here, for
    the report is there either way; `require_passed` raises.
    """
    job = read_job(workdir)
    _refuse_undecidable(job.spec.validation)
    if job.spec.validation.needs_engine and not SERVE.is_here:
        return run_stage("validate", workdir, SERVE.python(), "--report-only")

    from halftone.cli.validating import validate_workdir

    with (
        opened_checkpoint(job.spec.source) as source,
        opened(str(workdir / CHECKPOINT_DIRECTORY)) as checkpoint,
    ):
        planned = planned_again(job, source, workdir)
        document = CheckpointDocument.load(workdir / CHECKPOINT_FILE)
        _require_made_from(document, planned.plan)
        return validate_workdir(workdir, job, planned, document, source.source, checkpoint)


def publish(workdir: Path, handed: str = "") -> str:
    """Publish what the report `handed` (its digest) opens, and write `artifact.json`."""
    from halftone.cli.publishing import publish_workdir

    publish_workdir(workdir, read_job(workdir), handed)
    return ""


def _refuse_undecidable(validation: Validation) -> None:
    """Gates that would be refused, or decide nothing, only after everything else was measured."""
    from halftone.validate.gates.power import refuse_underpowered
    from halftone.validate.serving.prompts import read_prompts

    refuse_underpowered(validation.gates)
    if validation.promptFile is not None:
        read_prompts(Path(validation.promptFile), own=True)


def planned_again(job: QuantizationJob, checkpoint: "Checkpoint", workdir: Path) -> Planned:
    """The plan made now, which must be the one in the work directory."""
    agreed = Plan.load(workdir / PLAN_FILE)
    planned = _planned(job, checkpoint)
    _require_same(agreed, planned)
    return planned


def _planned(job: QuantizationJob, checkpoint: "Checkpoint") -> Planned:
    recipe = resolve(job.spec.quantization, job.metadata.name)
    return plan_checkpoint(
        checkpoint, recipe, job.spec.quantization.maxShardBytes or MAX_SHARD_BYTES
    )


def _require_made_from(document: CheckpointDocument, agreed: Plan) -> None:
    if document.planDigest != agreed.digest:
        raise RefusedInput(
            Reason.WorkdirInconsistent,
            CHECKPOINT_FILE,
            f"{CHECKPOINT_FILE} was not made from the {PLAN_FILE} beside it; use a new work "
            "directory.",
        )


def _require_same(agreed: Plan, planned: Planned) -> None:
    if agreed.digest == planned.plan.digest:
        return
    path = changed_file(agreed.source, planned.plan.source)
    before, now = agreed.source, planned.plan.source
    if path is None and before and now and (before.uri, before.licence) == (now.uri, now.licence):
        _refuse_moved(before, now)
    if path is not None:
        raise RefusedInput(
            Reason.SourceChanged,
            path,
            f"'{path}' of the source is not the file that was planned with (its size or "
            "header differs); bring that one back, or plan in a new work directory.",
        )
    raise RefusedInput(
        Reason.WorkdirInconsistent,
        PLAN_FILE,
        f"{PLAN_FILE} was made from another job or by another version; plan again.",
    )


def _refuse_moved(before: PlanSource, now: PlanSource) -> None:
    """Headers may be the same where weights are not; a commit or an ETag tells."""
    if before.revision != now.revision:
        raise RefusedInput(
            Reason.SourceChanged,
            now.uri,
            f"`{now.uri}` is at {_short(now.revision)}, and was planned with at "
            f"{_short(before.revision)}: somebody wrote to it since; plan again, and name what "
            "stays as it is (on the Hub a commit, in a bucket a prefix that nobody writes to).",
        )


def _short(revision: str | None) -> str:
    return "no known revision" if revision is None else f"the revision {revision[:12]}"


# Each takes the work directory and what an earlier stage handed on, and hands on something itself.
STAGES: Final[dict[str, Callable[[Path, str], str]]] = {
    "plan": plan,
    "calibrate": calibrate,
    "quantize": quantize,
    "validate": validate,
    "publish": publish,
}
