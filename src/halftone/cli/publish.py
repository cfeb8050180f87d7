"""`halftone publish`: what a passed report opens, to where the job says."""

from pathlib import Path

import click

from halftone.cli.stages import STAGES
from halftone.cli.workdir import write_job
from halftone.spec.artifacts import Artifact
from halftone.spec.names import ARTIFACT_FILE


@click.command()
@click.argument("workdir", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--report-digest",
    required=True,
    metavar="SHA256",
    help="The digest that `halftone validate` printed.",
)
@click.option(
    "--job",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Take the target of this QuantizationJob; its source and recipe must be the same.",
)
def publish(workdir: Path, report_digest: str, job: Path | None) -> None:
    """Publish the checkpoint in WORKDIR to its job's target, all or nothing.

    Refused without a report whose verdict passed, whose checkpoint is this one and whose digest is
    the one given. Killed at any moment, the same command goes on.
    """
    if job is not None:
        write_job(job, workdir)
    STAGES["publish"](workdir, report_digest)
    print_published(workdir)


def print_published(workdir: Path) -> None:
    """Say where the artifact of `workdir` is; nothing when its job has no target."""
    path = workdir / ARTIFACT_FILE
    if not path.is_file():
        click.echo("the job has no `publish` block, so nothing was published")
        return
    artifact = Artifact.load(path)
    revision = f" at {artifact.revision}" if artifact.revision else ""
    signed = "signed" if artifact.signature else "unsigned"
    click.echo(
        f"published {artifact.uri}{revision}, {signed}, verdict {artifact.verdict}, "
        f"digest {artifact.checkpointDigest}"
    )
