"""Every way to scale by its name, ours among them: the one place that makes them for a replay.

    autoscaler = make("hpa-kv", world, load)

Called by `halftone replay` and by benchmarks. A new way to scale is a row of the table.
"""

import re
from collections.abc import Callable
from typing import Final

from halftone.scaling.baselines.latency_ratio import LatencyRatio
from halftone.scaling.baselines.ongoing import OngoingRequests, load_tested_target
from halftone.scaling.baselines.oracle import (
    LATE_SHARE,
    P90_DEVIATIONS,
    Oracle,
    cheapest,
    late_requests,
)
from halftone.scaling.baselines.spare_capacity import SpareCapacity
from halftone.scaling.baselines.thresholds import HpaOnKv, KedaOnTokens, KedaOnWaiting, Static
from halftone.scaling.loads.load import Load
from halftone.scaling.loads.peaks import peak_need
from halftone.scaling.replay import Autoscaler, World
from halftone.spec.errors import RefusedInput
from halftone.spec.names import Reason

OURS: Final = "halftone"
# `static-N` as it stands is the peak's need; a number in its place is that number.
PEAK: Final = "static-N"
_STATIC: Final = re.compile(r"static-([1-9]\d{0,3})")
_Make = Callable[[World, Load], Autoscaler]


def _latency_ratio(world: World, load: Load) -> Autoscaler:
    """Its TTFT objective is one number: that of a prompt of mean length."""
    objective = world.objective
    prompt = float(load.prompt.mean()) if len(load) else 0.0
    return LatencyRatio(objective.ttft_s + prompt / objective.prompt_rate, objective.itl_s)


def _ongoing(world: World, load: Load) -> Autoscaler:
    lengths = [float(column.mean()) if len(load) else 1.0 for column in (load.prompt, load.output)]
    return OngoingRequests(load_tested_target(world.capacity, *lengths))


def _oracle(world: World, load: Load) -> Autoscaler:
    late = late_requests(load, world.capacity, world.objective, world.max_replicas)
    ahead_s = _late_lead_s(world)
    return Oracle(cheapest(late, ahead_s, world.start, LATE_SHARE * len(load)), ahead_s)


def _halftone(world: World, _: Load) -> Autoscaler:
    from halftone.scaling.follower import Follower
    from halftone.scaling.policy import Settings

    objective = world.objective
    settings = Settings(
        lead_s=_late_lead_s(world),
        min_replicas=world.min_replicas,
        max_replicas=world.max_replicas,
        ttft_s=objective.ttft_s,
        prompt_rate=objective.prompt_rate,
        itl_s=objective.itl_s,
    )
    return Follower(world.capacity, settings)


def _late_lead_s(world: World) -> float:
    """The 90th percentile of the time from the ask until a replica is ready."""
    return world.lead_s * (1 + P90_DEVIATIONS * world.lead_spread)


_TABLE: Final[dict[str, _Make]] = {
    PEAK: lambda world, load: Static(peak_need(load, world.capacity)),
    "hpa-kv": lambda world, load: HpaOnKv(),
    "keda-waiting": lambda world, load: KedaOnWaiting(),
    "keda-tokens": lambda world, load: KedaOnTokens(world.capacity.prefill_tokens_per_second),
    "latency-ratio": _latency_ratio,
    "wva-v1": lambda world, load: SpareCapacity(),
    "ray-ongoing": _ongoing,
    "oracle": _oracle,
    OURS: _halftone,
}
# In the order of the table that `halftone replay` prints.
POLICIES: Final = tuple(_TABLE)


def maker(name: str) -> _Make:
    """What makes the policy `name` for a world and a load: one of `POLICIES`, or `static-7`.

    Raises RefusedInput(InvalidJob) with the names of all.
    """
    if name in _TABLE:
        return _TABLE[name]
    if stated := _STATIC.fullmatch(name):
        replicas = int(stated[1])
        return lambda world, load: Static(replicas)
    told = f"`--policies` has '{name}', which is none of {', '.join(POLICIES)}; name some of these."
    raise RefusedInput(Reason.InvalidJob, "--policies", told)


def make(name: str, world: World, load: Load) -> Autoscaler:
    """The policy `name`, new: it remembers nothing of another run. Raises as `maker` does."""
    return maker(name)(world, load)
