"""Tokens of finished requests through Ray.

We test these aspects:
- they are exact when all requests have finished, and near it while some run;
- they never shrink, but when a replica begins anew, and are never more than all tokens;
- vLLM's own sums, and those without a histogram, stay as they are.
"""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from halftone.scaling.inputs.estimating import estimated
from halftone.scaling.inputs.names import NATIVE, RAY, Family
from halftone.scaling.inputs.parsing import Sample
from halftone.scaling.inputs.queries import FIELD
from halftone.scaling.reading import TTFT_BOUNDS, ReplicaReading
from tests.input_samples import NOW, read, ready, replica

# What Ray makes of ten requests of 2,100 tokens with 210 tokens of output.
MIDDLES = {"finished_prompt_tokens": 35_000.0, "finished_output_tokens": 3500.0}
BARE = ReplicaReading(
    name="a",
    time_s=NOW,
    running=0.0,
    waiting=0.0,
    kv_usage=0.0,
    finished=10.0,
    prompt_tokens=21_000.0,
    cached_tokens=0.0,
    generation_tokens=2100.0,
    finished_prompt_tokens=MIDDLES["finished_prompt_tokens"],
    finished_output_tokens=MIDDLES["finished_output_tokens"],
    preemptions=0.0,
)


def counted(finished: int, begun: int, prompt: float = 2100, output: float = 210) -> ReplicaReading:
    """A replica that had requests of one length; those that run have half of their output."""
    return replace(
        BARE,
        running=float(begun - finished),
        finished=float(finished),
        prompt_tokens=prompt * begun,
        generation_tokens=output * (finished + (begun - finished) / 2),
        ttft=(*(0.0 for _ in TTFT_BOUNDS), float(begun)),
    )


@pytest.mark.parametrize(("finished", "begun"), [(10, 10), (10, 14), (1, 40), (0, 3)])
def test_requests_of_one_length_are_exact_finished_or_not(finished: int, begun: int) -> None:
    found = estimated(counted(finished, begun), None)
    assert found.finished_prompt_tokens == pytest.approx(2100 * finished)
    assert found.finished_output_tokens == pytest.approx(210 * finished)


def test_without_a_histogram_they_stay_as_they_are() -> None:
    assert estimated(BARE, None) == BARE


@pytest.mark.parametrize(("family", "prompt"), [(RAY, 21_000), (NATIVE, 35_000)])
def test_sums_of_vllm_itself_are_exact_and_stay(family: Family, prompt: float) -> None:
    values = {"finished": 10.0, "prompt_tokens": 21_000.0, **MIDDLES}
    samples = replica("a", family, values=values)
    labels = {**samples[0].labels, FIELD: "ttft"}
    for bound in (*TTFT_BOUNDS, "+Inf"):
        samples.append(Sample({**labels, "le": str(bound)}, 10))
    reading, _ = read(samples, ready("a"), family=family)
    assert reading.replicas[0].finished_prompt_tokens == prompt


def test_half_recorded_counters_make_no_more_than_all_tokens() -> None:
    found = estimated(counted(10, 4), None)
    assert (found.finished_prompt_tokens, found.finished_output_tokens) == (2100 * 4, 210 * 7)


def test_a_replica_that_begins_anew_may_have_less() -> None:
    before = estimated(counted(100, 100), None)
    assert estimated(counted(2, 2), before).finished_prompt_tokens == 4200


steps = st.lists(
    st.tuples(st.integers(0, 20), st.floats(0, 1), st.integers(1, 9000), st.integers(1, 900)),
    min_size=1,
    max_size=12,
)


@given(steps)
def test_they_never_shrink(steps: list[tuple[int, float, int, int]]) -> None:
    before: ReplicaReading | None = None
    finished = begun = 0
    prompts = outputs = 0.0
    for more, share, prompt, output in steps:
        begun += more
        finished += int((begun - finished) * share)
        prompts, outputs = prompts + more * prompt, outputs + more * output
        made = counted(finished, begun, prompts / max(begun, 1), outputs / max(begun, 1))
        found = estimated(made, before)
        if before is not None:
            assert found.finished_prompt_tokens >= before.finished_prompt_tokens or not begun
            assert found.finished_output_tokens >= before.finished_output_tokens or not begun
        before = found if begun else None
