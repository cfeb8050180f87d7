"""What stages do in a pipeline beside what they do in a Job: earlier ones may come from a cache.

Called by `pod_stages`. A cached task says that its work was done once, not that it is still there.
So `resolve` pins the source and the place where work is handed on, of which every cached task is
told; later stages look for what they need; and what is not there any more ends the run with a
sentence, and has the next one begin anew.
"""

import os
from contextlib import closing, suppress
from pathlib import Path
from typing import Final
from uuid import uuid4

from halftone import __version__
from halftone.cli.handing_on import JUDGED, MEASURED, Areas
from halftone.cli.opening import opened
from halftone.cli.validating import load_report, require_passed
from halftone.spec.artifacts import SHORT_DIGEST, Artifact
from halftone.spec.documents import CheckpointDocument, Plan, canonical_json, sha256_hex
from halftone.spec.errors import CheckFailed, EnvironmentFault, HalftoneError, RefusedInput
from halftone.spec.files import FileSource
from halftone.spec.gates import Metric
from halftone.spec.job import QuantizationJob
from halftone.spec.names import (
    ARTIFACT_FILE,
    CHECKPOINT_DIRECTORY,
    CHECKPOINT_FILE,
    PLAN_FILE,
    REPORT_FILE,
    Reason,
)
from halftone.spec.reports import Outcome, Report
from halftone.spec.stage_results import SourceFacts

# Of a volume, as a bucket's work area has one; removed with all else that begins with a dot.
_MARK: Final = ".mark"
# What a lost document makes of the stages that read it, in the words of the libraries below.
_LOST: Final = frozenset({Reason.CalibrationRequired, Reason.StatisticsDiffer})
_READS_STATISTICS: Final = frozenset({"quantize", "assemble", "validate", "publish"})
# What says that something was altered which tasks of this run, or a cache, told of.
_ALTERED: Final = frozenset({Reason.ReportChanged, Reason.DigestDiffers, Reason.VerdictNotPassed})
# Stages that have nothing to do where all of it was done, and the checkpoint was given back.
_MAY_BE_DONE: Final = frozenset({"assemble", "validate", "publish"})


def resolve(job: QuantizationJob, areas: Areas | None, workdir: Path) -> SourceFacts:
    """What this run is pinned to. Nothing is read but listings."""
    from halftone.validate.earlier import gates_digest

    mark = _mark_of(workdir) if areas is None else areas.work.mark()
    # Prompts and tasks of one's own are files, of whose content no cache would know.
    work = f"{mark}-{gates_digest(job.spec.validation)[:SHORT_DIGEST]}"
    with opened(job.spec.source) as source:
        return SourceFacts(revision=source.revision, digest=source_digest(source), work=work)


def require_source(job: QuantizationJob, digest: str) -> None:
    """Raise RefusedInput(SourceChanged) unless the source is the one that was resolved."""
    with opened(job.spec.source) as source:
        found, uri = source_digest(source), source.uri
    if found != digest:
        raise RefusedInput(
            Reason.SourceChanged,
            uri,
            f"`{uri}` is not what it was when this run began: somebody wrote to it since; run the "
            "pipeline again, and name what stays as it is (on the Hub a commit, in a bucket a "
            "prefix that nobody writes to).",
        )


def source_digest(source: FileSource) -> str:
    """Digest of the revision and, file by file, of path, size and where it is local its stamp."""
    rows = [[entry.path, entry.size_bytes, _stamp(source, entry.path)] for entry in source.files()]
    # By its branch when it is resolved, and later by the commit that it was pinned to.
    uri = source.uri.partition("@")[0] if source.uri.startswith("hf://") else source.uri
    return sha256_hex(canonical_json([uri, source.revision, rows]))


def _stamp(source: FileSource, path: str) -> int | None:
    """When a local file was last written, in nanoseconds; None for one that must not be read."""
    with suppress(RefusedInput):
        local = source.local_path(path)
        return None if local is None else local.stat().st_mtime_ns
    return None


def folder_of_gates(job: QuantizationJob, device: str, engine: str) -> str:
    """Where below a work area lies what these gates say on this device and with this engine."""
    validation = job.spec.validation.model_dump(mode="json", exclude_none=True)
    digest = sha256_hex(canonical_json([validation, device, engine]))
    return f"gates-{digest[:SHORT_DIGEST]}"


def is_done(
    stage: str, job: QuantizationJob, areas: Areas, workdir: Path, plan_digest: str
) -> bool:
    """Whether the artifact of this plan was published, as these gates allowed, and `stage` has
    nothing to do; then all documents are in `workdir`.

    Shards are given back when an artifact is published, so without this each later run would
    quantize again.
    """
    if stage not in _MAY_BE_DONE or job.spec.publish is None:
        return False
    names = (*MEASURED, PLAN_FILE, CHECKPOINT_FILE, *JUDGED, ARTIFACT_FILE)
    found = set(areas.pull(workdir, reversed(names)))
    agree = found >= set(names) - set(MEASURED) and _agree(workdir, plan_digest)
    if agree and (stage != "validate" or _still_decides(job, workdir)):
        return True
    # Otherwise the shards of this plan are needed, and whoever says that they are not is wrong.
    (workdir / ARTIFACT_FILE).unlink(missing_ok=True)
    if stage == "validate" and ARTIFACT_FILE in found:
        areas.judged.discard(ARTIFACT_FILE)
    return False


def _agree(workdir: Path, plan_digest: str) -> bool:
    """Whether the documents are about one artifact; those that cannot be read are not."""
    with suppress(RefusedInput):
        artifact = Artifact.load(workdir / ARTIFACT_FILE)
        plans = {Plan.load(workdir / PLAN_FILE).digest, artifact.planDigest, plan_digest}
        checkpoint = CheckpointDocument.load(workdir / CHECKPOINT_FILE)
        report = Report.load(workdir / REPORT_FILE)
        made = {artifact.checkpointDigest, checkpoint.digest, report.checkpointDigest}
        return len(plans) == len(made) == 1
    return False


def _still_decides(job: QuantizationJob, workdir: Path) -> bool:
    """Whether this version, with the files that gates name as they are now and on this device,
    would ask the same.
    """
    from halftone.validate.earlier import gates_digest, is_on_this_device

    report = Report.load(workdir / REPORT_FILE)
    now = (gates_digest(job.spec.validation), __version__)
    here = not job.spec.validation.needs_engine or is_on_this_device(report.platform)
    return here and (report.gatesDigest, report.halftoneVersion) == now


def require_done(
    stage: str, job: QuantizationJob, areas: Areas, workdir: Path, report_digest: str
) -> None:
    """Ask of what `is_done` what the stage itself would ask.

    Raises as the stage does, and EnvironmentFault where readers of the target do not find the
    artifact any more.
    """
    if stage == "assemble":
        return
    report = Report.load(workdir / REPORT_FILE)
    require_passed(load_report(workdir, report_digest) if stage == "publish" else report)
    if stage == "publish":
        _require_there(job, areas, workdir)


def _require_there(job: QuantizationJob, areas: Areas, workdir: Path) -> None:
    from halftone.stores.opening import open_target

    assert job.spec.publish is not None
    artifact = Artifact.load(workdir / ARTIFACT_FILE)
    with closing(open_target(job.spec.publish)) as target:
        there = target.current()
    if there is not None and there.checkpointDigest == artifact.checkpointDigest:
        there.save(workdir / ARTIFACT_FILE)  # as readers find it now
        return
    areas.judged.discard(ARTIFACT_FILE)
    raise EnvironmentFault(
        Reason.WorkdirInconsistent,
        "publish",
        f"`{target.uri}` does not hold the artifact {artifact.checkpointDigest[:SHORT_DIGEST]} any "
        "more, which was published there, and its shards were given back; run the pipeline again, "
        "which writes and publishes it anew.",
    )


def is_gone(stage: str, error: RefusedInput) -> bool:
    """Whether `stage` says of what an earlier task left that it is gone or another."""
    lost = stage in _READS_STATISTICS and error.reason in _LOST
    return lost or error.reason is Reason.WorkdirInconsistent


def begin_anew_after(error: CheckFailed, areas: Areas | None, workdir: Path) -> CheckFailed:
    """What to raise for `error`: where it says that a report or a file was altered, the next run
    takes nothing of it from a cache or the work area, for each would end as this one.
    """
    # A store that is away must not take the place of what a gate says.
    with suppress(HalftoneError):
        if areas is not None and (error.reason is Reason.DigestDiffers or _is_broken(workdir)):
            _forget_altered(areas, workdir)
        if error.reason in _ALTERED:
            _forget_mark(areas, workdir)
            told = "Run the pipeline again, which then takes nothing from the cache."
            return CheckFailed(error.reason, error.subject, f"{error.message} {told}")
    return error


def _is_broken(workdir: Path) -> bool:
    """Whether the gate failed that proves each file of the checkpoint."""
    with suppress(RefusedInput):
        gates = Report.load(workdir / REPORT_FILE).gates
        return any((g.metric, g.outcome) == (Metric.Structure, Outcome.Failed) for g in gates)
    return False


def _forget_altered(areas: Areas, workdir: Path) -> None:
    from halftone.checkpoint.digests import file_sha256

    folder = workdir / CHECKPOINT_DIRECTORY
    for file in CheckpointDocument.load(workdir / CHECKPOINT_FILE).files:
        path = folder / file.path
        if path.is_file() and file_sha256(path) != file.sha256:
            areas.work.forget_shard(file.path)
            areas.judged.discard(REPORT_FILE)  # it is about this one


def _forget_mark(areas: Areas | None, workdir: Path) -> None:
    if areas is None:
        (workdir / _MARK).unlink(missing_ok=True)
    else:
        areas.work.forget_mark()


def gone(error: RefusedInput, areas: Areas | None, workdir: Path) -> EnvironmentFault:
    """What to raise for a document or shard that an earlier task left, and that is not there, or
    is another; the next run takes nothing from a cache.
    """
    _forget_mark(areas, workdir)
    return EnvironmentFault(
        error.reason,
        error.subject,
        f"`{error.subject}`, which an earlier task left, is not there any more or was changed; run "
        "the pipeline again, which then takes nothing from the cache.",
    )


def _mark_of(workdir: Path) -> str:
    """The mark of a volume; of several tasks that leave one, the first one's stays."""
    workdir.mkdir(parents=True, exist_ok=True)
    path = workdir / _MARK
    mine = workdir / f"{_MARK}.{uuid4().hex}"
    mine.write_text(uuid4().hex)
    with suppress(FileExistsError):
        os.link(mine, path)
    mine.unlink()
    return path.read_text()
