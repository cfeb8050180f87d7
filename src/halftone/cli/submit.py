"""`halftone submit`: have a job carried out in a cluster, exactly as it was tried on a laptop."""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from halftone.cli.cluster_options import Place, cluster_options, one_namespace
from halftone.control.acceptance import Refusal, claims, first_refusal
from halftone.control.observed import Observed, ObservedClaim
from halftone.control.stages import steps
from halftone.spec.cluster import ChildStage, Condition
from halftone.spec.errors import RefusedInput
from halftone.spec.job import JobSpec, QuantizationJob
from halftone.spec.names import API_VERSION, JOB_KIND, Reason
from halftone.spec.recipes import parse_job, read_yaml

if TYPE_CHECKING:
    from halftone.cli.cluster import Applied, Cluster


@click.command()
@click.argument("job", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--dry-run", is_flag=True, help="Ask whether the job would be taken; change nothing.")
@cluster_options
def submit(job: Path, dry_run: bool, place: Place) -> None:
    """Apply the QuantizationJob in JOB.yaml to a cluster.

    It is checked here first, then by the cluster, whose refusal names the field.
    """
    from halftone.cli.cluster import run

    document = {"apiVersion": API_VERSION, "kind": JOB_KIND, **read_yaml(job)}
    parsed = parse_job(document, str(job))
    place = Place(one_namespace(parsed, place.namespace), place.kubeconfig, place.context)
    _refuse(_judged(parsed, "", {}), job)
    applied = run(_submit(job, document, parsed, dry_run, place))
    for warning in applied.warnings:
        click.echo(f"halftone: warning: {warning}", err=True)
    _tell(parsed, applied, dry_run, place)


async def _submit(
    file: Path, document: Mapping[str, Any], job: QuantizationJob, dry_run: bool, place: Place
) -> "Applied":
    from halftone.cli.cluster import connected

    async with connected(place.namespace, place.kubeconfig, place.context) as cluster:
        refusal = _judged(job, cluster.namespace, await _claims(cluster, job.spec))
        _refuse(refusal, file)
        if refusal is not None:
            click.echo(f"halftone: warning: the job will wait: {refusal.message}", err=True)
        return await cluster.apply(document, dry_run=dry_run)


async def _claims(cluster: "Cluster", spec: JobSpec) -> dict[str, ObservedClaim | None]:
    """What is known of the claims that the job names; hidden ones are left out."""
    from halftone.cli.cluster_access import NotThere

    found: dict[str, ObservedClaim | None] = {}
    for name in set(claims(spec).values()):
        try:
            modes = await cluster.claim_modes(name)
        except NotThere:
            found[name] = None
        else:
            if modes is not None:
                found[name] = ObservedClaim(name, modes)
    return found


def _judged(
    job: QuantizationJob, namespace: str, known: Mapping[str, ObservedClaim | None]
) -> Refusal | None:
    """The operator's own judgement, made before there is anything that it could judge."""
    metadata = {"name": job.metadata.name, "namespace": namespace}
    now = datetime.now(UTC)
    return first_refusal(job.spec, Observed(metadata, {}, {}, now, claims=known))


def _refuse(refusal: Refusal | None, file: Path) -> None:
    if refusal is not None and not refusal.waits:
        said = f"'{file}' cannot run in a cluster as it is: {refusal.message}"
        raise RefusedInput(Reason.InvalidJob, str(file), said)


def _tell(job: QuantizationJob, applied: "Applied", dry_run: bool, place: Place) -> None:
    """What became of the job, or would, and what to do next."""
    from halftone.cli.cluster import Change, status_of

    name, namespace = job.metadata.name, str(applied.found["metadata"]["namespace"])
    whose = f"quantizationjob {namespace}/{name}"
    unchanged = applied.change is Change.Unchanged
    if dry_run:
        would = "would stay as it is" if unchanged else f"would be {applied.change}"
        click.echo(f"{whose} {would}; nothing was changed")
        click.echo(f"its stages: {_stages(job.spec)}")
        return
    click.echo(f"{whose} {'is there already, unchanged' if unchanged else applied.change}")
    summary = status_of(applied.found).condition(Condition.Succeeded)
    if summary is not None:
        click.echo(f"its state: {summary.reason}: {summary.message}")
    again = place.command("halftone", "watch", name, namespace=namespace)
    click.echo(f"watch it with: {again}")


def _stages(spec: JobSpec) -> str:
    """The children that would be made, as far as they are known before there is a plan."""
    found = []
    for step in steps(spec, calibrated=False, workers=spec.parallelism):
        for child in step.children:
            workers = f" (up to {spec.parallelism} pods)" if spec.parallelism > 1 else ""
            found.append(f"{child}{workers if child is ChildStage.Quantize else ''}")
        if step.condition is Condition.Accepted:
            found.append("[calibrate]")
    target = spec.publish.uri if spec.publish else "nowhere, the checkpoint stays in its volume"
    return f"{', '.join(found)}; published to {target}"
