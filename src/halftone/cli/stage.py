"""`halftone stage`: one stage of a work directory; what every runner calls."""

from pathlib import Path

import click

from halftone.cli.pod_stages import POD_STAGES, Order, run_in_pod
from halftone.cli.stages import STAGES
from halftone.cli.validating import load_report, require_passed
from halftone.cli.workdir import write_job


@click.command()
@click.argument("name", type=click.Choice(POD_STAGES))
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
@click.option(
    "--result",
    type=click.Path(dir_okay=False, path_type=Path),
    help="In a pod: write to this file how the stage ended. The job comes from HALFTONE_JOB.",
)
@click.option("--plan-digest", default="", metavar="SHA256", help="In a pod: of which plan.")
@click.option(
    "--checkpoint-digest", default="", metavar="SHA256", help="For `validate`: of which checkpoint."
)
@click.option("--worker", default=0, type=click.IntRange(0), help="In a pod: which part.")
@click.option("--workers", default=1, type=click.IntRange(1), help="In a pod: of how many.")
@click.option("--without-target", is_flag=True, help="For `plan`: ask nothing of the target.")
@click.option("--pipeline", is_flag=True, help="In a pipeline: expect that stages were cached.")
@click.option(
    "--source-digest", default="", metavar="SHA256", help="For `plan`: what `resolve` found."
)
@click.option("--device", default="", help="In a pipeline: what gates run on.")
@click.option("--engine", default="", help="In a pipeline: what gates run with.")
def stage(
    name: str,
    workdir: Path,
    job: Path | None,
    report_digest: str,
    report_only: bool,
    result: Path | None,
    plan_digest: str,
    checkpoint_digest: str,
    worker: int,
    workers: int,
    without_target: bool,
    pipeline: bool,
    source_digest: str,
    device: str,
    engine: str,
) -> None:
    """Run stage NAME on the documents in --workdir. Safe to repeat.

    `validate` prints the report digest, and exits 1 unless the verdict opens publishing; `publish`
    wants that digest back.
    """
    if worker >= workers:
        raise click.UsageError(f"`--worker` {worker} is not one of {workers}, counted from 0")
    if result is not None:
        order = Order(
            name,
            workdir,
            plan_digest,
            report_digest,
            worker,
            workers,
            without_target,
            pipeline,
            source_digest,
            device,
            engine,
            checkpoint_digest,
        )
        run_in_pod(order, result)
        return
    if name not in STAGES:
        raise click.UsageError(f"`{name}` is a stage of pods, which have `--result`")
    if job is not None:
        write_job(job, workdir)
    handed_on = STAGES[name](workdir, report_digest)
    if handed_on:
        click.echo(handed_on)
    if name == "validate" and not report_only:
        require_passed(load_report(workdir, handed_on))
