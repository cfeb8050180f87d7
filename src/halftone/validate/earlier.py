"""Whether the report that lies in a work directory still says what gates would say now.

Called by `halftone.validate.validating`, because gates cost hours on a GPU and every stage may be
repeated. A report is taken again only where nothing that decided it has changed: checkpoint, plan,
gates and what they read, evidence, our version, and for engine gates vLLM and the device.
"""

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Final

from halftone import __version__
from halftone.spec.documents import canonical_json, sha256_hex
from halftone.spec.errors import RefusedInput
from halftone.spec.files import FileSource
from halftone.spec.gates import Metric, Validation
from halftone.spec.names import REPORT_FILE, REPORT_PAGE
from halftone.spec.reports import Platform, Report
from halftone.validate.local_tasks import is_local, read_local_task

if TYPE_CHECKING:
    from halftone.validate.validating import Subject

# Where the NVIDIA driver tells of its devices, without a library.
_DEVICES: Final = Path("/proc/driver/nvidia/gpus")


def gates_digest(validation: Validation) -> str:
    """Digest of the `validation` block and of the files that it names."""
    tasks = [g.task for g in validation.gates if g.metric is Metric.Task and is_local(g.task)]
    paths = {path for task in tasks for path in read_local_task(Path(task)).files}
    if validation.promptFile is not None:
        paths.add(Path(validation.promptFile))
    files = {str(path): sha256_hex(path.read_bytes()) for path in paths if path.is_file()}
    block = validation.model_dump(mode="json", exclude_none=True)
    return sha256_hex(canonical_json({"validation": block, "files": files}))


def earlier_report(subject: "Subject") -> Report | None:
    """The report in the work directory, if gates would be run on the same things again."""
    path = subject.workdir / REPORT_FILE
    if not path.is_file() or not (subject.workdir / REPORT_PAGE).is_file():
        return None
    try:
        report = Report.load(path)
    except RefusedInput:  # of another version, or damaged: made anew
        return None
    found = (
        report.planDigest,
        report.checkpointDocumentSha256,
        report.gatesDigest,
        report.halftoneVersion,
    )
    wanted = (
        subject.planned.plan.digest,
        sha256_hex(subject.document.to_bytes()),
        gates_digest(subject.validation),
        __version__,
    )
    same = (
        found == wanted
        and _is_newer(path, subject.checkpoint, subject.source)
        and (not subject.validation.needs_engine or _is_here(report.platform))
        and _evidence_is_whole(subject.workdir, report)
    )
    return report if same else None


def _is_newer(report: Path, *sources: FileSource) -> bool:
    """Whether no file was written since: a checkpoint that was damaged, or mended, has a digest
    on paper that stays the same.
    """
    files = [source.local_path(entry.path) for source in sources for entry in source.files()]
    stamps = [file.stat().st_mtime_ns for file in files if file is not None]
    return max(stamps, default=0) <= report.stat().st_mtime_ns


def _is_here(platform: Platform | None) -> bool:
    """Whether the engine gates ran where we are; those that found no engine always run again."""
    try:
        engine = f"vllm {version('vllm')}"
    except PackageNotFoundError:
        return False
    return platform is not None and platform.engine == engine and is_on_this_device(platform)


def is_on_this_device(platform: Platform | None) -> bool:
    """Whether the engine gates ran on a device as this machine has one, or on none."""
    return platform is not None and (platform.emulated or platform.device in gpu_names())


def gpu_names() -> set[str]:
    """Names of the GPUs of this machine; empty where the driver does not tell."""
    told = [path.read_text() for path in _DEVICES.glob("*/information")]
    rows = [line.partition(":") for text in told for line in text.splitlines()]
    return {value.strip() for name, _, value in rows if name == "Model"}


def _evidence_is_whole(workdir: Path, report: Report) -> bool:
    for file in report.evidence:
        path = workdir / file.path
        if not path.is_file() or sha256_hex(path.read_bytes()) != file.sha256:
            return False
    return True
