"""The stages: one function each, from the documents in a work directory to the next document.

`halftone run` calls them one after the other, `halftone stage NAME` calls one; a Kubernetes Job or
a pipeline step does the same. Every retry is safe: `plan` always looks at the source again;
`quantize` proves by SHA-256 the checkpoint that it finds; `inspect` and `publish` do nothing more
where their document states the digest of the checkpoint that lies there.

    WORKDIR/job.json  plan.json  checkpoint/  checkpoint.json  inspection.json  artifact.json
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from halftone.cli.opening import opened, opened_checkpoint
from halftone.cli.progress import progress
from halftone.cli.quantize import bytes_to_read, default_workers
from halftone.plan.changes import changed_file
from halftone.plan.planning import Planned, plan_checkpoint
from halftone.spec.documents import CheckpointDocument, Plan, write_atomically
from halftone.spec.errors import CheckFailed, RefusedInput
from halftone.spec.job import QuantizationJob, Source
from halftone.spec.names import (
    ARTIFACT_FILE,
    CHECKPOINT_DIRECTORY,
    CHECKPOINT_FILE,
    INSPECTION_FILE,
    JOB_FILE,
    PLAN_FILE,
    Reason,
)
from halftone.spec.recipes import cleared_fields, parse_job, read_yaml, resolve

if TYPE_CHECKING:
    from halftone.validate.findings import Inspection

# Once one of these is there, another job in the same directory would mix with it.
_WORK: Final = (CHECKPOINT_FILE, CHECKPOINT_DIRECTORY, f".{CHECKPOINT_DIRECTORY}.partial")


def write_job(job_file: Path, workdir: Path) -> QuantizationJob:
    """Read a job and put it into `workdir` with its relative paths made absolute.

    Raises RefusedInput when the work directory holds work of another job.
    """
    job = anchored(parse_job(read_yaml(job_file), str(job_file)), job_file.absolute().parent)
    _refuse_inside_source(job, workdir)
    path = workdir / JOB_FILE
    document = job.model_dump(mode="json", exclude_none=True)
    document["spec"]["quantization"] |= dict.fromkeys(cleared_fields(job.spec.quantization))
    data = json.dumps(document, indent=2).encode() + b"\n"
    begun = any((workdir / name).exists() for name in _WORK)
    if begun and path.is_file() and path.read_bytes() != data:
        raise RefusedInput(
            Reason.WorkdirInconsistent,
            str(path),
            f"'{workdir}' belongs to another job, or '{job_file}' was edited since; "
            "choose another work directory or remove that one.",
        )
    write_atomically(path, data)
    return job


def _refuse_inside_source(job: QuantizationJob, workdir: Path) -> None:
    """What is written into a source becomes part of it, and the next plan differs."""
    if job.spec.source.directory is None:
        return
    source = Path(job.spec.source.directory.path).resolve()
    places = {"the work directory": workdir.resolve()}
    if job.spec.publish is not None:
        places["`publish.directory.path`"] = Path(job.spec.publish.directory.path).resolve()
    for name, place in places.items():
        if place.is_relative_to(source):
            raise RefusedInput(
                Reason.InvalidJob,
                str(place),
                f"{name[0].upper()}{name[1:]} '{place}' may not lie in the source '{source}'; "
                "choose a directory beside it.",
            )


def anchored(job: QuantizationJob, folder: Path) -> QuantizationJob:
    """`job` with its directories relative to `folder`, where the job's file lies."""
    spec = job.spec
    directory = spec.source.directory
    if directory is not None:
        moved = directory.model_copy(update={"path": str((folder / directory.path).resolve())})
        spec = spec.model_copy(update={"source": Source(directory=moved)})
    if spec.publish is not None:
        target = spec.publish.directory
        moved_target = target.model_copy(update={"path": str((folder / target.path).resolve())})
        spec = spec.model_copy(
            update={"publish": spec.publish.model_copy(update={"directory": moved_target})}
        )
    return job.model_copy(update={"spec": spec})


def read_job(workdir: Path) -> QuantizationJob:
    """The job of a work directory."""
    path = workdir / JOB_FILE
    if not path.is_file():
        raise RefusedInput(
            Reason.WorkdirInconsistent,
            str(path),
            f"'{workdir}' has no {JOB_FILE}; start with `halftone stage plan --job JOB.yaml`.",
        )
    return parse_job(read_yaml(path), str(path))


def plan(workdir: Path) -> None:
    """Write `plan.json`; a refused plan is written too, then raised.

    A plan whose artifact could not be published is refused before it is written.
    """
    from halftone.publish.directory import refuse_taken

    job = read_job(workdir)
    with opened_checkpoint(job.spec.source) as checkpoint:
        planned = plan_checkpoint(checkpoint, resolve(job.spec.quantization, job.metadata.name))
    refusal = planned.plan.refusal
    if refusal is None and job.spec.publish is not None:
        target = Path(job.spec.publish.directory.path)
        refuse_taken(target, workdir, planned.plan.digest)
    planned.full_document().save(workdir / PLAN_FILE)
    if refusal is not None:
        raise RefusedInput(refusal.reason, refusal.subject, refusal.message)


def quantize(workdir: Path) -> None:
    """Write `checkpoint/` and `checkpoint.json` as `plan.json` says."""
    from halftone.quantize.engine import quantize as carry_out

    job, agreed = read_job(workdir), Plan.load(workdir / PLAN_FILE)
    with opened_checkpoint(job.spec.source) as checkpoint:
        planned = plan_checkpoint(checkpoint, resolve(job.spec.quantization, job.metadata.name))
        _require_same(agreed, planned)
        with progress("quantize", bytes_to_read(planned)) as shown:
            carry_out(
                planned,
                checkpoint,
                workdir.absolute() / CHECKPOINT_DIRECTORY,
                workers=default_workers(),
                document_path=workdir.absolute() / CHECKPOINT_FILE,
                progress=shown,
            )


def inspect(workdir: Path) -> None:
    """Write `inspection.json`; raise CheckFailed when a defect was found."""
    from halftone.validate.findings import Inspection
    from halftone.validate.inspection import inspect_source

    job, document = read_job(workdir), CheckpointDocument.load(workdir / CHECKPOINT_FILE)
    path = workdir / INSPECTION_FILE
    if path.is_file():
        earlier = Inspection.load(path)
        if earlier.checkpointDigest == document.digest:
            _require_sound(earlier)
            return
    with (
        opened(str(workdir / CHECKPOINT_DIRECTORY)) as checkpoint,
        opened(job.spec.source) as source,
    ):
        found = inspect_source(checkpoint, source)
    inspection = found.model_copy(update={"checkpointDigest": document.digest})
    inspection.save(path)
    _require_sound(inspection)


def _require_sound(inspection: "Inspection") -> None:
    """Raise CheckFailed with the first defect of `inspection`."""
    if inspection.defects:
        raise CheckFailed(
            Reason.DefectsFound,
            inspection.defects[0].tensor,
            f"Defects found ({len(inspection.defects)}), nothing is published; the first: "
            f"{inspection.defects[0].message}",
        )


def publish(workdir: Path) -> None:
    """Publish what `inspect` found no defect in, and write `artifact.json`."""
    from halftone.publish.directory import publish_directory

    job = read_job(workdir)
    document = CheckpointDocument.load(workdir / CHECKPOINT_FILE)
    _require_passed(workdir, document)
    if job.spec.publish is None:
        return
    target = Path(job.spec.publish.directory.path)
    artifact = publish_directory(
        workdir / CHECKPOINT_DIRECTORY, document, workdir / PLAN_FILE, target
    )
    artifact.save(workdir / ARTIFACT_FILE)


def _require_passed(workdir: Path, document: CheckpointDocument) -> None:
    """The checkpoint must be the plan's, and inspected without a defect."""
    from halftone.validate.findings import Inspection

    if Plan.load(workdir / PLAN_FILE).digest != document.planDigest:
        raise RefusedInput(
            Reason.WorkdirInconsistent,
            PLAN_FILE,
            f"{CHECKPOINT_FILE} was not made from the {PLAN_FILE} beside it; use a new work "
            "directory.",
        )
    path = workdir / INSPECTION_FILE
    inspection = Inspection.load(path) if path.is_file() else None
    if inspection is None or inspection.checkpointDigest != document.digest:
        raise RefusedInput(
            Reason.WorkdirInconsistent,
            str(path),
            f"'{workdir}' has no {INSPECTION_FILE} of this checkpoint; run `halftone stage "
            "inspect` first.",
        )
    _require_sound(inspection)


def _require_same(agreed: Plan, planned: Planned) -> None:
    """The plan made now must be the one in the work directory."""
    if agreed.digest == planned.plan.digest:
        return
    path = changed_file(agreed.source, planned.plan.source)
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


STAGES: Final[dict[str, Callable[[Path], None]]] = {
    "plan": plan,
    "quantize": quantize,
    "inspect": inspect,
    "publish": publish,
}
