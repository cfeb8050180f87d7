"""The plant's replica against vLLM's own scheduler and KV manager, step by step.

We test these aspects: requests running and waiting, blocks in use, tokens of a step and preemptions
are equal in every step, on plain models and hybrid ones, with requests that come at once and step
by step; the cases preempt and hit the limits of tokens, sequences and blocks. Where a prefix cache
gives a preempted request its own blocks back, vLLM computes less than the plant, and never more.

Not compared: overlapped steps (asynchronous scheduling gives blocks back a step later), and hybrid
models whose prefix cache stores states at block boundaries (chunks end there, and a request holds
two blocks of state instead of one now and then).
"""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from halftone.scaling.capacity import CacheGroup, Capacity
from tests.environments import ask
from tests.scaling_cases import capacity, trajectory

pytestmark = pytest.mark.serve_env

PLAIN = [["full", 16, 0]]
WINDOWED = [["full", 16, 0], ["window", 16, 40]]
STATEFUL = [["full", 32, 0], ["state", 32, 0], ["state", 32, 0], ["state", 32, 0]]
HYBRID = [["full", 16, 0], ["window", 16, 100], ["state", 16, 0]]


def case(
    name: str, groups: list[list[Any]], blocks: int, *, staggered: bool, seed: int, **more: Any
) -> dict[str, Any]:
    """Requests at random, at once or over 100 steps; `blocks` count the one never handed out."""
    chance = np.random.default_rng(seed)
    count = 24
    steps = np.sort(chance.integers(0, 100, count)) if staggered else np.zeros(count, int)
    lengths = chance.integers(1, 150, (count, 2))
    requests = np.column_stack([lengths, steps]).tolist()
    fields = {"tokenBudget": 64, "maxSequences": 6, "prefixCaching": False, **more}
    return {"name": name, "groups": groups, "blocks": blocks, "requests": requests, **fields}


CASES = [
    case("plain, roomy", PLAIN, 400, staggered=False, seed=1),
    case("plain, tight", PLAIN, 30, staggered=False, seed=2),
    case("plain, tight, staggered", PLAIN, 30, staggered=True, seed=3),
    case("plain, many sequences", PLAIN, 60, staggered=False, seed=4, maxSequences=24),
    case("plain, wide steps", PLAIN, 60, staggered=True, seed=5, tokenBudget=256, maxSequences=24),
    case("plain, few tokens a step", PLAIN, 60, staggered=True, seed=6, tokenBudget=8),
    case("plain, cached prefixes, roomy", PLAIN, 900, staggered=True, seed=7, prefixCaching=True),
    case("window", WINDOWED, 48, staggered=False, seed=8),
    case("window, staggered", WINDOWED, 44, staggered=True, seed=9, maxSequences=12),
    case("state", STATEFUL, 34, staggered=False, seed=10, maxSequences=12),
    case("state, staggered", STATEFUL, 30, staggered=True, seed=11, maxSequences=12),
    case("hybrid", HYBRID, 60, staggered=False, seed=12, maxSequences=12),
    case("hybrid, staggered", HYBRID, 56, staggered=True, seed=13, maxSequences=12),
    case("hybrid, wide steps", HYBRID, 70, staggered=True, seed=14, tokenBudget=256),
]
RETURNING = case("cached, tight", PLAIN, 30, staggered=False, seed=2, prefixCaching=True)
TIGHT = {"plain, tight", "plain, many sequences", "window", "state", "hybrid"}


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What vLLM did in each case, asked once."""
    asked = [*CASES, RETURNING]
    said = ask(
        "serve",
        "vllm_scheduler.py",
        asked,
        work=tmp_path_factory.mktemp("scheduler"),
        timeout_s=240,
    )
    return {row["name"]: answer for row, answer in zip(asked, said, strict=True)}


def as_capacity(case: dict[str, Any], answer: dict[str, Any]) -> Capacity:
    """The replica of a case, with what vLLM sets aside for a request as a card would say it."""
    groups = [
        CacheGroup(
            block_tokens=size,
            most=None if kind == "full" else most,
            pinned=kind == "state",
            window=window or None,
        )
        for (kind, size, window), most in zip(
            case["groups"], answer["blocksPerRequest"], strict=True
        )
    ]
    return capacity(
        kv_blocks=case["blocks"] - 1,
        groups=tuple(groups),
        token_budget=case["tokenBudget"],
        max_sequences=case["maxSequences"],
    )


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_every_step_is_the_one_that_vllm_takes(
    case: dict[str, Any], answers: dict[str, dict[str, Any]]
) -> None:
    answer = answers[case["name"]]
    ours = trajectory(as_capacity(case, answer), case["requests"])
    differing = [
        (number, one, other)
        for number, (one, other) in enumerate(zip(ours, answer["steps"], strict=False))
        if one != other
    ]
    assert differing[:3] == []
    assert len(ours) == len(answer["steps"])


@pytest.mark.parametrize("name", sorted(TIGHT))
def test_the_cases_preempt(name: str, answers: dict[str, dict[str, Any]]) -> None:
    assert answers[name]["steps"][-1][-1] > 0


def test_a_window_gives_blocks_back_while_its_request_runs(
    answers: dict[str, dict[str, Any]],
) -> None:
    steps = answers["window, staggered"]["steps"]
    given_back = [
        after[2] < before[5]  # fewer blocks once the step was decided, and nobody was preempted
        for before, after in pairwise(steps)
        if after[6] == before[6]
    ]
    assert any(given_back)


def test_what_a_prefix_cache_gives_back_after_a_preemption_only_saves_vllm_work(
    answers: dict[str, dict[str, Any]],
) -> None:
    answer = answers[RETURNING["name"]]
    ours = trajectory(as_capacity(RETURNING, answer), RETURNING["requests"])
    computed = [sum(step[3] for step in steps) for steps in (answer["steps"], ours)]
    assert answer["steps"][-1][-1] > 0
    assert computed[0] < computed[1]
