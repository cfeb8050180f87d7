"""How many replicas there should be: the law, as one pure function.

    decision, memory = decide(reading, capacity, settings, memory)

Ray's policy class, the external controller and the replay all wrap `decide`. It holds no clock and
does no I/O: `memory` is what the caller keeps from one call to the next, `None` at first. Standard
library only. `docs/scaling.md` has the reasons, and what it costs where.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final

from halftone.scaling import terms
from halftone.scaling.capacity import Capacity
from halftone.scaling.demand import KEPT_S, Demand, observed
from halftone.scaling.reading import COUNTERS, GAUGES, Reading

# Never fewer than would be this busy with the most that arrived of late (rate space).
_FLOOR: Final = 0.85
# After a rise replicas may be this busy until more are ready.
_RISEN: Final = 0.95
# Scale-in waits this long, and longer where a replica takes long to come back or load is bursty.
_WINDOW_S: Final = 300.0
_WINDOW_LEADS: Final = 1.5
_BURSTY_WINDOW_S: Final = 900.0
# What somebody set is kept for so long at first: they may know what is to come.
_FIRST_S: Final = 900.0
_FIRST_LEADS: Final = 5.0
# A replica goes only when it is this much of a replica too many, so that noise moves none.
_SPARE: Final = 0.1
# After requests were preempted no replica goes for this long.
_VETO_S: Final = 120.0
# A need above a whole number by less than this share of it is noise, not load.
_ROUNDING: Final = 0.02
_MINUTE_S: Final = 60.0
# When a replica had to come back within this time, scale-in was too early: it waits twice as long.
_REGRET_S: Final = 900.0
_MOST_PATIENCE: Final = 4.0
# What must be a number and not negative in every replica's reading.
_NUMBERS: Final = (*GAUGES, *COUNTERS)


class Term(StrEnum):
    """What decided."""

    Rate = "Rate"  # the work that arrives
    Memory = "Memory"  # KV blocks
    Backlog = "Backlog"  # what waits
    Reserve = "Reserve"  # bursts of the last half hour, had they come again
    Rise = "Rise"  # a rise of the last hour, had it come again
    Window = "Window"  # more was wanted not long ago
    Floor = "Floor"  # as much work arrived not long ago
    Preemption = "Preemption"  # no replica goes while requests are preempted
    Bounds = "Bounds"  # least or most replicas, or of a minute's change
    Missing = "Missing"  # an input is missing or stale: the count holds


@dataclass(frozen=True, slots=True)
class Settings:
    """What a user says. `theta` is the one knob between cost and attainment: the share of a
    replica's time that arriving work may take (0.80 safe, 0.90 middle, 0.95 lean).

    `lead_s` is from the ask until a replica is ready (its 90th percentile). A request should have
    its first token within `ttft_s + prompt / prompt_rate`, and its later ones `itl_s` apart.
    `missed_share` of bursty work may come too late. `stale_s` is the age at which an input no
    longer counts. At most `added_per_minute` replicas are asked for in a minute, and
    `removed_per_minute` given up; None is no limit.

    `scale_in_window_s` is how long a need counts after it has gone; rises and bursts that are older
    are forgotten too. None: as long as the lead and the load make right, five minutes at least.
    """

    lead_s: float
    theta: float = 0.90
    min_replicas: int = 1
    max_replicas: int = 64
    ttft_s: float = 2.5
    prompt_rate: float = 4000.0
    itl_s: float = 0.1
    missed_share: float = 0.02
    stale_s: float = 60.0
    added_per_minute: int | None = None
    removed_per_minute: int | None = None
    scale_in_window_s: float | None = None

    def __post_init__(self) -> None:
        """Raises ValueError that names the field."""
        if not 0 <= self.lead_s < math.inf:
            raise ValueError(f"`lead_s` is {self.lead_s}, and must be 0 or more")
        positive = ("ttft_s", "prompt_rate", "itl_s", "stale_s")
        for name in positive:
            if not getattr(self, name) > 0:
                raise ValueError(f"`{name}` is {getattr(self, name)}, and must be above 0")
        if not self.stale_s <= KEPT_S:
            raise ValueError(f"`stale_s` is {self.stale_s}, and must be at most {KEPT_S:.0f}")
        for name in ("min_replicas", "max_replicas"):
            if not isinstance(getattr(self, name), int):
                raise ValueError(f"`{name}` is {getattr(self, name)}, and must be a whole number")
        window_s = self.scale_in_window_s
        if window_s is not None and not 0 < window_s <= KEPT_S:
            raise ValueError(
                f"`scale_in_window_s` is {window_s}, and must be above 0 and at most {KEPT_S:.0f}"
            )
        if not 0 < self.theta <= 1:
            raise ValueError(f"`theta` is {self.theta}, and must be above 0 and at most 1")
        if not 0 <= self.min_replicas <= self.max_replicas:
            raise ValueError(
                f"`min_replicas` {self.min_replicas} must be at most `max_replicas` "
                f"{self.max_replicas}, and not negative"
            )
        if not 0 <= self.missed_share <= 1:
            raise ValueError(f"`missed_share` is {self.missed_share}, and must be from 0 to 1")
        for name in ("added_per_minute", "removed_per_minute"):
            limit = getattr(self, name)
            if limit is not None and not (isinstance(limit, int) and limit >= 1):
                raise ValueError(f"`{name}` is {limit}, and must be a whole number from 1")


@dataclass(frozen=True, slots=True)
class Decision:
    """`wanted` replicas, ready and starting together; `term` decided, `reason` is a sentence.

    `asked` has what each term alone would want, `inputs` what they were computed from; both are
    exported and logged.
    """

    wanted: int
    term: Term
    reason: str
    asked: Mapping[str, float] = field(default_factory=dict)
    inputs: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Need:
    """What was needed at a time, before rounding, and the level of arriving work."""

    time_s: float
    replicas: float
    level: float
    bursty: bool


@dataclass(frozen=True, slots=True)
class Memory:
    """What the law keeps between calls; a caller only hands it back.

    `wanted` is the last decision, `since_s` when history began, `needs` are those of the last hour.
    `patience` (1 to 4) lengthens the window of scale-in, `went_s` is when a replica last went, and
    `regret_s` when one last had to come back. `counts` are times and decisions of the last minute.
    """

    demand: Demand
    wanted: int
    since_s: float
    needs: tuple[Need, ...] = ()
    patience: float = 1.0
    went_s: float = -math.inf
    regret_s: float = -math.inf
    counts: tuple[tuple[float, int], ...] = ()


def decide(
    reading: Reading, capacity: Capacity, settings: Settings, memory: Memory | None
) -> tuple[Decision, Memory | None]:
    """The count that `reading` asks for, and what to remember.

    `memory` is None until a first whole reading has come; the count holds until then.
    """
    count = reading.ready + reading.starting if memory is None else memory.wanted
    if problems := _problems(reading, settings):
        return _held(count, problems, settings), memory
    demand = observed(reading, capacity, memory.demand if memory else None)
    if memory is None:
        memory = Memory(demand, count, reading.time_s)
    if demand.restarted:
        memory = Memory(demand, count, reading.time_s, went_s=memory.went_s)
        return _held(count, demand.restarted, settings), memory
    refined = capacity.faster(demand.measured.factor)
    need, asked, inputs = _need(reading, refined, settings, demand)
    needs = (*(n for n in memory.needs if n.time_s > reading.time_s - KEPT_S), need)
    memory = replace(memory, demand=demand, needs=needs)
    decision = _bounded(_judged(reading, settings, memory, asked, inputs), settings, memory)
    return decision, _remembering(memory, decision, reading.time_s)


def itl_refusal(capacity: Capacity, settings: Settings, kv_share: float = 0.5) -> str | None:
    """Why no number of replicas can keep the time between tokens; None when some can.

    A step that carries a whole budget of prefill makes everyone else wait for it, however many
    replicas there are, so `token_budget` has to come down. `kv_share` of the cache is in use.
    """
    group = max(capacity.groups, key=lambda each: 0 if each.most else each.block_tokens)
    tokens = kv_share * capacity.kv_blocks * group.block_tokens
    step_s = capacity.longest_step_s(tokens, kv_share * capacity.max_sequences)
    if step_s <= settings.itl_s:
        return None
    return (
        f"A step with a whole token budget ({capacity.token_budget}) takes {step_s * 1000:.0f} ms, "
        f"more than the {settings.itl_s * 1000:.0f} ms between two tokens: no number of replicas "
        "keeps that; lower `max_num_batched_tokens`, or allow more time."
    )


def _problems(reading: Reading, settings: Settings) -> str:
    if reading.missing:
        return "; ".join(reading.missing)
    if not math.isfinite(reading.age_s) or reading.age_s > settings.stale_s:
        return f"the oldest input is {reading.age_s:.0f} s old"
    names = {each.name for each in reading.replicas}
    if len(names) < len(reading.replicas):
        return "a replica was read twice"
    if len(names) < reading.ready:
        return f"{len(names)} of {reading.ready} replicas were read"
    for each in reading.replicas:
        if wrong := [name for name in _NUMBERS if not 0 <= getattr(each, name) < math.inf]:
            return f"`{wrong[0]}` of {each.name} is {getattr(each, wrong[0])}"
    if not 0 <= reading.held < math.inf:
        return f"`held` is {reading.held}"
    return ""


def _held(count: int, why: str, settings: Settings) -> Decision:
    wanted = min(max(count, settings.min_replicas), settings.max_replicas)
    return Decision(wanted, Term.Missing, f"The count holds at {wanted}, because {why}.")


def _need(
    reading: Reading, capacity: Capacity, settings: Settings, demand: Demand
) -> tuple[Need, dict[str, float], dict[str, float]]:
    bursty = terms.is_bursty(demand.rows)
    level = terms.level(demand.rows, settings.lead_s, reading.age_s, bursty)
    work_s = demand.work_s(capacity)
    ttft_s = settings.ttft_s + demand.lengths.prompt / settings.prompt_rate
    asked = {
        Term.Rate.value: level.forecast / settings.theta,
        Term.Memory.value: terms.memory(reading, demand, capacity, level.now / settings.theta),
        Term.Backlog.value: terms.backlog(
            reading, level, work_s, settings.lead_s, ttft_s, settings.theta
        ),
    }
    kept_s = settings.scale_in_window_s or KEPT_S
    asked[Term.Rise.value] = terms.rise(demand.rows, settings.lead_s, level.now, kept_s) / _RISEN
    if bursty:
        past = terms.recent(demand.rows, kept_s)
        asked[Term.Reserve.value] = terms.reserve(
            past, ttft_s, settings.missed_share, settings.max_replicas
        )
    if reading.held and not reading.ready:
        asked[Term.Backlog.value] = max(1.0, asked[Term.Backlog.value])
    inputs = {
        "level": level.now,
        "slope_per_s": level.slope,
        "forecast": level.forecast,
        "work_s": work_s,
        "prompt_tokens": demand.lengths.prompt,
        "output_tokens": demand.lengths.output,
        "waiting": sum(each.waiting for each in reading.replicas) + reading.held,
        "kv_usage": sum(each.kv_usage for each in reading.replicas) / max(1, reading.ready),
        "capacity_ratio": demand.measured.factor,
        "age_s": reading.age_s,
    }
    return Need(reading.time_s, max(asked.values()), level.now, bursty), asked, inputs


def _judged(
    reading: Reading,
    settings: Settings,
    memory: Memory,
    asked: dict[str, float],
    inputs: dict[str, float],
) -> Decision:
    need = memory.needs[-1]
    needed = _whole(need.replicas)
    term = Term(max(asked, key=lambda name: asked[name]))
    if needed >= memory.wanted:
        what = f"{term.value.lower()} asks for {need.replicas:.2f} replicas"
        return Decision(needed, term, f"{needed} wanted: {what}.", asked, inputs)
    kept, term, why = _scaled_in(reading.time_s, settings, memory)
    wanted = max(needed, min(kept, memory.wanted))
    return Decision(wanted, term, f"{wanted} wanted: {why}.", asked, inputs)


def _scaled_in(time_s: float, settings: Settings, memory: Memory) -> tuple[int, Term, str]:
    """How many must stay although fewer are needed now, which rule says so, and its words."""
    preempted = time_s - memory.demand.preempted_s
    if preempted < _VETO_S:
        return memory.wanted, Term.Preemption, f"requests were preempted {preempted:.0f} s ago"
    window_s = _window_s(settings, memory)
    first_s = window_s
    if settings.scale_in_window_s is None:
        first_s = max(window_s, _FIRST_S, _FIRST_LEADS * settings.lead_s)
    if time_s - memory.since_s < first_s:
        return memory.wanted, Term.Window, f"history does not cover {first_s:.0f} s yet"
    past = [need for need in memory.needs if need.time_s > time_s - window_s]
    needed = max(need.replicas for need in past)
    most = needed + _SPARE if needed else 0.0  # none at all are enough for nothing at all
    busy = max(_FLOOR, settings.theta)
    floor = max(need.level for need in past) / busy
    if floor > most:
        return _whole(floor), Term.Floor, f"{floor:.2f} keep the recent peak below {busy:.0%}"
    said = f"the most of the last {window_s:.0f} s was {needed:.2f}"
    return _whole(most), Term.Window, said


def _whole(replicas: float) -> int:
    return math.ceil(replicas / (1 + _ROUNDING))


def _window_s(settings: Settings, memory: Memory) -> float:
    """How long a need counts after it has gone; at most as long as needs are kept."""
    if settings.scale_in_window_s is not None:
        return settings.scale_in_window_s
    least = _BURSTY_WINDOW_S if memory.needs[-1].bursty else _WINDOW_S
    window_s = max(least, _WINDOW_LEADS * settings.lead_s) * memory.patience
    return min(window_s, KEPT_S)


def _bounded(decision: Decision, settings: Settings, memory: Memory) -> Decision:
    """`decision` within the bounds: of the count, and of how much it changes in a minute."""
    counts = [memory.wanted, *(count for _, count in memory.counts)]
    most, least = settings.max_replicas, settings.min_replicas
    if settings.added_per_minute is not None:
        most = min(most, max(least, min(counts) + settings.added_per_minute))
    if settings.removed_per_minute is not None:
        least = max(least, min(most, max(counts) - settings.removed_per_minute))
    wanted = min(max(decision.wanted, least), most)
    if wanted == decision.wanted:
        return decision
    bound = "fewest" if wanted > decision.wanted else "most"
    reason = f"{wanted} are the {bound} that are allowed now; {decision.reason}"
    return replace(decision, wanted=wanted, term=Term.Bounds, reason=reason)


def _remembering(memory: Memory, decision: Decision, time_s: float) -> Memory:
    """Scale-in that had to be taken back soon was too early, and waits longer from here on."""
    went_s, patience, regret_s = memory.went_s, memory.patience, memory.regret_s
    if decision.wanted < memory.wanted:
        went_s = time_s
    elif decision.wanted > memory.wanted and time_s - went_s < _REGRET_S:
        patience, regret_s, went_s = min(_MOST_PATIENCE, 2 * patience), time_s, -math.inf
    elif patience > 1 and time_s - regret_s > KEPT_S:
        patience, regret_s = patience / 2, time_s
    counts = [(at, count) for at, count in memory.counts if at > time_s - _MINUTE_S]
    return replace(
        memory,
        wanted=decision.wanted,
        went_s=went_s,
        patience=patience,
        regret_s=regret_s,
        counts=(*counts, (time_s, decision.wanted)),
    )
