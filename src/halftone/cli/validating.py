"""The stage `validate` in this process: gates, evidence, the report and its page."""

from pathlib import Path

import click

from halftone.plan.planning import Planned
from halftone.spec.documents import CheckpointDocument
from halftone.spec.errors import CheckFailed
from halftone.spec.files import FileSource
from halftone.spec.job import QuantizationJob
from halftone.spec.names import REPORT_FILE, Reason
from halftone.spec.reports import PUBLISHABLE, Outcome, Report, Verdict


def validate_workdir(
    workdir: Path,
    job: QuantizationJob,
    planned: Planned,
    document: CheckpointDocument,
    source: FileSource,
    checkpoint: FileSource,
) -> str:
    """Run the job's gates on the checkpoint of `workdir`; return the report digest."""
    from halftone.validate.validating import Subject, validate

    subject = Subject(
        workdir=workdir.absolute(),
        validation=job.spec.validation,
        planned=planned,
        document=document,
        source=source,
        checkpoint=checkpoint,
    )
    return validate(subject, lambda line: click.echo(f"halftone: {line}", err=True)).digest


def load_report(workdir: Path, digest: str) -> Report:
    """The report of `workdir`, which must be the one with `digest`.

    Raises CheckFailed(ReportChanged) for any other.
    """
    report = Report.load(workdir / REPORT_FILE)
    if report.digest != digest:
        raise CheckFailed(
            Reason.ReportChanged,
            REPORT_FILE,
            f"'{workdir / REPORT_FILE}' is not the report that the gates just wrote; something "
            "changed it. Run `halftone validate` again.",
        )
    return report


def require_passed(report: Report) -> None:
    """Raise CheckFailed with what the first gate that did not pass says."""
    if report.verdict in PUBLISHABLE:
        return
    wanted = Outcome.Failed if report.verdict is Verdict.Failed else Outcome.Inconclusive
    gate = next(gate for gate in report.gates if gate.outcome is wanted)
    failed = report.verdict is Verdict.Failed
    raise CheckFailed(
        Reason.GateFailed if failed else Reason.GateInconclusive,
        gate.culprit or gate.name,
        f"Gate '{gate.name}' {'failed' if failed else 'decides nothing'}, so nothing is "
        f"published: {gate.message}",
    )
