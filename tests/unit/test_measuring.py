"""Figures and capacity cards of an endpoint, from rounds of load.

We test these aspects:
- vLLM's benchmark's result becomes a round; what broke off is a failure although it says success
- figures: percentiles, tokens per second of one user and of all, tokens a step
- answers that came whole in one chunk have no inter-token latency, and no ratio of it
- ratios of rounds: what changes both sides alike is not in the bounds, and one round has none
- a burst's sample: the span in which all decode, its KV tokens and its seconds, also where chunks
  came together; none of a burst that was not whole
- the fit finds the costs that made the steps, with a request's own seconds apart from them
- what goes wrong with the bursts for the card costs the card alone
- no card where the engine is unknown, or several replicas share the load, with the reason
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from halftone.serve.measuring.benching import measure
from halftone.serve.measuring.document import Ratio
from halftone.serve.measuring.engine_document import ServedEngine
from halftone.serve.measuring.load import LoadProcess, Round, Served, as_round
from halftone.serve.measuring.rounds import Endpoint, Shape, figures, ratio, ratios
from halftone.serve.measuring.steps import burst_step, fit, measure_card
from halftone.validate.capacity import Step
from halftone.validate.serving.session import EngineFacts


def result(**changes: Any) -> dict[str, Any]:
    """What vLLM's benchmark gives for two requests of three tokens each."""
    return {
        "duration": 2.0,
        "input_lens": [8, 8],
        "output_lens": [3, 3],
        "start_times": [10.0, 10.5],
        "ttfts": [0.1, 0.3],
        "itls": [[0.02, 0.02], [0.04, 0.04]],
        "errors": ["", ""],
        **changes,
    }


def test_a_result_becomes_a_round() -> None:
    found = as_round(result(spec_decode_num_drafts=4, spec_decode_accepted_tokens=6), 3)
    assert (found.failures, found.tokens_per_second) == ((), 3.0)
    assert found.served[0].arrivals == pytest.approx([10.1, 10.12, 10.14])
    assert (found.drafts, found.accepted) == (4, 6)


def test_what_broke_off_is_a_failure() -> None:
    errors = ["Traceback\n  line\naiohttp.ClientError: gone\n", ""]
    found = as_round(result(output_lens=[0, 2], errors=errors), 3)
    assert found.served == ()
    assert found.failures == ("aiohttp.ClientError: gone", "broke off after 3 chunks")


def test_figures() -> None:
    found = figures([as_round(result(spec_decode_num_drafts=4, spec_decode_accepted_tokens=6), 3)])
    assert (found.requests, found.failed) == (2, 0)
    assert found.itlMs is not None
    assert found.tokensPerSecondPerUser is not None
    assert (found.ttftMs.p50, found.itlMs.p50) == pytest.approx((200, 30))
    assert found.tokensPerSecond == 3.0
    assert found.tokensPerSecondPerUser.p50 == pytest.approx(1 / 0.03)
    assert found.tokensPerSecondPerUser.p95 == pytest.approx(1 / 0.039)
    assert (found.acceptLength, found.tokensPerChunk) == (2.5, 1.0)
    assert figures([as_round(result(), 3)]).acceptLength is None


def test_answers_of_one_chunk_have_no_time_between_tokens() -> None:
    whole, pieces = as_round(result(itls=[[], []]), 3), as_round(result(), 3)
    assert (figures([whole]).itlMs, figures([whole]).tokensPerChunk) == (None, None)
    assert ratios([whole, pieces], [pieces, whole]).itl is None
    found = ratios([whole, pieces], [pieces, pieces])
    assert (found.itl, found.ttft.value) == (Ratio(value=1, lower=None, upper=None), 1)


def test_what_slows_both_is_not_in_the_bounds() -> None:
    found = ratio([2.0, 20.0, 0.2], [1.0, 10.0, 0.1])
    assert (found.value, found.lower, found.upper) == pytest.approx((2, 2, 2))


def test_bounds_are_students() -> None:
    # Logarithms 0.1, 0.2, 0.3: mean 0.2, error 0.1 / sqrt(3), and t(0.975; 2) = 4.3027.
    found = ratio(np.exp([0.1, 0.2, 0.3]).tolist(), [1.0, 1.0, 1.0])
    assert found.lower == pytest.approx(np.exp(0.2 - 4.3027 * 0.1 / 3**0.5), rel=1e-4)
    assert ratio([2.0], [1.0]).lower is None


def burst(sequences: int, seconds: float, chunks: int = 20, lag: float = 0.0) -> Round:
    """Streams in lock-step, each later by `lag`, with prompts of 100 tokens."""
    served = tuple(
        Served(100, chunks, 5.0, 0.1 + lag * number, (seconds,) * (chunks - 1))
        for number in range(sequences)
    )
    return Round(served, (), 1.0, 0, 0)


def test_a_burst_is_one_sample() -> None:
    step = burst_step(burst(4, 0.01), 4)
    assert step is not None
    # In the middle of twenty tokens each has 100 and ten.
    assert step == pytest.approx((4 * 110, 4, 0, 0.01))


def test_a_sample_is_taken_where_all_decode() -> None:
    step = burst_step(burst(2, 0.01, lag=0.045), 2)
    assert step is not None
    # From 5.145 to 5.29: the first has 12 chunks in the middle, the second 8.
    assert step.kvTokens == pytest.approx(200 + 12 + 8)


def test_chunks_that_came_together_do_not_shorten_a_step() -> None:
    whole = burst(1, 0.01, chunks=21)
    gaps = (0.01,) * 5 + (0.05, 0.0, 0.0, 0.0, 0.0) + (0.01,) * 10
    step = burst_step(Round((Served(100, 21, 5.0, 0.1, gaps),), (), 1.0, 0, 0), 1)
    plain = burst_step(whole, 1)
    assert step is not None
    assert plain is not None
    assert step.seconds == pytest.approx(plain.seconds)


@pytest.mark.parametrize(
    "round_",
    [Round(burst(3, 0.01).served, ("gone",), 1.0, 0, 0), burst(4, 0.01, lag=0.06), burst(4, 1, 3)],
    ids=["one failed", "never all at once", "too short"],
)
def test_no_sample_of_what_was_not_whole(round_: Round) -> None:
    assert burst_step(round_, 4) is None


COSTS = (0.004, 2e-7, 3e-4, 1 / 5000)
REQUEST = 0.012


def steps(noise: float = 0.0) -> tuple[list[Step], list[Step]]:
    numbers = np.random.default_rng(3)
    base, kv, sequence, token = COSTS
    decode = [
        Step(n * length, n, 0, base + kv * n * length + sequence * n)
        for n in (1, 8, 32)
        for length in (64, 256, 768)
    ] * 3
    prefill = [
        Step(0, 0, length, base + length * token + REQUEST) for length in (64, 128, 256, 384, 512)
    ]
    blurred = [
        [step._replace(seconds=step.seconds * numbers.lognormal(0, noise)) for step in part]
        for part in (decode, prefill)
    ]
    return blurred[0], blurred[1]


def test_the_fit_finds_the_costs() -> None:
    costs, request_seconds = fit(*steps())
    found = (costs.base, costs.perKvToken, costs.perSequence, costs.perPrefillToken)
    assert [value for value, _ in found] == pytest.approx(COSTS, rel=1e-6)
    assert request_seconds == pytest.approx(REQUEST)


def test_errors_are_of_the_size_of_what_is_wrong() -> None:
    costs, _ = fit(*steps(noise=0.05))
    found = (costs.base, costs.perKvToken, costs.perSequence, costs.perPrefillToken)
    for (value, error), truth in zip(found, COSTS, strict=True):
        assert error > 0
        assert abs(value - truth) < 4 * error


@pytest.mark.parametrize("count", [2, 27])
def test_steps_that_do_not_differ_tell_nothing(count: int) -> None:
    with pytest.raises(ValueError, match=r"cannot tell|differ too little"):
        fit([Step(100, 1, 0, 0.01)] * count, [])


def engine(replicas: int) -> ServedEngine:
    facts = EngineFacts(
        loadSeconds=1,
        kvBlocks=8,
        cacheGroups=(),
        device="CPU",
        driver=None,
        capability=None,
        emulated=True,
        engine="vllm 0.32.0",
        kernels=(),
        maxModelLen=512,
        maxSequences=16,
        tokenBudget=512,
        vocabulary=100,
        sees=False,
        engineArguments={},
    )
    return ServedEngine(
        servedModelName="m", checkpointDigest="c" * 64, replicas=replicas, engine=facts
    )


@pytest.mark.parametrize(
    ("served", "said"),
    [(None, "has no `/halftone/engine`"), (engine(2), "has 2 replicas")],
)
def test_no_card_of_what_is_not_known(
    tmp_path: Path, served: ServedEngine | None, said: str
) -> None:
    endpoint = Endpoint("http://127.0.0.1:1", {}, "m", [1, 2])
    process = LoadProcess(tmp_path / "no-python", tmp_path / "log")  # never started
    found = measure_card(process, endpoint, served, 64, 8)
    assert found.card is None
    assert said in str(found.noCardBecause)


# Stands for the process with vLLM's benchmark: serves two loads, and fails from then on.
FAILING = """#!{python}
import json, sys
for number, line in enumerate(sys.stdin):
    asked = json.loads(line)
    rows = len(asked["prompts"])
    found = {{
        "duration": 1.0, "errors": [""] * rows, "input_lens": [4] * rows,
        "output_lens": [asked["outputTokens"]] * rows, "start_times": [0.0] * rows,
        "ttfts": [0.1] * rows, "itls": [[0.02] * (asked["outputTokens"] - 1)] * rows,
    }}
    print(json.dumps(found if number < 2 else {{"error": "the endpoint is gone"}}), flush=True)
"""


def test_what_goes_wrong_with_the_card_costs_the_card_alone(tmp_path: Path) -> None:
    program = tmp_path / "python"
    program.write_text(FAILING.format(python=sys.executable))
    program.chmod(0o700)
    endpoint = Endpoint("http://127.0.0.1:1", {}, "m", [1, 2])
    shape = Shape(4, 3, (2,), requests_a_slot=1, rounds=1)
    found = measure(program, tmp_path / "log", [endpoint], engine(1), shape, True, lambda _: None)
    assert found.loads[0].endpoint.requests == 2
    assert found.capacity.card is None
    assert str(found.capacity.noCardBecause).endswith("the endpoint is gone")


def test_an_engine_travels_as_json() -> None:
    assert ServedEngine.model_validate_json(engine(1).model_dump_json()) == engine(1)
