"""`halftone validate`: the gates of a work directory's job, and their verdict."""

from pathlib import Path

import click

from halftone.cli.stages import STAGES
from halftone.cli.validating import load_report, require_passed
from halftone.cli.workdir import write_job


@click.command()
@click.argument("workdir", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--job",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Take the gates of this QuantizationJob; its source and recipe must be the same.",
)
@click.option("--json", "as_json", is_flag=True, help="Print report.json.")
def validate(workdir: Path, job: Path | None, as_json: bool) -> None:
    """Run the gates on the checkpoint in WORKDIR and write its report.

    Prints the report digest, which `halftone publish WORKDIR --report-digest` wants. Exits 0 for
    the verdicts Passed, Emulated and Unmeasured, 1 for Inconclusive and Failed.
    """
    from halftone.cli.report_text import print_report

    if job is not None:
        write_job(job, workdir)
    digest = STAGES["validate"](workdir, "")
    report = load_report(workdir, digest)
    if as_json:
        click.echo(report.to_bytes().decode(), nl=False)
    else:
        print_report(report, workdir)
    require_passed(report)
