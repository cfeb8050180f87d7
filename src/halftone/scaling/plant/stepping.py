"""One step of one replica, in two halves: what vLLM's scheduler decides, and what a model gave.

Called by `advancing`, and by tests that go step by step beside vLLM's own scheduler. The order is
that of vLLM 0.32 (first come, first served, chunked prefill, whole prompts must fit to be
admitted): running requests first, the last of them preempted when blocks run out; waiting ones only
in a step without a preemption.
"""

import math

from halftone.checkpoint.jit import uncounted_inline
from halftone.scaling.loads.load import Floats, Integers
from halftone.scaling.plant.cache_blocks import (
    admission,
    held,
    preempt_last,
    quiet_steps,
    release,
    take_first,
)
from halftone.scaling.plant.state import (
    CACHED,
    COMPUTED,
    DONE,
    DROPPED,
    FINISHED,
    FINISHED_OUTPUT,
    FINISHED_PROMPT,
    GENERATION,
    NOBODY,
    OPEN,
    PROMPT,
    RUNNING,
    SEEN_BLOCKS,
    SEEN_RUNNING,
    SEEN_WAITING,
    Replicas,
    Requests,
    Rules,
)


@uncounted_inline
def begin_step(
    rules: Rules, requests: Requests, replicas: Replicas, running: Integers, row: int, now_s: float
) -> None:
    """Decide what the next step computes, and when it ends; a replica without work is idle."""
    budget = rules.token_budget
    kv_tokens, decoding, prefill = 0, 0, 0
    preempted = False
    index = 0
    while index < replicas.sequences[row] and budget > 0:
        request = running[row, index]
        tokens = requests.computed[request]
        left = requests.prompt[request] + requests.made[request] - tokens
        if left == 1 and requests.quiet[request] > 0:
            requests.quiet[request] -= 1
            requests.before[request] = tokens
            requests.planned[request] = 1
        else:
            waiting = replicas.waiting[row]
            grew = _grow(rules, requests, replicas, running, row, request, min(left, budget))
            preempted = preempted or replicas.waiting[row] > waiting
            if not grew:
                break
        planned = requests.planned[request]
        budget -= planned
        if left == 1 and requests.made[request] > 0:
            kv_tokens += tokens + 1
            decoding += 1
        else:
            prefill += planned
        index += 1
    if not preempted:
        prefill += _admit(rules, requests, replicas, running, row, budget)
    if prefill + decoding == 0:
        replicas.step_end_s[row] = math.inf
        return
    replicas.step_end_s[row] = now_s + (
        rules.step_base_s
        + rules.kv_token_s * kv_tokens
        + rules.sequence_s * decoding
        + rules.prefill_token_s * prefill
    )


@uncounted_inline
def _grow(
    rules: Rules,
    requests: Requests,
    replicas: Replicas,
    running: Integers,
    row: int,
    request: int,
    new: int,
) -> bool:
    """Blocks for `new` tokens of a running request, at the cost of those admitted after it.

    False when it was preempted itself.
    """
    tokens = requests.computed[request]
    replicas.blocks[row] -= held(rules, requests.before[request], tokens)
    requests.before[request] = tokens
    replicas.blocks[row] += held(rules, tokens, tokens)
    need = held(rules, tokens, tokens + new) - held(rules, tokens, tokens)
    while need > rules.kv_blocks - replicas.blocks[row]:
        if preempt_last(rules, requests, replicas, running, row) == request:
            return False
    replicas.blocks[row] += need
    requests.planned[request] = new
    requests.quiet[request] = quiet_steps(rules, tokens + 1) if new == 1 else 0
    return True


@uncounted_inline
def _admit(
    rules: Rules, requests: Requests, replicas: Replicas, running: Integers, row: int, budget: int
) -> int:
    """Admit from the queue while tokens, sequences and blocks are left; returns their tokens."""
    prefill = 0
    while budget > 0 and replicas.sequences[row] < rules.max_sequences:
        while replicas.head[row] != NOBODY and requests.state[replicas.head[row]] == DROPPED:
            take_first(requests, replicas, row)
        request = replicas.head[row]
        if request == NOBODY:
            break
        hit = requests.hit[request]
        tokens = requests.prompt[request] + requests.made[request]
        new = min(tokens - hit, budget)
        need = held(rules, hit, hit + new)
        free = rules.kv_blocks - replicas.blocks[row]
        if admission(rules, hit, tokens) > free or need > free:
            break
        take_first(requests, replicas, row)
        replicas.waiting[row] -= 1
        replicas.blocks[row] += need
        running[row, replicas.sequences[row]] = request
        replicas.sequences[row] += 1
        requests.state[request] = RUNNING
        requests.before[request] = hit
        requests.computed[request] = hit
        requests.planned[request] = new
        requests.quiet[request] = 0
        budget -= new
        prefill += new
    return prefill


@uncounted_inline
def end_step(
    rules: Rules,
    requests: Requests,
    replicas: Replicas,
    running: Integers,
    cursor: Integers,
    row: int,
    now_s: float,
) -> None:
    """Take what the step computed: tokens, first answers and last ones; count as vLLM does."""
    kept = 0
    for index in range(replicas.sequences[row]):
        request = running[row, index]
        if requests.state[request] == DROPPED:
            release(rules, requests, replicas, row, request)
            continue
        new = requests.planned[request]
        requests.computed[request] += new
        requests.planned[request] = 0
        cursor[COMPUTED] += new
        whole = requests.prompt[request] + requests.made[request]
        if new > 0 and requests.computed[request] == whole:
            _token(rules, requests, replicas, row, request, now_s)
            if requests.made[request] == requests.output[request]:
                _finish(rules, requests, replicas, row, request)
                cursor[OPEN] -= 1
                continue
        running[row, kept] = request
        kept += 1
    replicas.sequences[row] = kept
    replicas.seen[row, SEEN_RUNNING] = kept
    replicas.seen[row, SEEN_WAITING] = replicas.waiting[row]
    replicas.seen[row, SEEN_BLOCKS] = replicas.blocks[row]


@uncounted_inline
def _token(
    rules: Rules, requests: Requests, replicas: Replicas, row: int, request: int, now_s: float
) -> None:
    """One output token of a request."""
    requests.made[request] += 1
    replicas.counters[row, GENERATION] += 1
    if requests.made[request] == 1:
        requests.first_s[request] = now_s
        replicas.counters[row, PROMPT] += requests.prompt[request]
        replicas.counters[row, CACHED] += requests.hit[request]
        waited = now_s - requests.given_s[request]
        replicas.ttft[row, _bucket(rules.ttft_bounds, waited)] += 1
    else:
        between = now_s - requests.last_s[request]
        replicas.itl[row, _bucket(rules.itl_bounds, between)] += 1
    requests.last_s[request] = now_s


@uncounted_inline
def _finish(rules: Rules, requests: Requests, replicas: Replicas, row: int, request: int) -> None:
    """The last token was there."""
    release(rules, requests, replicas, row, request)
    requests.state[request] = DONE
    replicas.counters[row, FINISHED] += 1
    replicas.counters[row, FINISHED_PROMPT] += requests.prompt[request]
    replicas.counters[row, FINISHED_OUTPUT] += requests.output[request]


@uncounted_inline
def _bucket(bounds: Floats, seconds: float) -> int:
    """The row of a histogram; the last is unbounded."""
    index = 0
    while index < len(bounds) and seconds > bounds[index]:
        index += 1
    return index
