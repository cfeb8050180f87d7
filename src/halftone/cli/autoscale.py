"""`halftone autoscale`: the external controller, for what Ray Serve's own autoscaler does not run.

The options are read here; `scaling.acting` does the work. It runs until SIGTERM or Ctrl-C, and then
gives its Lease back, so that another one acts at once.
"""

from pathlib import Path
from typing import Any, Final

import click

from halftone.cli.autoscale_options import (
    Wishes,
    check,
    connection,
    decider,
    identity,
    lease,
    needs_cluster,
    target,
    unelected,
)
from halftone.cli.lasting import ended, log_to_stderr, told_where
from halftone.cli.numbers import Finite

_FILE: Final = click.Path(exists=True, dir_okay=False, path_type=Path)
# The check of the least says why it is not 0.
_COUNT: Final = click.IntRange(0, 1000)
_PORT: Final = click.IntRange(0, 65_535)
# Of OpenTelemetry's exporter for Prometheus, so that it is nobody else's of ours.
_METRICS_PORT: Final = 9464


@click.command()
@click.option("--prometheus", required=True, metavar="URL", help="Whose answers are read.")
@click.option("--model", required=True, help="The model as it is served.")
@click.option(
    "--selector",
    multiple=True,
    metavar="LABEL=VALUE",
    help="A label that all series have, where several endpoints serve this name.",
)
@click.option("--prometheus-token-file", type=_FILE, help="A bearer token for Prometheus.")
@click.option("--prometheus-ca-file", type=_FILE, help="Certificates to trust.")
@click.option("--card", type=_FILE, help="Its capacity card. [default: replicas say theirs]")
@click.option("--profile", help="A simulated capacity; see `halftone replay --list-profiles`.")
@click.option("--ray", metavar="URL", help="Scale an application of Ray Serve, at its dashboard.")
@click.option("--application", default="halftone", show_default=True, help="Of Ray Serve.")
@click.option(
    "--ray-deployment",
    default="EndpointServer:endpoint",
    show_default=True,
    help="Of that application.",
)
@click.option("--ray-token-file", type=_FILE, help="[default: the variable RAY_AUTH_TOKEN]")
@click.option("--deployment", metavar="NAMESPACE/NAME", help="Scale a Deployment of Kubernetes.")
@click.option("--min", "least", type=_COUNT, default=1, show_default=True, help="Fewest replicas.")
@click.option("--max", "most", type=_COUNT, default=8, show_default=True, help="Most replicas.")
@click.option(
    "--theta",
    type=Finite(0.3, 0.95),
    default=0.9,
    show_default=True,
    help="Share of a replica's time that may be taken: 0.80 safe, 0.95 lean.",
)
@click.option(
    "--lead-seconds",
    type=Finite(min=1),
    help="From the ask until a replica is ready, until that was measured. [default: the card's]",
)
@click.option(
    "--slo-ttft",
    type=Finite(min=0.01),
    default=2.5,
    show_default=True,
    help="Seconds to the first token, beside what its prompt takes at --slo-prompt-rate.",
)
@click.option(
    "--slo-prompt-rate",
    type=Finite(min=1),
    default=4000.0,
    show_default=True,
    help="Tokens of a prompt a second.",
)
@click.option(
    "--slo-itl",
    type=Finite(min=0.001),
    default=0.1,
    show_default=True,
    help="Seconds between later tokens.",
)
@click.option(
    "--scale-in-window",
    type=Finite(1, 3600),
    help="Seconds that a need counts after it has gone. [default: as the lead and the load ask]",
)
@click.option(
    "--interval",
    type=Finite(1, 60),
    default=5.0,
    show_default=True,
    help="Seconds between two looks.",
)
@click.option("--observe-only", is_flag=True, help="Decide and tell, and change nothing.")
@click.option("--metrics-host", default="127.0.0.1", show_default=True, help="Of our metrics.")
@click.option(
    "--metrics-port",
    type=_PORT,
    default=_METRICS_PORT,
    show_default=True,
    help="0 takes a free one, which is printed.",
)
@click.option(
    "--leader-election/--no-leader-election",
    default=True,
    show_default=True,
    help="Of several that scale one target, one acts.",
)
@click.option(
    "--lease", metavar="NAMESPACE/NAME", help="[default: the Deployment's name and '-autoscale']"
)
@click.option("--kubeconfig", type=click.Path(), help="[default: this pod's account, or kubectl's]")
@click.option("--context", help="Of the kubeconfig.")
def autoscale(
    observe_only: bool,
    metrics_host: str,
    metrics_port: int,
    kubeconfig: str | None,
    context: str | None,
    **options: Any,
) -> None:
    """Keep as many replicas as the load needs, of a Ray Serve application or a Deployment.

    An endpoint of the chart does this by itself. A count that somebody else sets stands until it is
    also what is wanted for five minutes.
    """
    from prometheus_client import CollectorRegistry

    from halftone.scaling.acting.api_server import ApiServer
    from halftone.scaling.acting.controlling import Controller
    from halftone.scaling.acting.exporting import metrics_in, served

    wishes = Wishes(**options)
    check(wishes)
    log_to_stderr()
    deciding = decider(wishes)
    me = identity()
    api = ApiServer(connection(kubeconfig, context)) if needs_cluster(wishes) else None
    registry = CollectorRegistry()
    if (told := unelected(wishes)) is not None:
        click.echo(f"halftone: {told}", err=True)
    controller = Controller(
        target(wishes, api, me),
        deciding,
        metrics_in(registry, wishes.model),
        lease(wishes, api, me),
        observe_only=observe_only,
    )
    with ended() as stop, told_where(served(registry, metrics_host, metrics_port), metrics_port):
        controller.run(wishes.interval, stop)
    if api is not None:
        api.close()
