"""Replicas that follow a real load: Ray Serve, vLLM, HAProxy and Prometheus on this machine.

The pocket model with a small cache, each replica held to half a core (`held_replicas`), the policy
inside Ray's controller as the chart configures it, and requests that arrive open-loop at random.

Steps: the load rises at once from well below one replica's work to that of two and a half, and the
time until Ray is asked for more is taken, five times at the intervals that Ray and Prometheus have
by default and five times at short ones. Before each step the policy is put in place anew, for it
remembers a rise for an hour, and would then be ready for the next.

Episode: a slow rise from one replica's work to that of three, and back. The plant replays the same
arrivals with the card that was fitted on this endpoint before, and with the lead of its first
replica. The rise is slow because after a sudden one the law keeps what a repetition would need for
an hour; all else is as users have it, the quarter of an hour included in which nothing is removed.

As root, for the sake of the control groups, and on a machine with nothing else to do.
"""

import asyncio
import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.checkpoints import served_pocket
from benchmarks.measuring import Result, median_of
from benchmarks.open_loop import Answers, Client, client_of, send
from benchmarks.scaled_endpoint import MOST, Exports, Replicas, ScaledEndpoint, Watch, at
from halftone.scaling.capacity import Capacity
from halftone.scaling.follower import Follower
from halftone.scaling.loads.generators import Lengths, poisson_arrivals
from halftone.scaling.loads.load import Floats, Load
from halftone.scaling.policy import Settings
from halftone.scaling.replay import Outcome, World, replay
from halftone.serve.measuring.benching import look_at
from halftone.serve.measuring.connection import Place
from halftone.serve.measuring.load import LoadProcess
from halftone.serve.measuring.rounds import Shape
from halftone.serve.measuring.steps import measure_card
from tests.endpoints import MODEL
from tests.environments import python_of

# Ray and Prometheus where nobody says otherwise, and short intervals; seconds.
DEFAULT = Exports("default", export_s=10, scrape_s=15, look_s=5)
FAST = Exports("fast", export_s=2, scrape_s=5, look_s=1)
_DECIDED_S = {DEFAULT.name: 30.0, FAST.name: 8.0}
_REPEATS = 5
# What a step goes from and to, in replicas kept busy, and how many scrapes the first lasts: as many
# as the law needs before it says whether load is bursty.
_LOW, _HIGH, _BEFORE_SCRAPES = 0.2, 2.5, 14
_MOST_WAIT_S = 120  # for a decision
_SETTLED_S = 600  # for replicas to go that are not wanted
_PROMPT, _OUTPUT = Lengths(64, 0.4, most=2), Lengths(32, 0.4, most=2)
_FIT = Shape(64, 26, (8,), 1, 1)
# The episode: (replicas kept busy, seconds until it is so).
EPISODE = ((0.2, 60), (2.4, 540), (2.4, 120), (0.2, 180), (0.2, 780))
_NEAR = 1  # replicas


@dataclass(frozen=True)
class Measured:
    """An endpoint whose replica was measured: its card, and how long its first one took."""

    endpoint: ScaledEndpoint
    card: dict[str, Any]
    client: Client

    @property
    def capacity(self) -> Capacity:
        """As the policy and the plant take it."""
        return Capacity.from_card(self.card)

    def load(self, busy: Floats, seed: int) -> Load:
        """Poisson arrivals that keep so many replicas busy in each second."""
        chance = np.random.default_rng(seed)
        work_s = self.capacity.work_s(_PROMPT.mean, _OUTPUT.mean)
        arrivals = poisson_arrivals(busy / work_s, 1.0, chance)
        count = len(arrivals)
        return Load.of("real", arrivals, _PROMPT.draw(count, chance), _OUTPUT.draw(count, chance))


def main(scratch: Path, repeats: int = _REPEATS) -> list[Result]:
    """Two rows of steps, then those of the episode."""
    artifact = served_pocket(scratch)
    results = []
    for exports in (FAST, DEFAULT):
        with ScaledEndpoint(artifact, exports, scratch) as endpoint:
            measured = measure(endpoint, scratch)
            steps = [step(measured, number) for number in range(repeats)]
            results.append(_step_row(exports, steps, measured))
            if exports is DEFAULT:
                results += episode(measured)
    return results


def measure(endpoint: ScaledEndpoint, scratch: Path) -> Measured:
    """Fit the card of the one replica that is there, and give it to the policy.

    Raises RuntimeError with the reason where there is none.
    """
    target, engine = asyncio.run(look_at(Place(endpoint.url), MODEL, _FIT))
    with LoadProcess(python_of("serve"), scratch / "autoscaling-fit.log") as process:
        card = measure_card(process, target, engine, _FIT.input_tokens, max(_FIT.concurrencies))
    if card.card is None:
        raise RuntimeError(card.noCardBecause)
    stated = card.card.model_dump(mode="json")
    endpoint.card_file.write_text(card.card.model_dump_json())
    return Measured(endpoint, stated, client_of(endpoint.url, MODEL))


# Steps --------------------------------------------------------------------------------------------


def step(measured: Measured, number: int) -> dict[str, Any]:
    """One step, from its moment until Ray wants more; `decidedS` is None where it never did.

    The step comes at any moment between two scrapes, which differs from repeat to repeat.
    """
    _afresh(measured)
    exports = measured.endpoint.exports
    period_s = exports.export_s + exports.scrape_s
    before_s = _BEFORE_SCRAPES * exports.scrape_s
    before_s += random.Random(number).randrange(round(period_s))
    busy = np.concatenate([np.full(before_s, _LOW), np.full(_MOST_WAIT_S, _HIGH)])
    decided = threading.Event()

    def look(seen: Replicas) -> None:
        if seen.wanted > 1:
            decided.set()

    with Watch(measured.endpoint, look) as watch:
        answers = send(measured.client, measured.load(busy, number), decided)
    more = next((each for each in watch.seen if each.wanted > 1), None)
    begun = answers.began + before_s
    return {
        "decidedS": None if more is None else more.time_s - begun,
        "wanted": None if more is None else more.wanted,
        "requests": len(answers.rows),
        "failures": answers.failures,
        "sentLate": answers.late_share,
        "seen": _changes(watch.seen, begun),
    }


def _afresh(measured: Measured) -> None:
    """One replica, and a policy that remembers nothing."""
    measured.endpoint.allow(1)
    _until(lambda: _counts(measured.endpoint.replicas()) == (1, 1, 0), _SETTLED_S)
    measured.endpoint.allow(MOST)


def _step_row(exports: Exports, steps: list[dict[str, Any]], measured: Measured) -> Result:
    target = _DECIDED_S[exports.name]
    found = [each["decidedS"] for each in steps]
    failed = sum(len(each["failures"]) for each in steps)
    asked = sum(each["requests"] for each in steps)
    said, met = "no decision came", False
    if None not in found:
        middle = median_of(found)
        said = f"{middle:.1f} s ({min(found):.1f} to {max(found):.1f}), {failed} of {asked} failed"
        met = min(found) > 0 and middle <= target and not failed
    return Result(
        f"from a step of load to a decision ({exports.name}: Ray exports every "
        f"{exports.export_s:g} s, scraped every {exports.scrape_s} s), median of {len(found)}",
        f"<= {target:.0f} s",
        said,
        met,
        {"steps": steps, "card": measured.card, "leadS": measured.endpoint.lead_s},
    )


# Episode ------------------------------------------------------------------------------------------


def episode(measured: Measured, stages: Sequence[tuple[float, int]] = EPISODE) -> list[Result]:
    """Up and down once, and what the plant says of it."""
    _afresh(measured)
    load = measured.load(_profile(stages), seed=7)
    before = measured.endpoint.held.throttled_s()
    with Watch(measured.endpoint) as watch:
        answers = send(measured.client, load)
    predicted = predict(measured, load)
    rows = [at(watch.seen, answers.began + each) for each in predicted.timeline.time_s]
    plant = predicted.timeline
    apart = [abs(row.ready - round(ready)) for row, ready in zip(rows, plant.ready, strict=True)]
    details = {
        "requests": len(answers.rows),
        "failures": answers.failures,
        "sentLate": answers.late_share,
        "leadS": measured.endpoint.lead_s,
        "card": measured.card,
        "seen": _changes(watch.seen, answers.began),
        "predicted": _changes(_of_plant(predicted), 0.0),
        "ttftS": {
            "measured": _percentiles(answers.ttft_s),
            "plant": _percentiles(predicted.ttft_s),
        },
        "itlS": {"measured": _percentiles(answers.itl_s), "plant": _percentiles(predicted.itl_s)},
        "throttledS": {"before": before, "after": measured.endpoint.held.throttled_s()},
    }
    return [_followed(watch.seen, answers, details), _near(apart, details)]


def predict(measured: Measured, load: Load) -> Outcome:
    """The plant under the same arrivals, with the same law and settings."""
    stated: dict[str, Any] = dict(measured.endpoint.autoscaling.law())
    settings = Settings(lead_s=float(measured.card["warmUpSeconds"]), **stated)
    world = World(
        measured.capacity,
        lead_s=measured.endpoint.lead_s,
        start=1,
        max_replicas=MOST,
        scrape_interval_s=measured.endpoint.exports.scrape_s,
        client_timeout_s=float("inf"),
    )
    law = Follower(measured.capacity, settings, float(measured.endpoint.exports.look_s))
    return replay(world, load, law, "halftone")


def _followed(seen: Sequence[Replicas], answers: Answers, details: dict[str, Any]) -> Result:
    counts = [each.wanted for each in seen]
    turns = reversals(counts)
    most, last = max(each.ready for each in seen), seen[-1].ready
    failed = len(answers.failures)
    said = f"{counts[0]} → {most} → {last}, {turns} turns, {failed} of {len(answers.rows)} failed"
    met = (counts[0], most, last) == (1, MOST, 1) and turns == 1 and not failed
    return Result(
        "replicas follow a slow rise and fall of load, of half a core each",
        f"1 → {MOST} → 1, 1 turn, none failed",
        said,
        met,
        details,
    )


def _near(apart: Sequence[int], details: dict[str, Any]) -> Result:
    real, plant = (details["ttftS"][side] for side in ("measured", "plant"))
    equal = sum(not each for each in apart) / len(apart)
    said = f"{max(apart)} at most, equal {equal:.0%} of the time; TTFT p50 and p99 "
    said += f"{real['p50']:.2f} and {real['p99']:.2f} s, plant {plant['p50']:.2f} and "
    said += f"{plant['p99']:.2f} s"
    return Result(
        "ready replicas of that episode, between the real ones and the plant's",
        f"<= {_NEAR}",
        said,
        max(apart) <= _NEAR,
        details,
    )


def reversals(counts: Sequence[int]) -> int:
    """How often a count that rose falls, or one that fell rises."""
    moves = [after - before for before, after in pairwise(counts) if after != before]
    return sum(one * other < 0 for one, other in pairwise(moves))


def _profile(stages: Sequence[tuple[float, int]]) -> Floats:
    """Replicas kept busy in each second, on straight lines from stage to stage."""
    ends = np.cumsum([0, *(seconds for _, seconds in stages)])
    levels = [stages[0][0], *(busy for busy, _ in stages)]
    found: Floats = np.interp(np.arange(ends[-1]) + 0.5, ends, levels)
    return found


def _of_plant(outcome: Outcome) -> list[Replicas]:
    line = outcome.timeline
    rows = zip(line.time_s, line.wanted, line.ready, strict=True)
    return [Replicas(float(time_s), round(wanted), round(ready)) for time_s, wanted, ready in rows]


def _changes(seen: Sequence[Replicas], began: float) -> list[dict[str, float]]:
    """Only where something changed, in seconds since `began`."""
    kept = [seen[0], *(two for one, two in pairwise(seen) if _counts(one) != _counts(two))]
    return [asdict(each) | {"time_s": round(each.time_s - began, 1)} for each in kept]


def _counts(seen: Replicas) -> tuple[int, int, int]:
    return seen.wanted, seen.ready, seen.leaving


def _percentiles(seconds: Floats) -> dict[str, float]:
    found = np.nanpercentile(seconds, [50, 90, 99])
    return dict(zip(("p50", "p90", "p99"), map(float, found), strict=True))


def _until(is_so: Callable[[], bool], within_s: float) -> None:
    deadline = time.monotonic() + within_s
    while not is_so():
        if time.monotonic() > deadline:
            raise RuntimeError(f"replicas did not come to rest within {within_s:.0f} s")
        time.sleep(0.5)
