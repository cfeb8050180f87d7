"""From one reading to the next: what arrived in between, in requests and in work.

Called by `policy`. Pure; standard library only.

Throughput hides demand once replicas are saturated, so arrivals are what finished plus what is in
flight more than before.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from halftone.scaling.capacity import Capacity
from halftone.scaling.reading import COUNTERS, Reading, ReplicaReading
from halftone.scaling.refining import Measured, stated_s

# Rows are kept as long as the reserve replays, and as the longest window.
KEPT_S: Final = 3600.0
# Mean lengths forget after so many requests, for a mean of fewer says little, ...
_FORGET_REQUESTS: Final = 400.0
# ... but not sooner nor later than this.
_FORGET_S: Final = (60.0, 300.0)
# Taken until a request has finished: the middle of published chat traces, soon outweighed.
_PRIOR_PROMPT: Final = 1000.0
_PRIOR_OUTPUT: Final = 200.0
_PRIOR_WEIGHT: Final = 2.0
# So many finished requests make a mean; until then no answer is guessed to be longer than this.
_FEW: Final = 50.0
_LONGEST_GUESS: Final = 1000.0
# Two readings further apart than this say nothing of when it arrived.
_GAP_S: Final = 180.0
_SAME_S: Final = 0.5
# Scrapes are staggered, so their middle moves back a little when the last of them goes.
_SWAY_S: Final = 60.0
# A replica that nobody saw before has done at most so many times what its card allows since the
# last reading; one that says more has a past, which did not arrive now.
_NEW_SPEED: Final = 8.0


@dataclass(frozen=True, slots=True)
class Row:
    """What arrived in the `seconds` before `time_s`. `work_s` is in replica-seconds."""

    time_s: float
    seconds: float
    arrivals: float
    work_s: float


@dataclass(frozen=True, slots=True)
class Lengths:
    """Sums over recent requests, forgetting: `finished` requests and their tokens, of the prompt
    tokens prefilled (`prompts`) those that a prefix cache held (`cached`), and all `generated`.
    """

    finished: float = _PRIOR_WEIGHT
    prompt_tokens: float = _PRIOR_WEIGHT * _PRIOR_PROMPT
    output_tokens: float = _PRIOR_WEIGHT * _PRIOR_OUTPUT
    prompts: float = 0.0
    cached: float = 0.0
    generated: float = 0.0

    @property
    def prompt(self) -> float:
        """Mean prompt, tokens; at least 1."""
        return max(1.0, self.prompt_tokens / self.finished)

    @property
    def output(self) -> float:
        """Mean answer, tokens; at least 1.

        Short answers finish first. While few have, tokens generated for each that did are counted
        instead, which is too much rather than too little.
        """
        mean = max(1.0, self.output_tokens / self.finished)
        if self.finished >= _FEW:
            return mean
        return max(mean, min(self.generated / self.finished, _LONGEST_GUESS))

    @property
    def computed(self) -> float:
        """Prompt tokens of a mean request that are computed."""
        share = min(1.0, self.cached / self.prompts) if self.prompts else 0.0
        return self.prompt * (1 - share)


@dataclass(frozen=True, slots=True)
class Demand:
    """What is known by `time_s` (of the scrapes). `carried` arrivals (at most 0) were counted too
    early and are taken off the next row. `preempted_s` is when requests were last preempted.
    `restarted` says in words why what was before no longer counts; empty when it does. `measured`
    corrects `card`, and no other.
    """

    time_s: float
    counters: Mapping[str, ReplicaReading]
    held: float
    rows: tuple[Row, ...] = ()
    lengths: Lengths = Lengths()
    carried: float = 0.0
    preempted_s: float = -math.inf
    restarted: str = ""
    measured: Measured = field(default_factory=Measured)
    card: Capacity | None = None

    def work_s(self, capacity: Capacity) -> float:
        """Replica-seconds of a request as they have been of late."""
        known = self.lengths
        return capacity.work_s(known.prompt, known.output, known.computed)


def observed(reading: Reading, capacity: Capacity, before: Demand | None) -> Demand:
    """What is known after `reading`; `before` itself where it has nothing newer.

    `capacity` is the card's own; work is counted by what was measured against it. Of another card
    than before nothing was measured yet.

    A first reading, one after a gap or a clock that was set, and one in which every replica has
    another name only say where to count from.
    """
    time_s = _time_of(reading)
    counters = {each.name: each for each in reading.replicas}
    if before is None:
        return Demand(time_s, counters, reading.held, lengths=_lifetime(counters), card=capacity)
    if before.card != capacity:
        before = replace(before, measured=Measured(), card=capacity)
    seconds = time_s - before.time_s
    if -_SWAY_S < seconds < _SAME_S:
        return before
    if why := _broken(seconds, counters, before.counters):
        fresh = Demand(time_s, counters, reading.held, lengths=before.lengths, restarted=why)
        preempted_s = min(before.preempted_s, time_s)
        return replace(fresh, preempted_s=preempted_s, measured=before.measured, card=capacity)
    most = _NEW_SPEED * seconds / before.work_s(capacity)
    grown = [_grown(each, before.counters.get(name), most) for name, each in counters.items()]
    lengths = _remembered(before.lengths, grown, seconds)
    arrivals = sum(each.finished + each.running + each.waiting for each in grown)
    arrivals += reading.held - before.held + before.carried
    known = replace(
        before,
        time_s=time_s,
        counters={**_lost(before.counters, counters), **counters},
        held=reading.held,
        lengths=lengths,
        carried=min(0.0, arrivals),
        restarted="",
        measured=_measured(before, counters, capacity, seconds),
    )
    if any(each.preemptions > 0 for each in grown):
        known = replace(known, preempted_s=time_s)
    work_s = known.work_s(capacity.faster(known.measured.factor))
    row = Row(time_s, seconds, max(0.0, arrivals), max(0.0, arrivals) * work_s)
    kept = tuple(each for each in before.rows if each.time_s > time_s - KEPT_S)
    return replace(known, rows=(*kept, row))


def _time_of(reading: Reading) -> float:
    """Replicas are scraped one after the other: the middle of them."""
    if not reading.replicas:
        return reading.time_s
    return sum(each.time_s for each in reading.replicas) / len(reading.replicas)


def _broken(
    seconds: float, now: Mapping[str, ReplicaReading], before: Mapping[str, ReplicaReading]
) -> str:
    if seconds < 0:
        return f"the clock went back by {-seconds:.0f} s"
    if seconds > _GAP_S:
        return f"nothing was read for {seconds:.0f} s"
    if now and before and not now.keys() & before.keys():
        return "every replica has another name than before"
    return ""


def _measured(
    before: Demand, counters: Mapping[str, ReplicaReading], capacity: Capacity, seconds: float
) -> Measured:
    known = before.lengths
    shown = [
        (stated, each.time_s - before.counters[name].time_s)
        for name, each in counters.items()
        if name in before.counters
        and (stated := stated_s(before.counters[name], each, capacity, known.prompt, known.output))
    ]
    return before.measured.after(
        seconds, sum(stated for stated, _ in shown), sum(taken for _, taken in shown)
    )


def _lost(
    before: Mapping[str, ReplicaReading], now: Mapping[str, ReplicaReading]
) -> Mapping[str, ReplicaReading]:
    """Replicas that were not read this time, for as long as they may come back."""
    newest = max((each.time_s for each in now.values()), default=-math.inf)
    return {
        name: each
        for name, each in before.items()
        if name not in now and each.time_s > newest - KEPT_S
    }


def _grown(now: ReplicaReading, before: ReplicaReading | None, most: float) -> ReplicaReading:
    """How much more of everything; all of it for a new replica or one that started anew.

    One that finished more than `most` requests is not new, and what it did before is not counted.
    """
    seen = before is not None and before.finished + before.running + before.waiting > 0
    if before is None or not seen or now.finished < before.finished:
        none: dict[str, Any] = dict.fromkeys(COUNTERS, 0.0)
        return now if now.finished <= most else replace(now, **none)
    more: dict[str, Any] = {
        name: max(0.0, getattr(now, name) - getattr(before, name)) for name in COUNTERS
    }
    return replace(
        now,
        running=now.running - before.running,
        waiting=now.waiting - before.waiting,
        **more,
    )


def _lifetime(counters: Mapping[str, ReplicaReading]) -> Lengths:
    """Lengths of all that the replicas have ever finished, as a first guess."""
    finished = sum(each.finished for each in counters.values())
    if not finished:
        return Lengths()
    weight = _PRIOR_WEIGHT / finished
    return Lengths(
        prompt_tokens=weight * sum(each.finished_prompt_tokens for each in counters.values()),
        output_tokens=weight * sum(each.finished_output_tokens for each in counters.values()),
        prompts=weight * sum(each.prompt_tokens for each in counters.values()),
        cached=weight * sum(each.cached_tokens for each in counters.values()),
    )


def _remembered(before: Lengths, grown: list[ReplicaReading], seconds: float) -> Lengths:
    if not any(each.finished or each.generation_tokens for each in grown):
        return before  # nothing was learnt, so nothing is forgotten
    soonest, latest = _FORGET_S
    rate = max(sum(each.finished for each in grown) / seconds, _FORGET_REQUESTS / latest)
    keep = math.exp(-seconds / max(_FORGET_REQUESTS / rate, soonest))
    return Lengths(
        keep * before.finished + sum(each.finished for each in grown),
        keep * before.prompt_tokens + sum(each.finished_prompt_tokens for each in grown),
        keep * before.output_tokens + sum(each.finished_output_tokens for each in grown),
        keep * before.prompts + sum(each.prompt_tokens for each in grown),
        keep * before.cached + sum(each.cached_tokens for each in grown),
        keep * before.generated + sum(each.generation_tokens for each in grown),
    )
