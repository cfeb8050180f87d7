"""The command line of `halftone replay` becomes a world, a load and names of policies.

Called by `replay`. What is wrong with an option is a sentence that names it and the way out.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from halftone.cli.selectors import label
from halftone.cli.urls import require_url
from halftone.spec.errors import RefusedInput
from halftone.spec.names import Reason

if TYPE_CHECKING:
    from halftone.scaling.loads.load import Load
    from halftone.scaling.replay import World

# What the peak of a load needs after its rate was scaled, as in every published table of ours.
PEAK: Final = 8
# A bound that is out of the way; clusters have one, and without it a rule that overreacts would
# be charged for replicas that nobody has.
ROOM: Final = 2
# Each takes some 200 bytes, and a policy takes minutes for so many.
_MOST_REQUESTS: Final = 5_000_000
# As long as a trace may be (`loads.traces`, which is imported only when there is one).
_MOST_DAYS: Final = 31
_UNIT_S: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


class Duration(click.ParamType[float]):
    """A time as Prometheus writes it, in seconds."""

    name = "time"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        text = str(value)
        if not re.fullmatch(r"(\d{1,9}[smhdw])+", text):
            self.fail(f"'{text}' is no time such as 90m, 6h or 1d12h", param, ctx)
        parts = re.findall(r"(\d+)([smhdw])", text)
        seconds = float(sum(int(count) * _UNIT_S[unit] for count, unit in parts))
        if not _UNIT_S["m"] <= seconds <= _MOST_DAYS * _UNIT_S["d"]:
            self.fail(f"'{text}' is not between a minute and {_MOST_DAYS} days", param, ctx)
        return seconds


class PolicyNames(click.ParamType["tuple[str, ...]"]):
    """Names that `baselines.policies` looks up; `all` is every one."""

    name = "names"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        return tuple(dict.fromkeys(part.strip() for part in str(value).split(",")))


@dataclass(frozen=True)
class Wishes:
    """The options as click gives them."""

    trace: str | None
    profile: str
    lead_seconds: float
    start: int | None
    seed: int
    max_replicas: int | None
    rate_scale: float | None
    slo_ttft: float
    slo_itl: float
    policies: tuple[str, ...]
    from_prometheus: str | None
    range_s: float
    model: str | None
    selector: tuple[str, ...]
    prometheus_token_file: Path | None
    prometheus_ca_file: Path | None
    as_json: bool
    output: Path


def setting(wishes: Wishes) -> "tuple[World, Load, int]":
    """World, load and the peak's need, as the options say. Raises RefusedInput for what cannot be.

    A load that was scaled to a need has that need: its peak minute is itself a matter of chance.
    """
    from halftone.scaling.loads.peaks import peak_factor, peak_need
    from halftone.scaling.profiles import load_profile
    from halftone.scaling.replay import Objective, World

    capacity = load_profile(wishes.profile)
    load = _load(wishes)
    factor = wishes.rate_scale or peak_factor(load, capacity, PEAK)
    if len(load) * factor > _MOST_REQUESTS:
        told = (
            f"`--rate-scale {factor:g}` makes {len(load) * factor:,.0f} requests of '{load.name}', "
            f"and {_MOST_REQUESTS:,} can be replayed; choose a smaller one."
        )
        raise RefusedInput(Reason.InvalidTrace, "--rate-scale", told)
    load = load.scaled(factor, wishes.seed)
    if not len(load):
        told = f"`--rate-scale {factor:g}` leaves no request of '{load.name}'; choose a larger one."
        raise RefusedInput(Reason.InvalidTrace, "--rate-scale", told)
    need = PEAK if wishes.rate_scale is None else peak_need(load, capacity)
    start = need if wishes.start is None else wishes.start
    room = ROOM * max(need, start)
    stated = [int(name[7:]) for name in wishes.policies if name[7:].isdigit()]
    most = max([room, *stated]) if wishes.max_replicas is None else wishes.max_replicas
    if stated and max(stated) > most:
        told = f"`--policies` has static-{max(stated)}, more than `--max-replicas {most}`."
        raise RefusedInput(Reason.InvalidJob, "--policies", told)
    if start > most:
        told = f"`--max-replicas {most}` is less than the {start} at first; set `--start` too."
        raise RefusedInput(Reason.InvalidJob, "--max-replicas", told)
    objective = Objective(ttft_s=wishes.slo_ttft, itl_s=wishes.slo_itl)
    world = World(
        capacity, wishes.lead_seconds, objective, start, max_replicas=most, seed=wishes.seed
    )
    return world, load, need


def _load(wishes: Wishes) -> "Load":
    from halftone.scaling.loads.generators import SHAPES, generate
    from halftone.scaling.loads.history import read_history
    from halftone.scaling.loads.traces import read_trace

    if (wishes.trace is None) == (wishes.from_prometheus is None):
        told = f"Name one load: a trace file, one of {', '.join(SHAPES)}, or `--from-prometheus`."
        raise RefusedInput(Reason.InvalidTrace, "TRACE", told)
    if wishes.from_prometheus is not None:
        require_url("--from-prometheus", wishes.from_prometheus)
        return read_history(
            wishes.from_prometheus,
            wishes.range_s,
            model=wishes.model,
            selector=dict(label(text) for text in wishes.selector),
            token_file=wishes.prometheus_token_file,
            ca_file=wishes.prometheus_ca_file,
            seed=wishes.seed,
        )
    for option, value in (("--model", wishes.model), ("--selector", wishes.selector)):
        if value:
            told = f"`{option}` chooses among the series of `--from-prometheus`; leave it out."
            raise RefusedInput(Reason.InvalidTrace, option, told)
    trace = str(wishes.trace)
    return generate(trace, wishes.seed) if trace in SHAPES else read_trace(Path(trace))


def policy_names(wishes: Wishes, peak: int) -> tuple[str, ...]:
    """Every policy that was asked for, once; `static-N` becomes the number that the peak needs.

    Raises RefusedInput for a name that is none.
    """
    from halftone.scaling.baselines.policies import PEAK as STATIC
    from halftone.scaling.baselines.policies import POLICIES, maker

    every = [POLICIES if name == "all" else (name,) for name in wishes.policies]
    names = [name for part in every for name in part]
    for name in names:
        maker(name)
    return tuple(dict.fromkeys(f"static-{peak}" if name == STATIC else name for name in names))
