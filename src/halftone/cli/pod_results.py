"""What a stage in a pod says when it ends: the facts of its documents, or why it failed.

Called by `pod_stages`. The operator learns nothing else of a stage, so every way in which one can
end has a sentence here; a secret that a library repeats is struck out.
"""

import errno
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import click

from halftone.spec.artifacts import Artifact
from halftone.spec.documents import CheckpointDocument, Plan
from halftone.spec.errors import EnvironmentFault, HalftoneError
from halftone.spec.names import (
    ARTIFACT_FILE,
    CHECKPOINT_FILE,
    PLAN_FILE,
    REPORT_FILE,
    STATISTICS_FILE,
    Reason,
)
from halftone.spec.reports import Report
from halftone.spec.stage_results import (
    ArtifactFacts,
    CheckpointFacts,
    Failure,
    GateFacts,
    PlanFacts,
    ReportFacts,
    StageResult,
)
from halftone.spec.statistics import StatisticsDocument
from halftone.stores.credentials import without_secrets

# A field, file or tensor; paths may be longer than a termination message.
_SUBJECT: Final = 256
_KEPT: Final[Mapping[str, str]] = {
    "quantize": "finished shards are kept, and the next pod goes on with them",
    "calibrate": "measured layers are kept where a volume carries the work",
    "publish": "what was uploaded is kept, and the next pod goes on with it",
}


def facts(stage: str, folder: Path, *, of_all: bool = False) -> StageResult:
    """What the documents in the work directory `folder` say, as far as `stage` wrote them.

    With `of_all` those of earlier stages too.
    """
    found: dict[str, object] = {"stage": stage}
    if (of_all or stage == "plan") and (folder / PLAN_FILE).is_file():
        found["plan"] = _plan_facts(Plan.load(folder / PLAN_FILE))
    if (of_all or stage == "calibrate") and (folder / STATISTICS_FILE).is_file():
        found["statisticsDigest"] = StatisticsDocument.load(folder / STATISTICS_FILE).digest
    if (of_all or stage in ("quantize", "assemble")) and (folder / CHECKPOINT_FILE).is_file():
        document = CheckpointDocument.load(folder / CHECKPOINT_FILE)
        size = sum(file.sizeBytes for file in document.files)
        found["checkpoint"] = CheckpointFacts(digest=document.digest, sizeBytes=size)
    if (of_all or stage == "validate") and (folder / REPORT_FILE).is_file():
        found["report"] = _report_facts(Report.load(folder / REPORT_FILE))
    if stage == "publish" and (folder / ARTIFACT_FILE).is_file():
        artifact = Artifact.load(folder / ARTIFACT_FILE)
        found["artifact"] = ArtifactFacts(
            uri=artifact.uri,
            revision=artifact.revision,
            digest=artifact.checkpointDigest,
            sizeBytes=artifact.sizeBytes,
        )
    return StageResult.model_validate(found)


def failed(stage: str, folder: Path, error: BaseException, *, of_all: bool = False) -> StageResult:
    """How `stage` ended that raised `error`, with the facts that it had found before.

    Facts that cannot be read are none: what raised `error` may have left anything behind.
    """
    try:
        found = facts(stage, folder, of_all=of_all)
    except Exception:
        found = StageResult(stage=stage)
    reason, subject, message = _told(stage, error)
    failure = Failure(
        reason=reason,
        subject=_plain(without_secrets(subject))[:_SUBJECT],
        message=_plain(without_secrets(message)),
    )
    return found.model_copy(update={"failure": failure})


def foreseen(stage: str, error: Exception) -> Exception:
    """`error`, or what to raise in its place: where it repeats a secret, the same without it; for
    one that nobody foresaw a sentence, once the log has all of it.

    Python's own exit code for those says that a check failed; a bug or a broken library did not
    check anything, and another try may help.
    """
    if isinstance(error, HalftoneError | OSError):
        reason, subject, message = _told(stage, error)
        plain = without_secrets(subject), without_secrets(message)
        kind = type(error) if isinstance(error, HalftoneError) else EnvironmentFault
        return error if plain == (subject, message) else kind(reason, *plain)
    if isinstance(error, ModuleNotFoundError | click.ClickException):
        return error
    if isinstance(error, click.exceptions.Exit):
        return error
    lines = traceback.format_exception(error)
    click.echo(without_secrets("".join(lines)).rstrip(), err=True)
    return EnvironmentFault(*_told(stage, error))


def _told(stage: str, error: BaseException) -> tuple[Reason, str, str]:
    """Reason, subject and sentence."""
    if isinstance(error, HalftoneError):
        return error.reason, error.subject, error.message
    if isinstance(error, KeyboardInterrupt):
        kept = _KEPT.get(stage, "nothing half-written stays")
        return (
            Reason.Interrupted,
            stage,
            f"The stage `{stage}` was told to end before it was done; {kept}.",
        )
    if isinstance(error, MemoryError):
        return (
            Reason.TooLittleMemory,
            stage,
            f"The stage `{stage}` got no more memory; raise `resources.limits.memory` of that "
            "stage in `spec.stages`.",
        )
    if isinstance(error, ModuleNotFoundError):
        return (
            Reason.MissingDependency,
            str(error.name),
            f"The stage `{stage}` needs '{error.name}', which its image does not have; give the "
            "operator another image for that stage.",
        )
    if isinstance(error, OSError):
        full = error.errno in {errno.ENOSPC, errno.EDQUOT}
        named = f"'{error.filename}': {error.strerror}" if error.filename else str(error)
        return (
            Reason.OutOfSpace if full else Reason.StorageFailed,
            str(error.filename or stage),
            f"The stage `{stage}` failed at {named}; mend this and try again.",
        )
    if isinstance(error, click.exceptions.Exit):
        return (
            Reason.InternalError,
            stage,
            f"The stage `{stage}` ended with exit code {error.exit_code} in the environment that "
            "it needs; the pod's log says why.",
        )
    return (
        Reason.InternalError,
        stage,
        f"The stage `{stage}` failed in a way that nobody foresaw ({type(error).__name__}); the "
        "pod's log has it whole. Please report it, and try again meanwhile.",
    )


def _plain(text: str) -> str:
    """`text` without what UTF-8 cannot say: names of files may hold any byte."""
    return text.encode(errors="replace").decode()


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
