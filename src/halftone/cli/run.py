"""`halftone run`: a whole job in this process, resuming where it was stopped."""

from pathlib import Path

import click

from halftone.cli.calibrate import print_statistics
from halftone.cli.elsewhere import QUANTIZE, SERVE
from halftone.cli.plan_text import print_plan
from halftone.cli.publish import print_published
from halftone.cli.quantize import print_roles
from halftone.cli.report_text import print_report
from halftone.cli.stages import STAGES
from halftone.cli.validating import load_report, require_passed
from halftone.cli.workdir import write_job
from halftone.spec.documents import CheckpointDocument, Method, Plan
from halftone.spec.gates import Validation
from halftone.spec.names import CHECKPOINT_FILE, PLAN_FILE, STATISTICS_FILE
from halftone.spec.presentation import size_text
from halftone.spec.statistics import StatisticsDocument


@click.command()
@click.argument("job", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--workdir", type=click.Path(file_okay=False, path_type=Path), required=True)
def run(job: Path, workdir: Path) -> None:
    """Carry the QuantizationJob in JOB.yaml from source to artifact.

    Documents and the checkpoint go to --workdir; run it again to go on after an interruption.
    Nothing is published unless every gate passes.
    """
    spec = write_job(job, workdir).spec
    _stage("plan", workdir)
    plan = Plan.load(workdir / PLAN_FILE)
    print_plan(plan)
    _require_environments(plan, spec.validation, workdir)
    if plan.method is Method.Calibrated:
        _stage("calibrate", workdir)
        print_statistics(StatisticsDocument.load(workdir / STATISTICS_FILE))
    _stage("quantize", workdir)
    document = CheckpointDocument.load(workdir / CHECKPOINT_FILE)
    print_roles(document)
    size = sum(file.sizeBytes for file in document.files)
    click.echo(f"{len(document.files)} files, {size_text(size)}, digest {document.digest}")
    # In memory from the gates to the publisher: a report that is edited in between opens nothing.
    digest = _stage("validate", workdir)
    report = load_report(workdir, digest)
    print_report(report, workdir)
    require_passed(report)
    _stage("publish", workdir, digest)
    print_published(workdir)


def _require_environments(plan: Plan, validation: Validation, workdir: Path) -> None:
    """Environments of later stages: that one is missing is not to be told after hours of work.

    Statistics that are there already may come from another machine.

    Raises EnvironmentFault(MissingDependency).
    """
    measured = (workdir / STATISTICS_FILE).exists()
    wanted = {
        QUANTIZE: plan.method is Method.Calibrated and not measured,
        SERVE: validation.needs_engine,
    }
    for environment, is_wanted in wanted.items():
        if is_wanted and not environment.is_here:
            environment.python()


def _stage(name: str, workdir: Path, handed: str = "") -> str:
    click.echo(f"halftone: {name}", err=True)
    return STAGES[name](workdir, handed)
