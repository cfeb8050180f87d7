"""What opens publishing: a report of this checkpoint, with a verdict that passed, not edited since.

Called by the stage before anything is prepared or uploaded. What documents must say of each other
is also asked by `prepare` and `verify`.
"""

from pathlib import Path
from typing import Final, NamedTuple

from pydantic import ValidationError

from halftone.checkpoint.digests import checkpoint_digest
from halftone.spec.documents import CheckpointDocument, Method, Plan, sha256_hex
from halftone.spec.errors import CheckFailed, RefusedInput
from halftone.spec.gates import ENGINE_METRICS, Metric
from halftone.spec.names import CHECKPOINT_FILE, PLAN_FILE, REPORT_FILE, Reason
from halftone.spec.reports import PUBLISHABLE, Outcome, Report, Verdict

# Gates that run unasked, whatever a job lists.
_UNASKED: Final = (Metric.Structure, Metric.WeightError)


class Disagreement(NamedTuple):
    """A document that does not belong to the others, and in which way."""

    subject: str
    how: str


def require_publishable(
    path: Path, handed_over: str, plan: Plan, checkpoint: CheckpointDocument
) -> Report:
    """The report at `path`, if it opens publishing for `checkpoint`; else CheckFailed.

    `handed_over` is the report digest that whoever ran the gates gives. Reasons: VerdictNotPassed
    for no report, one of another checkpoint, and any verdict that opens nothing; ReportChanged for
    another report than that one. Documents that do not belong together raise RefusedInput.
    """
    data = _read(path)
    _require_handed_over(sha256_hex(data), handed_over)
    try:
        report = Report.model_validate_json(data)
    except ValidationError as error:
        raise _shut("it is not a report of this version") from error
    if report.checkpointDigest != checkpoint.digest:
        raise _shut(
            f"it is about another checkpoint ({report.checkpointDigest[:12]}, this one is "
            f"{checkpoint.digest[:12]})"
        )
    contradiction = contradicted_verdict(report)
    if report.verdict not in PUBLISHABLE or contradiction is not None:
        verdict = f"its verdict is {report.verdict} ({report.message.rstrip('.')})"
        raise _shut(contradiction or verdict)
    require_agreement(plan, checkpoint, report)
    return report


def contradicted_verdict(report: Report) -> str | None:
    """Why a verdict that opens publishing cannot be that of the report's own gates; else None."""
    if report.verdict not in PUBLISHABLE:
        return None
    for gate in report.gates:
        if gate.outcome is not Outcome.Passed:
            return f"the gate '{gate.name}' is {gate.outcome}, the verdict {report.verdict}"
    metrics = {gate.metric for gate in report.gates}
    for metric in _UNASKED:
        if metric not in metrics:
            return f"it holds no result of {metric}, which runs unasked"
    served = not metrics.isdisjoint(ENGINE_METRICS)
    emulated = report.platform is None or report.platform.emulated
    if report.verdict is Verdict.Passed and served and emulated:
        return "engine gates ran without the target GPU, and the verdict is Passed"
    return None


def first_disagreement(
    plan: Plan, checkpoint: CheckpointDocument, report: Report
) -> Disagreement | None:
    """The first document that does not belong to the one before it; None when all agree."""
    if plan.compute_digest() != plan.digest:
        return Disagreement(PLAN_FILE, "its content does not have the digest that it states")
    if checkpoint.planDigest != plan.digest:
        return Disagreement(CHECKPOINT_FILE, f"it was made from another {PLAN_FILE}")
    if (plan.method is Method.Calibrated) is (checkpoint.statisticsDigest is None):
        states = "no" if checkpoint.statisticsDigest is None else "some"
        return Disagreement(CHECKPOINT_FILE, f"it states {states} statistics, unlike {PLAN_FILE}")
    if checkpoint_digest(checkpoint.files) != checkpoint.digest:
        return Disagreement(CHECKPOINT_FILE, "its files do not have the digest that it states")
    if report.planDigest != plan.digest:
        return Disagreement(REPORT_FILE, f"it is about another {PLAN_FILE}")
    if report.checkpointDigest != checkpoint.digest:
        return Disagreement(REPORT_FILE, f"it is about another {CHECKPOINT_FILE}")
    if report.checkpointDocumentSha256 != sha256_hex(checkpoint.to_bytes()):
        return Disagreement(CHECKPOINT_FILE, "it was edited after the gates had read it")
    return None


def require_agreement(plan: Plan, checkpoint: CheckpointDocument, report: Report) -> None:
    """Raise RefusedInput(WorkdirInconsistent) unless the documents belong together."""
    found = first_disagreement(plan, checkpoint, report)
    if found is not None:
        raise RefusedInput(
            Reason.WorkdirInconsistent,
            found.subject,
            f"{found.subject} does not belong to the documents beside it ({found.how}); run the "
            "stages again in a new work directory.",
        )


def _read(path: Path) -> bytes:
    """The report as it lies there: digest and content come from one reading."""
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise _shut("it is not there") from error
    except OSError as error:
        raise _shut(f"it cannot be read ({error.strerror})") from error


def _require_handed_over(found: str, handed_over: str) -> None:
    if not handed_over.strip():
        raise CheckFailed(
            Reason.ReportChanged,
            "--report-digest",
            "No report digest was handed over, so nothing is published; give `--report-digest` "
            "what `halftone validate` printed.",
        )
    if found != handed_over.strip().lower():
        raise CheckFailed(
            Reason.ReportChanged,
            REPORT_FILE,
            f"{REPORT_FILE} has the digest {found[:12]}, not {handed_over[:12]} as handed over, so "
            "nothing is published: it was edited or replaced; run `halftone validate` and use the "
            "digest that it prints.",
        )


def _shut(why: str) -> CheckFailed:
    return CheckFailed(
        Reason.VerdictNotPassed,
        REPORT_FILE,
        f"{REPORT_FILE} does not open publishing: {why}; mend the cause, run `halftone validate`, "
        "and publish once it passes.",
    )
