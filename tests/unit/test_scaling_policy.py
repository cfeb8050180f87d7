"""The law of replicas, as a function: what it asks for, and what it never does.

We test these aspects:
- rate, memory, backlog and reserve each decide where they should, and say so
- more load of the same shape never wants fewer replicas
- nothing is scaled in on missing, stale or partial data, nor below the floor, nor while preempting
- constant load settles and stays; the same readings give the same decisions
- a window that was given counts alone; chance alone moves few replicas
- bounds, rates of change, clocks that jump and replicas that start anew
- the preflight of the time between tokens
"""

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from halftone.scaling.follower import Follower
from halftone.scaling.policy import Decision, Settings, Term, itl_refusal
from tests.fed_endpoints import CAPACITY, OUTPUT, PROMPT, STEP_S, Fed, nothing

WORK_S = CAPACITY.work_s(PROMPT, OUTPUT)
SETTINGS = Settings(lead_s=100.0, theta=0.8)
# A quarter of an hour: longer than the shortest window of scale-in.
LONG = 60
ARRIVALS = st.lists(st.integers(0, 400), min_size=4, max_size=40)


def follow(
    arrivals: list[float], chosen: Settings = SETTINGS, *, ready: int = 2
) -> tuple[list[Decision], Follower, Fed]:
    """Decisions on a load, where every replica that is wanted is there at once."""
    follower, fed, made = Follower(CAPACITY, chosen), Fed(ready), []
    follower(fed.next(0))
    for count in arrivals:
        fed.ready = follower(fed.next(count))
        assert follower.decision is not None
        made.append(follower.decision)
    return made, follower, fed


def arrivals_for(replicas: float) -> float:
    """Requests in a step whose work keeps so many replicas busy."""
    return replicas * STEP_S / WORK_S


def test_arriving_work_asks_for_its_replicas_over_theta() -> None:
    made, _, _ = follow([arrivals_for(4)] * LONG)
    assert made[-1].term is Term.Rate
    assert made[-1].wanted == 5  # 4 / 0.8
    assert made[-1].asked["Rate"] == pytest.approx(5, rel=0.02)
    assert "rate asks for 5.0" in made[-1].reason


def test_rising_load_is_met_ahead_of_itself() -> None:
    steady, _, _ = follow([arrivals_for(3)] * LONG)
    rising, _, _ = follow([arrivals_for(3 * (n + 1) / LONG) for n in range(LONG)])
    assert rising[-1].inputs["level"] == pytest.approx(steady[-1].inputs["level"], rel=0.05)
    assert rising[-1].asked["Rate"] > steady[-1].asked["Rate"] * 1.05


QUIET, ONCE, TWICE = ([arrivals_for(level)] * 24 for level in (2, 4, 6))


def led(loads: list[float], lead_s: float = 300.0, window_s: float | None = None) -> float:
    """By how much `Rise` leads above the level that was reached last."""
    made, _, _ = follow(loads, replace(SETTINGS, lead_s=lead_s, scale_in_window_s=window_s))
    return made[-1].asked["Rise"] * 0.95 / made[-1].inputs["level"]


def test_a_climb_leads_further_than_what_was_seen() -> None:
    assert led(QUIET + ONCE) == pytest.approx(1.5, abs=0.1)
    assert led(QUIET + ONCE + TWICE) == pytest.approx(1.25, abs=0.1)
    # Several are a slope, which goes on for a whole lead: it rose by 4 within one.
    assert led(QUIET + ONCE + TWICE, lead_s=900.0) == pytest.approx((6 + 4) / 6, abs=0.1)
    # Ten minutes later it leads to what was seen.
    assert led(QUIET + [arrivals_for(4)] * 60) == pytest.approx(1.0, abs=0.1)


def test_what_has_just_begun_is_no_climb() -> None:
    assert led([*QUIET[:6], *ONCE[:10]]) == pytest.approx(1.0, abs=0.1)


def test_a_short_window_does_not_keep_a_climb_from_being_met() -> None:
    assert led(QUIET + ONCE[:16], window_s=60.0) == pytest.approx(1.5, abs=0.1)


def test_readings_far_apart_make_no_second_climb_of_one() -> None:
    follower, fed = Follower(CAPACITY, replace(SETTINGS, lead_s=300.0)), Fed(2)
    for arrivals in [2] * 8 + [4] * 5:
        fed.ready = follower(fed.next(6 * arrivals_for(arrivals), seconds=90.0))
    assert follower.decision is not None
    asked, level = follower.decision.asked["Rise"], follower.decision.inputs["level"]
    assert asked * 0.95 / level == pytest.approx(1.5, abs=0.1)


def test_the_count_holds_while_prometheus_is_away_and_goes_on_when_it_is_back() -> None:
    made, follower, fed = follow([arrivals_for(4)] * LONG)
    for _ in range(40):  # ten minutes
        fed.next(arrivals_for(4))
        count = follower(replace(fed.next(0, seconds=0.0), missing=("Prometheus is away",)))
        assert count == made[-1].wanted
        assert follower.decision is not None
        assert follower.decision.term is Term.Missing
    for _ in range(LONG):
        count = follower(fed.next(arrivals_for(4)))
    assert count == made[-1].wanted
    assert follower.decision is not None
    assert follower.decision.term is Term.Rate


def test_a_step_is_believed_within_two_readings() -> None:
    made, _, _ = follow([arrivals_for(2)] * LONG + [arrivals_for(8)] * 2)
    assert made[-1].wanted >= 8


def test_memory_decides_where_long_requests_hold_blocks_and_little_arrives() -> None:
    _, follower, fed = follow([arrivals_for(0.5)] * LONG, ready=4)
    fed.ready = 4
    wanted = follower(fed.next(0, kv_usage=0.97))
    assert follower.decision is not None
    assert follower.decision.term is Term.Memory
    assert wanted == 5  # 4 * 0.97 / 0.9


def test_a_queue_asks_for_no_more_memory_than_the_arriving_work_needs() -> None:
    _, follower, fed = follow([arrivals_for(2)] * LONG)
    follower(fed.next(arrivals_for(2), waiting=3000, kv_usage=0.1))
    assert follower.decision is not None
    asked = follower.decision.asked
    assert asked["Memory"] <= 1.15 * follower.decision.inputs["level"] / SETTINGS.theta + 1e-9


def test_a_real_queue_is_worked_off_and_a_short_one_is_not_noticed() -> None:
    _, follower, fed = follow([arrivals_for(2)] * LONG)
    follower(fed.next(arrivals_for(2), waiting=2))
    assert follower.decision is not None
    assert follower.decision.asked["Backlog"] == 0
    queued = 500
    follower(fed.next(arrivals_for(2) - queued, waiting=queued))
    assert follower.decision.asked["Backlog"] > follower.decision.inputs["level"]


def test_bursts_keep_a_reserve() -> None:
    bursts = [arrivals_for(10) if n % 7 == 0 else arrivals_for(0.2) for n in range(120)]
    made, _, _ = follow(bursts)
    assert "Reserve" in made[-1].asked
    assert made[-1].asked["Reserve"] > made[-1].asked["Rate"]
    calm, _, _ = follow([arrivals_for(2)] * 120)
    assert "Reserve" not in calm[-1].asked


# Times the factor no more than replicas may be seen to do: more is taken for their past.
@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 100), min_size=4, max_size=40), st.floats(1.0, 4.0))
def test_more_of_the_same_load_never_wants_fewer(arrivals: list[float], factor: float) -> None:
    less, _, _ = follow(arrivals)
    more, _, _ = follow([count * factor for count in arrivals])
    assert more[-1].wanted >= less[-1].wanted


@settings(max_examples=25, deadline=None)
@given(ARRIVALS, st.sampled_from(["missing", "stale", "partial", "nan", "inf", "below", "twice"]))
def test_nothing_goes_on_missing_data(arrivals: list[float], how: str) -> None:
    made, follower, fed = follow(arrivals)
    for _ in range(80):
        reading = fed.next(0)
        if how == "missing":
            reading = replace(reading, missing=("no series of `vllm:num_requests_waiting`",))
        elif how == "stale":
            reading = replace(reading, time_s=reading.time_s + 61)
        elif how == "partial":
            reading = replace(reading, ready=reading.ready + 1)
        elif how == "twice":
            reading = replace(reading, replicas=(*reading.replicas, reading.replicas[0]))
        else:
            number = {"nan": math.nan, "inf": math.inf, "below": -1.0}[how]
            first, *others = reading.replicas
            reading = replace(reading, replicas=(replace(first, finished=number), *others))
        assert follower(reading) == made[-1].wanted
        assert follower.decision is not None
        assert follower.decision.term is Term.Missing
        assert follower.decision.reason.startswith(f"The count holds at {made[-1].wanted}")


@settings(max_examples=40, deadline=None)
@given(ARRIVALS)
def test_never_below_the_floor_of_the_recent_peak(arrivals: list[float]) -> None:
    made, _, _ = follow([*arrivals, *[0.0] * 5], replace(SETTINGS, theta=0.99))
    levels = [decision.inputs["level"] for decision in made]
    for at, decision in enumerate(made):
        assert decision.wanted >= max(levels[max(0, at - 19) : at + 1]) / 0.99 / 1.02 - 1e-6


@settings(max_examples=10, deadline=None)
@given(st.floats(0.1, 12.0), st.sampled_from([0.72, 0.80, 0.85]))
def test_constant_load_settles_and_stays(replicas: float, theta: float) -> None:
    chosen = replace(SETTINGS, theta=theta)
    made, _, _ = follow([arrivals_for(replicas)] * (2 * LONG), chosen)
    last = [decision.wanted for decision in made[-LONG:]]
    assert len(set(last)) == 1
    assert last[0] >= replicas / theta / 1.02 - 1e-6


@settings(max_examples=20, deadline=None)
@given(ARRIVALS)
def test_the_same_readings_give_the_same_decisions(arrivals: list[float]) -> None:
    assert follow(arrivals)[0] == follow(arrivals)[0]


@pytest.mark.parametrize("theta", [0.9, 0.95])
@pytest.mark.parametrize("replicas", [1.5, 8.0])
def test_chance_alone_moves_few_replicas(replicas: float, theta: float) -> None:
    chance = np.random.default_rng(7)
    arrivals = chance.poisson(arrivals_for(replicas), 2 * 4 * LONG).tolist()  # two hours
    made, _, _ = follow(arrivals, replace(SETTINGS, theta=theta))
    counts = [decision.wanted for decision in made[4 * LONG :]]
    assert max(counts) - min(counts) <= 2
    assert max(counts) <= 1.3 * replicas / theta + 1
    # In the second hour one comes back three times at most.
    assert sum(after > before for before, after in pairwise(counts)) <= 3


def test_scale_in_waits_for_its_window_then_goes() -> None:
    made, _, _ = follow([arrivals_for(6)] * LONG + [arrivals_for(1)] * LONG)
    counts = [decision.wanted for decision in made]
    low = counts.index(2)
    assert counts[LONG - 1] == 8
    assert set(counts[LONG : LONG + 19]) == {8}
    assert made[LONG + 5].term is Term.Window
    assert low - LONG <= 30
    assert counts[-1] == 2


def test_a_window_that_was_given_counts_alone() -> None:
    chosen = replace(SETTINGS, scale_in_window_s=60.0)
    load = [arrivals_for(1)] * 8 + [arrivals_for(6)] * 8 + [arrivals_for(1)] * 20
    made, _, _ = follow(load, chosen)
    assert made[15].wanted > 6
    # A minute, and the readings until the level of five minutes is down.
    assert min(decision.wanted for decision in made[16:20]) > 6
    assert made[-1].wanted == 2
    usual, _, _ = follow(load)
    assert usual[-1].wanted > 6


def test_bursts_that_are_over_keep_no_reserve_beyond_a_window_that_was_given() -> None:
    bursts = [arrivals_for(3) if n % 7 == 0 else arrivals_for(0.2) for n in range(40)]
    made, _, _ = follow(bursts + [0.0] * 40, replace(SETTINGS, scale_in_window_s=60.0))
    assert made[39].wanted > 1
    assert made[-1].asked["Reserve"] == 0
    assert made[-1].wanted == 1


def test_no_replica_goes_before_history_covers_the_window() -> None:
    made, _, _ = follow([0.0] * 19, ready=7)
    assert {decision.wanted for decision in made} == {7}
    assert "does not cover" in made[-1].reason


def test_no_replica_goes_while_requests_are_preempted() -> None:
    _, follower, fed = follow([arrivals_for(6)] * LONG)
    for _ in range(LONG):
        wanted = follower(fed.next(arrivals_for(1), preempted=3))
    assert wanted == 8
    assert follower.decision is not None
    assert follower.decision.term is Term.Preemption


def test_a_replica_that_had_to_come_back_makes_the_next_wait_longer() -> None:
    wave = [arrivals_for(6)] * 24 + [arrivals_for(1)] * 40
    made, follower, _ = follow(wave * 3)
    counts = [decision.wanted for decision in made]
    first = wave_low(counts, 0)
    assert follower.memory is not None
    assert follower.memory.patience > 1
    assert wave_low(counts, 2) > first


def wave_low(counts: list[int], wave: int) -> int:
    """Steps until the first replica went in a wave; all of them if none did."""
    part = counts[wave * 64 + 24 : (wave + 1) * 64]
    return next((at for at, count in enumerate(part) if count < 8), len(part))


def test_bounds_and_rates_of_change() -> None:
    slow = replace(SETTINGS, added_per_minute=1, removed_per_minute=1)
    made, _, _ = follow([arrivals_for(6)] * LONG + [0.0] * 2 * LONG, slow)
    counts = [2, *(decision.wanted for decision in made)]
    for before, after in zip(counts, counts[4:], strict=False):
        assert abs(after - before) <= 1
    assert max(counts) == 8
    assert made[2].term is Term.Bounds
    few, _, _ = follow([arrivals_for(6)] * 9, replace(SETTINGS, max_replicas=3))
    assert {decision.wanted for decision in few[2:]} == {3}
    none, _, _ = follow([0.0] * 2 * LONG, replace(SETTINGS, min_replicas=0))
    assert none[-1].wanted == 0


def test_one_replica_is_asked_for_when_requests_are_held_and_there_is_none() -> None:
    follower, fed = Follower(CAPACITY, replace(SETTINGS, min_replicas=0)), Fed(0)
    assert follower(fed.next(0)) == 0
    assert follower(replace(fed.next(0), held=1)) == 1


@pytest.mark.parametrize(
    ("moved_s", "words"), [(-500.0, "went back"), (7200.0, "nothing was read")]
)
def test_a_clock_that_jumps_holds_the_count_and_begins_anew(moved_s: float, words: str) -> None:
    made, follower, fed = follow([arrivals_for(6)] * LONG)
    fed.time_s += moved_s
    assert follower(fed.next(0)) == made[-1].wanted
    assert follower.decision is not None
    assert words in follower.decision.reason
    for _ in range(15):
        assert follower(fed.next(0)) == made[-1].wanted


def test_a_replica_that_started_anew_is_counted_from_zero() -> None:
    made, follower, fed = follow([arrivals_for(3)] * LONG)
    fed.counters["replica-0"] = nothing("replica-0")
    assert follower(fed.next(arrivals_for(3))) == made[-1].wanted
    assert follower.decision is not None
    assert follower.decision.inputs["level"] == pytest.approx(3, rel=0.05)


def test_replicas_that_are_all_called_otherwise_hold_the_count() -> None:
    made, follower, fed = follow([arrivals_for(3)] * LONG)
    reading = fed.next(arrivals_for(3))
    renamed = tuple(replace(each, name=f"pod-{each.name}") for each in reading.replicas)
    assert follower(replace(reading, replicas=renamed)) == made[-1].wanted
    assert follower.decision is not None
    assert "another name" in follower.decision.reason


def test_one_replica_that_is_called_otherwise_has_a_past_that_did_not_arrive_now() -> None:
    made, follower, fed = follow([arrivals_for(3)] * 2 * LONG)
    for _ in range(8):
        reading = fed.next(arrivals_for(3))
        first, *others = reading.replicas
        renamed = (replace(first, name="another"), *others)
        assert follower(replace(reading, replicas=renamed)) == made[-1].wanted


def test_the_last_scraped_replica_may_go_without_a_jump_of_the_clock() -> None:
    _, follower, fed = follow([arrivals_for(1)] * LONG)
    reading = fed.next(arrivals_for(1))
    first, *others = reading.replicas
    staggered = (first, *(replace(each, time_s=each.time_s + 7) for each in others))
    follower(replace(reading, replicas=staggered, time_s=reading.time_s + 7))
    known = follower.memory
    follower(replace(reading, ready=1, replicas=(first,), time_s=reading.time_s + 8))
    assert known is not None
    assert follower.memory is not None
    assert follower.memory.demand.rows == known.demand.rows


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"theta": 0.0}, "`theta`"),
        ({"theta": math.nan}, "`theta`"),
        ({"theta": 1.5}, "`theta`"),
        ({"scale_in_window_s": 0.0}, "scale_in_window_s"),
        ({"lead_s": -1.0}, "`lead_s`"),
        ({"prompt_rate": 0.0}, "`prompt_rate`"),
        ({"min_replicas": 9, "max_replicas": 3}, "`min_replicas`"),
        ({"removed_per_minute": -3}, "`removed_per_minute`"),
        ({"added_per_minute": 1.5}, "`added_per_minute` is 1.5, and must be a whole number"),
        ({"missed_share": math.nan}, "`missed_share`"),
    ],
)
def test_settings_that_cannot_be_are_refused(changes: dict[str, float], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Settings(**{"lead_s": 100.0, **changes})  # type: ignore[arg-type]


def test_what_a_prefix_cache_held_is_no_work() -> None:
    assert CAPACITY.work_s(PROMPT, OUTPUT, PROMPT / 5) < 0.8 * WORK_S


def test_a_token_budget_that_no_scaling_can_help_is_said() -> None:
    assert itl_refusal(CAPACITY, replace(SETTINGS, itl_s=0.3)) is None
    said = itl_refusal(CAPACITY, SETTINGS)
    assert said is not None
    assert "token budget (1024)" in said
    assert "max_num_batched_tokens" in said
