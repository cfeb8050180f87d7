"""`halftone stage`: one stage of a work directory; what every runner calls."""

from pathlib import Path

import click

from halftone.cli.stages import STAGES, write_job


@click.command()
@click.argument("name", type=click.Choice(list(STAGES)))
@click.option("--workdir", type=click.Path(file_okay=False, path_type=Path), required=True)
@click.option(
    "--job",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Put this QuantizationJob into the work directory first.",
)
def stage(name: str, workdir: Path, job: Path | None) -> None:
    """Run stage NAME on the documents in --workdir. Safe to repeat."""
    if job is not None:
        write_job(job, workdir)
    STAGES[name](workdir)
