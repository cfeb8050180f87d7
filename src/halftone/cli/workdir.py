"""The job of a work directory: put there once, with its paths made absolute, and read by stages.

WORKDIR/job.json  plan.json  statistics.json  statistics.safetensors  checkpoint/  checkpoint.json
        report.json  report.html  evidence/  artifact/  artifact.json
"""

import json
from pathlib import Path
from typing import Final

from halftone.spec.documents import write_atomically
from halftone.spec.errors import RefusedInput
from halftone.spec.gates import Gate, Metric
from halftone.spec.job import QuantizationJob, Source
from halftone.spec.names import (
    CHECKPOINT_DIRECTORY,
    CHECKPOINT_FILE,
    JOB_FILE,
    Reason,
)
from halftone.spec.recipes import anchored_data, cleared_fields, parse_job, read_yaml
from halftone.spec.targets import Publish
from halftone.validate.local_tasks import is_local

# Once one of these is there, another job in the same directory would mix with it.
_WORK: Final = (CHECKPOINT_FILE, CHECKPOINT_DIRECTORY, f".{CHECKPOINT_DIRECTORY}.partial")


def write_job(job_file: Path, workdir: Path) -> QuantizationJob:
    """Read a job and put it into `workdir` with its relative paths made absolute.

    Gates and target may change between runs; source and recipe may not once there is work of them.
    Raises RefusedInput when the work directory holds work of another job.
    """
    job = anchored(parse_job(read_yaml(job_file), str(job_file)), job_file.absolute().parent)
    put_job(job, workdir, str(job_file))
    return job


def put_job(job: QuantizationJob, workdir: Path, named: str = "the job") -> None:
    """Put `job`, whose paths are absolute and which messages call `named`, into `workdir`.

    Raises as `write_job`.
    """
    _refuse_inside_source(job, workdir)
    path = workdir / JOB_FILE
    document = job.model_dump(mode="json", exclude_none=True)
    document["spec"]["quantization"] |= dict.fromkeys(cleared_fields(job.spec.quantization))
    data = json.dumps(document, indent=2).encode() + b"\n"
    begun = any((workdir / name).exists() for name in _WORK)
    if begun and path.is_file() and _makes_other_bytes(read_job(workdir), job):
        raise RefusedInput(
            Reason.WorkdirInconsistent,
            str(path),
            f"'{workdir}' belongs to another job, or the source or recipe of '{named}' was "
            "edited since; choose another work directory or remove that one.",
        )
    write_atomically(path, data)


def _makes_other_bytes(earlier: QuantizationJob, job: QuantizationJob) -> bool:
    """Whether what lies in the work directory was made for another source or recipe."""
    before, now = earlier.spec, job.spec
    return (before.source, before.quantization, earlier.metadata.name) != (
        now.source,
        now.quantization,
        job.metadata.name,
    )


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


def anchored(job: QuantizationJob, folder: Path) -> QuantizationJob:
    """`job` with its paths relative to `folder`, where the job's file lies."""
    spec = job.spec
    directory = spec.source.directory
    if directory is not None:
        moved = directory.model_copy(update={"path": str((folder / directory.path).resolve())})
        spec = spec.model_copy(update={"source": Source(directory=moved)})
    validation = spec.validation
    prompts = validation.promptFile
    update = {
        "gates": tuple(_anchored_gate(gate, folder) for gate in validation.gates),
        "promptFile": None if prompts is None else str((folder / prompts).resolve()),
    }
    spec = spec.model_copy(update={"validation": validation.model_copy(update=update)})
    spec = spec.model_copy(update={"quantization": anchored_data(spec.quantization, folder)})
    if spec.publish is not None:
        spec = spec.model_copy(update={"publish": _anchored_target(spec.publish, folder)})
    return job.model_copy(update={"spec": spec})


def _anchored_gate(gate: Gate, folder: Path) -> Gate:
    if gate.metric is not Metric.Task or not is_local(gate.task):
        return gate
    return gate.model_copy(update={"task": str((folder / gate.task).resolve())})


def _anchored_target(publish: Publish, folder: Path) -> Publish:
    update: dict[str, object] = {}
    if publish.directory is not None:
        path = str((folder / publish.directory.path).resolve())
        update["directory"] = publish.directory.model_copy(update={"path": path})
    if publish.signingKeyRef is not None and publish.signingKeyRef.path is not None:
        path = str((folder / publish.signingKeyRef.path).resolve())
        update["signingKeyRef"] = publish.signingKeyRef.model_copy(update={"path": path})
    return publish.model_copy(update=update)


def _refuse_inside_source(job: QuantizationJob, workdir: Path) -> None:
    """What is written into a source becomes part of it, and the next plan differs."""
    if job.spec.source.directory is None:
        return
    source = Path(job.spec.source.directory.path).resolve()
    places = {"the work directory": workdir.resolve()}
    if job.spec.publish is not None and job.spec.publish.directory is not None:
        places["`publish.directory.path`"] = Path(job.spec.publish.directory.path).resolve()
    for name, place in places.items():
        if place.is_relative_to(source):
            raise RefusedInput(
                Reason.InvalidJob,
                str(place),
                f"{name[0].upper()}{name[1:]} '{place}' may not lie in the source '{source}'; "
                "choose a directory beside it.",
            )
