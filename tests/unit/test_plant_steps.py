"""One replica of the plant: what a step takes, who is in it, and what it does to blocks.

We test these aspects: step times follow the capacity's formula, with prefill in chunks of the
budget; requests are served in order; blocks are never more than there are and all come back;
requests are preempted when blocks run out, and computed again; windows give blocks back; prompts
that the prefix cache holds are not computed; a queue with one server waits as M/D/1 does.
"""

import inspect
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from halftone.scaling.capacity import CacheGroup
from halftone.scaling.loads.load import Load
from halftone.scaling.plant import advancing, cache_blocks, routing, state, stepping
from halftone.scaling.plant.endpoint import Plant, answers
from tests.scaling_cases import (
    at_once,
    capacity,
    compile_plant,
    finished,
    mixed,
    poisson,
    trajectory,
    world,
)

# Columns of a trajectory's row.
RUNNING, WAITING, BLOCKS, TOKENS, RUNNING_AFTER, BLOCKS_AFTER, PREEMPTIONS = range(7)

TIGHT = capacity(kv_blocks=40, token_budget=64, max_sequences=8)
HYBRID = capacity(
    kv_blocks=90,
    groups=(
        CacheGroup(16),
        CacheGroup(16, most=9, window=60),
        CacheGroup(16, most=2, pinned=True),
    ),
    token_budget=64,
    max_sequences=8,
)


@pytest.fixture(autouse=True, scope="module")
def compiled() -> None:
    compile_plant()


def test_a_first_token_takes_a_step_for_each_budget_of_its_prompt() -> None:
    plant = finished(world(), at_once(1, prompt=1200, output=1))
    ttft, itl = answers(plant)
    assert ttft[0] == pytest.approx(3 * 0.01 + 1200 / 10_000)
    assert np.isnan(itl[0])


def test_later_tokens_cost_the_base_the_sequence_and_the_tokens_before_them() -> None:
    costly = capacity(seconds_per_kv_token=1e-5, seconds_per_sequence=1e-3)
    plant = finished(world(capacity=costly), at_once(1, prompt=100, output=4))
    _, itl = answers(plant)
    kv_tokens = np.mean([101, 102, 103])
    assert itl[0] == pytest.approx(0.01 + 1e-3 + 1e-5 * kv_tokens)


def test_a_prompt_in_the_same_step_makes_others_wait_for_it() -> None:
    load = Load.of("two", [0.0, 0.025], [10, 400], [5, 1])
    plant = finished(world(), load)
    _, itl = answers(plant)
    # Of its four later tokens one shares a step with the other's prompt.
    assert itl[0] == pytest.approx(0.01 + 400 / 10_000 / 4)


def test_an_idle_replica_begins_at_the_arrival() -> None:
    load = Load.of("late", [3.3, 70.1], [100, 100], [1, 1])
    ttft, _ = answers(finished(world(), load))
    assert ttft == pytest.approx([0.02, 0.02])


def test_no_more_sequences_run_than_allowed() -> None:
    steps = trajectory(capacity(max_sequences=3), [(10, 20, 0)] * 10)
    assert {row[RUNNING] for row in steps} == {3, 1}
    assert sum(row[TOKENS] for row in steps) == 10 * (10 + 19)


def test_no_step_has_more_tokens_than_the_budget() -> None:
    steps = trajectory(capacity(token_budget=50), [(120, 5, 0)] * 4)
    assert max(row[TOKENS] for row in steps) == 50


def test_first_tokens_come_in_the_order_of_arrival() -> None:
    plant = finished(world(capacity=capacity(kv_blocks=9000)), mixed(300, seconds=20.0))
    assert plant.preemptions == 0
    assert (np.diff(plant.requests.first_s) >= 0).all()


def test_a_prompt_is_admitted_only_when_all_of_it_fits() -> None:
    # 20 of 30 blocks are taken; the second needs 12, although its first chunk needs four.
    steps = trajectory(capacity(kv_blocks=30, token_budget=64), [(310, 5, 0), (190, 1, 0)])
    first_ends = next(number for number, row in enumerate(steps) if row[RUNNING_AFTER] == 0)
    assert all(row[RUNNING] == 1 and row[WAITING] == 1 for row in steps[: first_ends + 1])
    assert steps[first_ends + 1][TOKENS] == 64


def test_the_last_admitted_is_preempted_and_comes_back_before_others() -> None:
    # Three requests of two blocks each want a third block in step 3, and there are eight blocks.
    # The fourth would fit into what is left, and stays behind the one that was preempted.
    steps = trajectory(capacity(kv_blocks=8), [(30, 40, 0)] * 3 + [(30, 1, 3)])
    assert [row[PREEMPTIONS] for row in steps[:6]] == [0, 0, 0, 1, 1, 1]
    assert [row[RUNNING] for row in steps[:6]] == [3, 3, 3, 2, 2, 2]
    assert [row[WAITING] for row in steps[:6]] == [0, 0, 0, 2, 2, 2]
    assert [row[BLOCKS] for row in steps[:6]] == [6, 6, 6, 6, 6, 6]


def test_what_was_preempted_is_computed_again_and_generated_once() -> None:
    load = at_once(20, prompt=60, output=100)
    roomy, tight = (
        finished(world(capacity=capacity(kv_blocks=blocks)), load) for blocks in (1000, 40)
    )
    assert roomy.preemptions == 0 < tight.preemptions
    once = int((load.prompt + load.output - 1).sum())
    assert roomy.cursor[state.COMPUTED] == once < tight.cursor[state.COMPUTED]
    for plant in (roomy, tight):
        assert plant.replicas.counters[0, state.GENERATION] == load.output.sum()
        assert plant.replicas.counters[0, state.PROMPT] == load.prompt.sum()


def test_a_window_gives_blocks_back_and_lets_more_requests_run() -> None:
    window = CacheGroup(16, most=9, window=64)
    short, long = (
        trajectory(capacity(kv_blocks=200, groups=(group,)), [(400, 100, 0)])
        for group in (window, CacheGroup(16))
    )
    assert max(row[BLOCKS] for row in long) == 32
    assert short[-1][BLOCKS] <= 64 // 16 + 1
    assert len(short) == len(long)


@pytest.mark.parametrize("prompt", [1, 40, 63, 64, 65, 300])
def test_what_decodes_holds_the_blocks_that_the_capacity_says(prompt: int) -> None:
    steps = trajectory(HYBRID, [(prompt, 150, 0)])
    decoding = [row for row in steps if row[TOKENS] == 1][-149:]
    expected = [HYBRID.blocks(prompt + made) for made in range(1, 150)]
    assert [row[BLOCKS] for row in decoding] == expected


def test_pinned_state_is_held_from_the_first_token_on() -> None:
    groups = (CacheGroup(784), CacheGroup(784, most=3, pinned=True))
    steps = trajectory(capacity(groups=groups, token_budget=100), [(150, 3, 0)])
    assert [row[BLOCKS] for row in steps] == [4, 4, 4, 4]
    assert steps[-1][BLOCKS_AFTER] == 0


@given(
    lengths=st.lists(
        st.tuples(st.integers(1, 200), st.integers(1, 120), st.integers(0, 60)),
        min_size=1,
        max_size=25,
    ),
    hybrid=st.booleans(),
)
@settings(max_examples=25)
def test_blocks_and_tokens_are_conserved(lengths: list[tuple[int, int, int]], hybrid: bool) -> None:
    replica = HYBRID if hybrid else TIGHT
    requests = sorted(lengths, key=lambda each: each[2])
    steps = trajectory(replica, requests)
    computed = sum(row[TOKENS] for row in steps)
    once = sum(prompt + output - 1 for prompt, output, _ in requests)
    assert all(0 <= row[BLOCKS] <= replica.kv_blocks for row in steps)
    assert all(0 <= row[BLOCKS_AFTER] <= row[BLOCKS] for row in steps)
    assert all(row[RUNNING] <= replica.max_sequences for row in steps)
    assert (computed > once) == (steps[-1][PREEMPTIONS] > 0)
    assert computed >= once
    assert steps[-1][BLOCKS_AFTER] == steps[-1][RUNNING_AFTER] == 0


@pytest.mark.parametrize("module", [advancing, cache_blocks, routing, state, stepping])
def test_a_change_of_what_kernels_are_made_of_has_them_compiled_anew(module: ModuleType) -> None:
    # `halftone.checkpoint.jit` keeps machine code under a digest of the sources that name it.
    assert "halftone.checkpoint.jit" in inspect.getsource(module)


def test_a_warm_replica_does_not_compute_what_its_prefix_cache_holds() -> None:
    plant = finished(world(), at_once(1, prompt=400, output=2, cached=300))
    ttft, _ = answers(plant)
    assert ttft[0] == pytest.approx(0.01 + 100 / 10_000)
    assert plant.replicas.counters[0, state.CACHED] == 300
    assert plant.replicas.counters[0, state.PROMPT] == 400


def test_the_last_token_of_a_prompt_is_always_computed() -> None:
    plant = finished(world(), at_once(1, prompt=400, output=1, cached=400))
    assert plant.replicas.counters[0, state.CACHED] == 399


def test_the_prefix_cache_of_a_new_replica_fills_with_the_requests_that_it_gets() -> None:
    plant = Plant(world(start=0, lead_s=0.0), at_once(300, prompt=100, output=1, cached=80))
    plant.scale(1)
    plant.finish()
    hits = plant.requests.hit
    assert hits[0] == 0
    assert hits[100] == 40
    assert set(hits[200:]) == {80}


def test_one_server_with_equal_services_waits_as_its_formula_says() -> None:
    service, share = 0.01 + 400 / 10_000, 0.7
    load = poisson(rate=share / service, seconds=1500.0, prompt=400, output=1, seed=3)
    ttft, _ = answers(finished(world(capacity=capacity(max_sequences=1)), load))
    waited = float(ttft.mean()) - service
    assert waited == pytest.approx(share / (2 * (1 - share)) * service, rel=0.1)
