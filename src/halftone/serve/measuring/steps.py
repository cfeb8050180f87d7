"""A capacity card of an endpoint, from what a client sees of its engine's steps.

Called by `benching`. The card's model is that of `halftone.validate.capacity`:

    seconds of a step = base + a · KV tokens + b · sequences + prompt tokens / V_P

From outside a step is seen as the time between two chunks of a stream. So that its composition is
known, requests come in bursts: n at once, all with prompts and answers of one length, and nothing
else at the endpoint. From the last first token to the first end all n decode together, and that
span gives one sample: the median over the streams of the mean time between chunks, with n sequences
and the KV tokens that they hold in its middle. (Single chunks say less: a busy client sees some at
once.) Prompts alone, of one token's answer, give the rest: their time to the first token, which has
also what a request costs before and after the engine (HTTP, tokens, queue). That is no part of a
step, so it is fitted as a fifth cost, `requestSeconds`, and is not on the card.

All five are fitted at once by non-negative least squares of relative errors; standard errors are
those of the linear fit, over samples. What streaming costs at each step is part of `base` and `b`,
because it cannot be told apart from here, and users pay it. Under speculative decoding a chunk is a
step, and KV tokens grow by an answer's mean tokens a chunk. With several replicas the bursts would
be divided in a way that nobody knows, so there is no card.
"""

import random
from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np

from halftone.serve.measuring.document import Card
from halftone.serve.measuring.engine_document import ENGINE_PATH, ServedEngine
from halftone.serve.measuring.load import LoadProcess, Round, Served
from halftone.serve.measuring.rounds import Endpoint
from halftone.validate.capacity import (
    Step,
    StepCosts,
    card_of,
    non_negative_least_squares,
    standard_errors,
)
from halftone.validate.serving.session import EngineFacts

# As `validate.serving.speed` samples an engine from inside.
_SEQUENCE_SHARES: Final = (0.0, 0.25, 1.0)
_PROMPT_FACTORS: Final = (0.25, 1.0, 3.0)
_DECODE_STEPS: Final = 26
_FEWEST_STEPS: Final = 4
_BURST_REPEATS: Final = 3
_PREFILL_SHARES: Final = (0.125, 0.25, 0.5, 0.75, 1.0)
_PREFILL_REPEATS: Final = 3
# A CPU reads a few hundred tokens a second.
_LONGEST_PREFILL_ON_A_CPU: Final = 512
_FEWEST_SAMPLES: Final = 8


def measure_card(
    process: LoadProcess,
    endpoint: Endpoint,
    served: ServedEngine | None,
    prompt: int,
    most: int,
) -> Card:
    """The card of `endpoint`, with bursts of up to `most` requests with prompts about `prompt`.

    Without one where the endpoint does not say what its engine is, or has several replicas, or
    where the samples do not tell the costs apart; the answer then says why.
    """
    if served is None:
        return _without(
            f"The endpoint has no `{ENGINE_PATH}`, so nobody knows what a card would be about; "
            "serve the artifact with `halftone serve` or the chart."
        )
    if served.replicas > 1:
        return _without(
            f"The endpoint has {served.replicas} replicas, and a card says what one can do; "
            "measure it with `replicas` of 1."
        )
    numbers = random.Random(1)  # noqa: S311  # prompts, no secret
    facts = served.engine
    decode = list(_decode_steps(process, endpoint, facts, prompt, most, numbers))
    prefill = list(_prefill_steps(process, endpoint, facts, numbers))
    try:
        costs, request_seconds = fit(decode, prefill)
    except ValueError as error:
        return _without(f"The steps tell no costs: {error}.")
    samples = len(decode) + len(prefill)
    card = card_of(facts, costs, samples, facts.loadSeconds, served.checkpointDigest)
    return Card(card=card, requestSeconds=request_seconds, noCardBecause=None)


def fit(decode: Sequence[Step], prefill: Sequence[Step]) -> tuple[StepCosts, float]:
    """The costs of a step, and the seconds of a request beside its steps.

    Raises ValueError for too few samples, or some that do not differ enough.
    """
    rows = np.asarray([*decode, *prefill], np.float64).reshape(-1, 4)
    if len(rows) < _FEWEST_SAMPLES:
        raise ValueError(f"{len(rows)} samples cannot tell five costs and their errors")
    seconds = rows[:, 3]
    is_request = np.repeat([0.0, 1.0], [len(decode), len(prefill)])
    design = np.column_stack([np.ones(len(rows)), rows[:, :3], is_request]) / seconds[:, None]
    scaled = design / np.linalg.norm(design, axis=0).clip(min=1e-300)
    if np.linalg.matrix_rank(scaled) < design.shape[1]:
        raise ValueError("the samples differ too little to tell their costs apart")
    values = non_negative_least_squares(design, np.ones(len(rows)))
    errors = standard_errors(design, values)
    pairs = list(zip(values.tolist(), errors.tolist(), strict=True))
    return StepCosts(*pairs[:4]), float(values[4])


def _decode_steps(
    process: LoadProcess,
    endpoint: Endpoint,
    facts: EngineFacts,
    prompt: int,
    most: int,
    numbers: random.Random,
) -> Iterator[Step]:
    most = min(most, facts.maxSequences)
    room = facts.maxModelLen - _DECODE_STEPS - 1
    for sequences in sorted({max(1, round(most * share)) for share in _SEQUENCE_SHARES}):
        for factor in _PROMPT_FACTORS:
            length = max(1, min(round(prompt * factor), room))
            for _ in range(_BURST_REPEATS):
                load = endpoint.load(length, _DECODE_STEPS, sequences, sequences, numbers)
                step = burst_step(process.put(load), sequences)
                if step is not None:
                    yield step


def burst_step(round_: Round, sequences: int) -> Step | None:
    """The sample of one burst of `sequences` requests; None of one that was not whole."""
    if len(round_.served) != sequences:
        return None
    arrivals = [each.arrivals for each in round_.served]
    begun, ended = max(times[0] for times in arrivals), min(times[-1] for times in arrivals)
    inside = [[t for t in times if begun <= t <= ended] for times in arrivals]
    if min(map(len, inside)) <= _FEWEST_STEPS:
        return None
    gaps = [(times[-1] - times[0]) / (len(times) - 1) for times in inside]
    tokens = sum(_kv_tokens(each, (begun + ended) / 2) for each in round_.served)
    return Step(tokens, sequences, 0.0, float(np.median(gaps)))


def _kv_tokens(each: Served, now: float) -> float:
    chunks = sum(t <= now for t in each.arrivals)
    return each.prompt + chunks * each.output / len(each.arrivals)


def _prefill_steps(
    process: LoadProcess, endpoint: Endpoint, facts: EngineFacts, numbers: random.Random
) -> Iterator[Step]:
    longest = min(facts.tokenBudget, facts.maxModelLen - 1)
    if facts.emulated:
        longest = min(longest, _LONGEST_PREFILL_ON_A_CPU)
    for share in _PREFILL_SHARES:
        length = max(1, round(longest * share))
        served = process.put(endpoint.load(length, 1, _PREFILL_REPEATS, 1, numbers)).served
        yield Step(0.0, 0.0, length, float(np.median([each.first_token for each in served])))


def _without(because: str) -> Card:
    return Card(card=None, requestSeconds=None, noCardBecause=because)
