"""`halftone replay`: ways to scale, ours among them, on a load and a model of replicas."""

import json
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from halftone.cli.numbers import Finite
from halftone.cli.output_files import require_writable, write_whole
from halftone.cli.progress import steps
from halftone.cli.replay_options import (
    PEAK,
    ROOM,
    Duration,
    PolicyNames,
    Wishes,
    policy_names,
    setting,
)

if TYPE_CHECKING:
    from halftone.scaling.loads.load import Load
    from halftone.scaling.replay import Outcome, World

_FILE: Final = click.Path(exists=True, dir_okay=False, path_type=Path)
_POSITIVE: Final = Finite(min=0, min_open=True)


def _list_profiles(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if not wanted or ctx.resilient_parsing:
        return
    from halftone.scaling.profiles import profile_names

    for name in profile_names():
        click.echo(name)
    ctx.exit()


@click.command()
@click.argument("trace", required=False)
@click.option("--profile", required=True, metavar="NAME_OR_CARD", help="What a replica can do.")
@click.option(
    "--lead-seconds",
    type=Finite(min=0),
    required=True,
    metavar="N",
    help="From asking for a replica until it is ready.",
)
@click.option(
    "--start",
    type=click.IntRange(1, 1000),
    metavar="N",
    help="Replicas at first. [default: the peak's need]",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, metavar="N")
@click.option(
    "--max-replicas",
    type=click.IntRange(1, 1000),
    metavar="N",
    help=f"[default: {ROOM} times the peak's need]",
)
@click.option(
    "--rate-scale",
    type=_POSITIVE,
    metavar="X",
    help=f"Times as many requests. [default: so that the peak needs {PEAK} replicas]",
)
@click.option(
    "--slo-ttft",
    type=_POSITIVE,
    metavar="S",
    default=2.5,
    show_default=True,
    help="Seconds to the first token, beside one for every 4000 tokens of the prompt.",
)
@click.option(
    "--slo-itl",
    type=_POSITIVE,
    metavar="S",
    default=0.1,
    show_default=True,
    help="Seconds between a request's later tokens, on average.",
)
@click.option(
    "--policies",
    type=PolicyNames(),
    default="all",
    show_default=True,
    metavar="all|NAME,...",
    help="static-N, hpa-kv, keda-waiting, keda-tokens, latency-ratio, wva-v1, ray-ongoing, oracle, "
    "halftone; static-N is the peak's need, or a number.",
)
@click.option("--from-prometheus", metavar="URL", help="Take the load from your own history.")
@click.option(
    "--range",
    "range_s",
    type=Duration(),
    default="6h",
    show_default=True,
    metavar="R",
    help="How much of it, until now: 90m, 6h, 1d12h.",
)
@click.option("--model", help="The model of that history, where there are several.")
@click.option(
    "--selector",
    multiple=True,
    metavar="LABEL=VALUE",
    help="A label that the series of that history have; repeat.",
)
@click.option("--prometheus-token-file", type=_FILE, help="A bearer token for Prometheus.")
@click.option("--prometheus-ca-file", type=_FILE, help="Certificates to trust.")
@click.option("--json", "as_json", is_flag=True, help="Print figures as JSON, and draw nothing.")
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(),
    show_default=True,
    help="The directory for the plots, replay-TRACE.svg and .png.",
)
@click.option(
    "--list-profiles",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_list_profiles,
    help="Print the names of profiles, and do nothing else.",
)
def replay(**options: Any) -> None:
    """Replay TRACE on a model of replicas that each of several policies scales.

    TRACE is a file (Azure's CSV, or JSON Lines with timestamp, input_length and output_length) or
    one of ramp, step, square and diurnal.
    """
    wishes = Wishes(**options)
    policy_names(wishes, 1)
    if not wishes.as_json:
        from halftone.scaling.plots import require_plotting

        require_plotting()
    world, load, need = setting(wishes)
    stem = wishes.output / f"replay-{re.sub(r'[^A-Za-z0-9._-]+', '-', load.name)[:80]}"
    plots = [] if wishes.as_json else [Path(f"{stem}{suffix}") for suffix in (".svg", ".png")]
    for path in plots:
        require_writable(path)
    _warn(world)
    outcomes = _run_all(world, load, policy_names(wishes, need))
    if wishes.as_json:
        from halftone.scaling.figures import figures

        click.echo(json.dumps([figures(outcome) for outcome in outcomes], indent=2))
        return
    _tell(wishes, world, load, outcomes, plots)


def _warn(world: "World") -> None:
    """Say before anything runs when no number of replicas can keep the time between tokens."""
    from halftone.scaling.policy import Settings, itl_refusal

    settings = Settings(lead_s=world.lead_s, itl_s=world.objective.itl_s)
    if (warning := itl_refusal(world.capacity, settings)) is not None:
        click.echo(f"halftone: warning: {warning}", err=True)


def _run_all(world: "World", load: "Load", names: Sequence[str]) -> "list[Outcome]":
    """Every policy on a plant of its own, in the order of `names`; kernels free the interpreter."""
    from halftone.cli.quantize import default_workers
    from halftone.scaling.baselines.policies import make
    from halftone.scaling.replay import replay as run

    def one(name: str) -> "Outcome":
        return run(world, load, make(name, world, load), name)

    with steps("replay") as shown, ThreadPoolExecutor(default_workers()) as pool:
        shown.begin(len(names))
        running = {pool.submit(one, name): name for name in names}
        try:
            for done in as_completed(running):
                done.result()
                shown.advance(1)
        except BaseException:  # what has not begun would hold up the way out
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    found = {name: future.result() for future, name in running.items()}
    return [found[name] for name in names]


def _tell(
    wishes: Wishes, world: "World", load: "Load", outcomes: "list[Outcome]", plots: list[Path]
) -> None:
    from halftone.cli.replay_text import print_replay
    from halftone.scaling.plots import plot

    print_replay(world, load, wishes.profile, outcomes)
    for path, drawn in zip(plots, plot(world, load, outcomes), strict=True):
        write_whole(path, drawn)
    click.echo(f"plots {' and '.join(map(str, plots))}")
