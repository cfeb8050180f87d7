"""`halftone submit`: have a job carried out in a cluster, exactly as it was tried on a laptop."""

from pathlib import Path
from typing import Any

import click

from halftone.cli.cluster_options import cluster_options
from halftone.spec.recipes import parse_job, read_yaml


@click.command()
@click.argument("job", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--dry-run", is_flag=True, help="Ask the cluster whether it would take the job.")
@cluster_options
def submit(
    job: Path, dry_run: bool, namespace: str | None, kubeconfig: str | None, context: str | None
) -> None:
    """Apply the QuantizationJob in JOB.yaml to a cluster.

    It is checked here first, then by the cluster, whose refusal names the field.
    """
    from halftone.cli.cluster import run

    document = read_yaml(job)
    parsed = parse_job(document, str(job))
    own = namespace or parsed.metadata.namespace
    applied = run(_submit(document, dry_run, own, kubeconfig, context))
    name, place = applied["metadata"]["name"], applied["metadata"]["namespace"]
    if dry_run:
        click.echo(f"{place}/{name} would be taken")
        return
    click.echo(f"{place}/{name} is submitted; `halftone watch {name} -n {place}` shows it")


async def _submit(
    document: dict[str, Any],
    dry_run: bool,
    namespace: str | None,
    kubeconfig: str | None,
    context: str | None,
) -> dict[str, Any]:
    from halftone.cli.cluster import connected

    async with connected(namespace, kubeconfig, context) as cluster:
        document["metadata"].pop("namespace", None)
        return await cluster.apply(document, dry_run=dry_run)
