"""`halftone run`: a whole job in this process, resuming where it was stopped."""

from pathlib import Path

import click

from halftone.cli.plan_text import print_plan, size_text
from halftone.cli.stages import STAGES, write_job
from halftone.spec.documents import Artifact, CheckpointDocument, Plan
from halftone.spec.names import ARTIFACT_FILE, CHECKPOINT_FILE, PLAN_FILE


@click.command()
@click.argument("job", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--workdir", type=click.Path(file_okay=False, path_type=Path), required=True)
def run(job: Path, workdir: Path) -> None:
    """Carry the QuantizationJob in JOB.yaml from source to artifact.

    Documents and the checkpoint go to --workdir; run it again to go on after an interruption.
    """
    write_job(job, workdir)
    for name, stage in STAGES.items():
        click.echo(f"halftone: {name}", err=True)
        stage(workdir)
        if name == "plan":
            print_plan(Plan.load(workdir / PLAN_FILE))
    document = CheckpointDocument.load(workdir / CHECKPOINT_FILE)
    for line in document.roles:
        click.echo(f"{line.role}: {line.format}, relative error {line.relativeError}")
    size = sum(file.sizeBytes for file in document.files)
    click.echo(f"no defects found in {len(document.files)} files, {size_text(size)}")
    if (workdir / ARTIFACT_FILE).is_file():
        artifact = Artifact.load(workdir / ARTIFACT_FILE)
        click.echo(f"published {artifact.uri}, digest {artifact.checkpointDigest}")
