"""`halftone stage`: one stage of a work directory; what every runner calls."""

from pathlib import Path

import click

from halftone.cli.stages import STAGES
from halftone.cli.validating import load_report, require_passed
from halftone.cli.workdir import write_job


@click.command()
@click.argument("name", type=click.Choice(list(STAGES)))
@click.option("--workdir", type=click.Path(file_okay=False, path_type=Path), required=True)
@click.option(
    "--job",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Put this QuantizationJob into the work directory first.",
)
@click.option(
    "--report-digest",
    default="",
    metavar="SHA256",
    help="For `publish`: the digest that `validate` printed.",
)
@click.option(
    "--report-only",
    is_flag=True,
    help="For `validate`: exit 0 whatever the verdict; whoever reads the report decides.",
)
def stage(
    name: str, workdir: Path, job: Path | None, report_digest: str, report_only: bool
) -> None:
    """Run stage NAME on the documents in --workdir. Safe to repeat.

    `validate` prints the report digest, and exits 1 unless the verdict opens publishing; `publish`
    wants that digest back.
    """
    if job is not None:
        write_job(job, workdir)
    handed_on = STAGES[name](workdir, report_digest)
    if handed_on:
        click.echo(handed_on)
    if name == "validate" and not report_only:
        require_passed(load_report(workdir, handed_on))
