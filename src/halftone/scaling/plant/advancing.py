"""The plant's clock: everything between two moments, compiled as one kernel.

`advance` is called by `endpoint`, and `step_alone` by tests that compare single steps. Replicas do
not feel each other, so each runs by itself from one event that concerns several (an arrival, a
replica that becomes ready, a client that goes) to the next.
"""

import math

from halftone.checkpoint.jit import uncounted_inline, uncounted_kernel
from halftone.scaling.loads.load import Integers
from halftone.scaling.plant.cache_blocks import admission
from halftone.scaling.plant.routing import choose, give, hold, take_held
from halftone.scaling.plant.state import (
    DONE,
    DRAINING,
    DROPPED,
    EXPIRING,
    GONE,
    HELD,
    HELD_COUNT,
    NEXT,
    NOBODY,
    OPEN,
    READY,
    STARTING,
    WAITING,
    Replicas,
    Requests,
    Rules,
)
from halftone.scaling.plant.stepping import begin_step, end_step


@uncounted_kernel
def advance(
    rules: Rules,
    requests: Requests,
    replicas: Replicas,
    running: Integers,
    cursor: Integers,
    until_s: float,
) -> None:
    """All that happens until `until_s`, that moment included."""
    while True:
        now_s = min(until_s, _next_event(rules, requests, replicas, cursor))
        for row in range(len(replicas.status)):
            _run(rules, requests, replicas, running, cursor, row, now_s)
        _become_ready(rules, requests, replicas, running, cursor, now_s)
        _arrive(rules, requests, replicas, running, cursor, now_s)
        _expire(rules, requests, replicas, cursor, now_s)
        if now_s >= until_s:
            break


@uncounted_kernel
def step_alone(
    rules: Rules,
    requests: Requests,
    replicas: Replicas,
    running: Integers,
    cursor: Integers,
    given: int,
) -> None:
    """Give the first replica requests up to `given`, and begin its next step: the first half of
    what `advance` does at a step, for who looks at each. `finish_alone` is the other half.
    """
    while cursor[NEXT] < given:
        give(requests, replicas, 0, cursor[NEXT], 0.0)
        cursor[NEXT] += 1
    begin_step(rules, requests, replicas, running, 0, 0.0)


@uncounted_kernel
def finish_alone(
    rules: Rules,
    requests: Requests,
    replicas: Replicas,
    running: Integers,
    cursor: Integers,
) -> None:
    """End the step that `step_alone` began."""
    end_step(rules, requests, replicas, running, cursor, 0, 0.0)


@uncounted_inline
def _next_event(rules: Rules, requests: Requests, replicas: Replicas, cursor: Integers) -> float:
    """When something happens that concerns more than one replica's running steps."""
    next_s = math.inf
    if cursor[NEXT] < len(requests.arrival_s):
        next_s = requests.arrival_s[cursor[NEXT]]
    for row in range(len(replicas.status)):
        if replicas.status[row] == STARTING:
            next_s = min(next_s, replicas.ready_s[row])
    while cursor[EXPIRING] < cursor[NEXT] and _is_served(requests, cursor[EXPIRING]):
        cursor[EXPIRING] += 1
    if cursor[EXPIRING] < cursor[NEXT]:
        next_s = min(next_s, requests.arrival_s[cursor[EXPIRING]] + rules.timeout_s)
    return next_s


@uncounted_inline
def _is_served(requests: Requests, request: int) -> bool:
    """Whether its client has no more reason to go."""
    return requests.state[request] >= DONE or not math.isnan(requests.first_s[request])


@uncounted_inline
def _run(
    rules: Rules,
    requests: Requests,
    replicas: Replicas,
    running: Integers,
    cursor: Integers,
    row: int,
    now_s: float,
) -> None:
    """A replica's steps until `now_s`; one that drains goes with its last answer."""
    while replicas.step_end_s[row] <= now_s:
        end_s = replicas.step_end_s[row]
        end_step(rules, requests, replicas, running, cursor, row, end_s)
        begin_step(rules, requests, replicas, running, row, end_s)
        if replicas.status[row] == DRAINING and replicas.step_end_s[row] == math.inf:
            replicas.status[row] = GONE
            replicas.gone_s[row] = end_s


@uncounted_inline
def _become_ready(
    rules: Rules,
    requests: Requests,
    replicas: Replicas,
    running: Integers,
    cursor: Integers,
    now_s: float,
) -> None:
    """Started replicas take requests; those that were held go out in order."""
    for row in range(len(replicas.status)):
        if replicas.status[row] == STARTING and replicas.ready_s[row] <= now_s:
            replicas.status[row] = READY
    if cursor[HELD_COUNT] == 0:
        return
    for row in range(len(replicas.status)):
        if replicas.status[row] == READY:
            break
    else:
        return
    request = take_held(requests, cursor)
    while request != NOBODY:
        _send(rules, requests, replicas, running, cursor, request, now_s)
        request = take_held(requests, cursor)


@uncounted_inline
def _arrive(
    rules: Rules,
    requests: Requests,
    replicas: Replicas,
    running: Integers,
    cursor: Integers,
    now_s: float,
) -> None:
    """Requests that no replica could ever hold are refused, as a server refuses what is longer
    than its context.
    """
    while cursor[NEXT] < len(requests.arrival_s) and requests.arrival_s[cursor[NEXT]] <= now_s:
        request = cursor[NEXT]
        cursor[NEXT] += 1
        longest = requests.prompt[request] + requests.output[request]
        if admission(rules, 0, longest) > rules.kv_blocks:
            requests.state[request] = DROPPED
            cursor[OPEN] -= 1
        else:
            _send(rules, requests, replicas, running, cursor, request, now_s)


@uncounted_inline
def _send(
    rules: Rules,
    requests: Requests,
    replicas: Replicas,
    running: Integers,
    cursor: Integers,
    request: int,
    now_s: float,
) -> None:
    row = choose(rules, requests, replicas, cursor, request)
    if row == NOBODY:
        hold(requests, cursor, request)
        return
    give(requests, replicas, row, request, now_s)
    if replicas.step_end_s[row] == math.inf:
        begin_step(rules, requests, replicas, running, row, now_s)


@uncounted_inline
def _expire(
    rules: Rules, requests: Requests, replicas: Replicas, cursor: Integers, now_s: float
) -> None:
    """Clients without a first token go. What runs for them ends with the step that runs."""
    while cursor[EXPIRING] < cursor[NEXT]:
        request = cursor[EXPIRING]
        if not _is_served(requests, request):
            if requests.arrival_s[request] + rules.timeout_s > now_s:
                break
            if requests.state[request] == WAITING:
                replicas.waiting[requests.replica[request]] -= 1
            elif requests.state[request] == HELD:
                cursor[HELD_COUNT] -= 1
            requests.state[request] = DROPPED
            cursor[OPEN] -= 1
        cursor[EXPIRING] += 1
