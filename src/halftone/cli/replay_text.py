"""A replay for people: what was replayed, and a row for each way to scale."""

import math
from collections.abc import Sequence
from typing import Any, Final

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from halftone.cli.plan_text import plain_console
from halftone.scaling.baselines.policies import OURS
from halftone.scaling.figures import figures
from halftone.scaling.loads.load import Load
from halftone.scaling.replay import Outcome, World

_MS: Final = 1000.0
_NONE: Final = "–"


def print_replay(
    world: World,
    load: Load,
    profile: str,
    outcomes: Sequence[Outcome],
    console: Console | None = None,
) -> None:
    """Print to standard output, or to `console`."""
    console = console or plain_console()
    minutes = load.duration_s / 60
    rate = len(load) / max(load.duration_s, 1.0)
    console.print(
        f"[bold]{escape(load.name)}[/bold] {len(load):,} requests in {minutes:.0f} minutes "
        f"({rate:.2f} a second), {load.prompt.mean():.0f} tokens in, {load.output.mean():.0f} out"
    )
    objective = world.objective
    console.print(
        f"on {escape(profile)}: {world.start} replicas at first, at most {world.max_replicas}, "
        f"ready {world.lead_s:g} s after the ask, seed {world.seed}"
    )
    console.print(
        f"attained: first token within {objective.ttft_s:g} s + prompt/{objective.prompt_rate:g}, "
        f"the others {objective.itl_s:g} s apart on average"
    )
    console.print(_table(outcomes), soft_wrap=False)


def _table(outcomes: Sequence[Outcome]) -> Table:
    """Eighty columns: where something has to give way it is the least that is read."""
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("POLICY", no_wrap=True)
    for heading in ("MET\n%", "REPLICA\nHOURS", "MEAN"):
        table.add_column(heading, justify="right", no_wrap=True)
    for heading in ("TTFT s\np50/p90/p99", "ITL ms\np50/p90/p99"):
        table.add_column(heading, justify="right", no_wrap=True)
    for heading in ("SCALED", "PRE-\nEMPTED", "DROP-\nPED"):
        table.add_column(heading, justify="right", no_wrap=True)
    for outcome in outcomes:
        row = figures(outcome)
        style = "bold" if outcome.policy == OURS else None
        table.add_row(*_cells(row), style=style)
    return table


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    return (
        row["policy"],
        f"{math.floor(1000 * row['attainment']) / 10:.1f}",  # 100.0 is all of them
        f"{row['replicaHours']:.2f}",
        f"{row['meanReplicas']:.2f}",
        "/".join(_number(value) for value in row["ttft"].values()),
        "/".join(_number(value, _MS) for value in row["itl"].values()),
        str(row["scaleEvents"]),
        str(row["preemptions"]),
        str(row["dropped"]),
    )


def _number(value: float | None, factor: float = 1.0) -> str:
    """Three characters where that is enough: 0.2, 3.1, 98, 240."""
    if value is None:
        return _NONE
    scaled = value * factor
    return f"{scaled:.1f}" if scaled < 9.95 and factor == 1.0 else f"{scaled:.0f}"
