"""`halftone logs`: what the pods of a job say, stage after stage."""

import click

from halftone.cli.cluster_options import cluster_options
from halftone.spec.cluster import JOB_LABEL, STAGE_LABEL, ChildStage
from halftone.spec.errors import RefusedInput
from halftone.spec.names import Reason


@click.command()
@click.argument("name")
@click.option("--stage", type=click.Choice([str(one) for one in ChildStage]), help="Only this one.")
@click.option("--follow", "-f", is_flag=True, help="Go on with the newest pod as it speaks.")
@cluster_options
def logs(
    name: str,
    stage: str | None,
    follow: bool,
    namespace: str | None,
    kubeconfig: str | None,
    context: str | None,
) -> None:
    """Print the logs of the pods of the QuantizationJob NAME, the oldest pod first."""
    from halftone.cli.cluster import run

    if not run(_logs(name, stage, follow, namespace, kubeconfig, context)):
        raise RefusedInput(
            Reason.InvalidJob,
            name,
            f"'{name}' has no pod{f' of the stage {stage}' if stage else ''}; `kubectl describe qj "
            f"{name}` says what it waits for.",
        )


async def _logs(
    name: str,
    stage: str | None,
    follow: bool,
    namespace: str | None,
    kubeconfig: str | None,
    context: str | None,
) -> bool:
    from halftone.cli.cluster import connected

    selector = f"{JOB_LABEL}={name}" + (f",{STAGE_LABEL}={stage}" if stage else "")
    async with connected(namespace, kubeconfig, context) as cluster:
        pods = await cluster.pods(selector)
        begun = [pod for pod in pods if pod["status"].get("phase") != "Pending"]
        for pod in begun:
            title = f"{pod['metadata']['labels'][STAGE_LABEL]} ({pod['metadata']['name']})"
            click.echo(click.style(title, bold=True), err=True)
            newest = pod is begun[-1]
            async for line in cluster.log(pod["metadata"]["name"], follow=follow and newest):
                click.echo(line)
        return bool(begun)
