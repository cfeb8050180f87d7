"""Which replica a request goes to, and what waits in front of all of them. Called by `advancing`.

A router knows how many requests each replica has, without delay: those that it sent there and that
were not answered.
"""

from halftone.checkpoint.jit import uncounted_inline
from halftone.scaling.loads.load import Integers
from halftone.scaling.plant.cache_blocks import append
from halftone.scaling.plant.state import (
    CHOSEN,
    DROPPED,
    HELD,
    HELD_COUNT,
    HELD_HEAD,
    HELD_TAIL,
    NOBODY,
    READY,
    WAITING,
    WARM_AFTER,
    Replicas,
    Requests,
    Rules,
)


@uncounted_inline
def choose(
    rules: Rules, requests: Requests, replicas: Replicas, cursor: Integers, request: int
) -> int:
    """The row of a ready replica; NOBODY where there is none."""
    rows = len(replicas.status)
    if rules.router == 2:
        return _better_of_two(requests, replicas, request)
    best, least = NOBODY, 0
    for step in range(1, rows + 1):
        row = (cursor[CHOSEN] + step) % rows
        if replicas.status[row] != READY:
            continue
        load = 0 if rules.router == 1 else replicas.sequences[row] + replicas.waiting[row]
        if best == NOBODY or load < least:
            best, least = row, load
    if best != NOBODY:
        cursor[CHOSEN] = best
    return best


@uncounted_inline
def _better_of_two(requests: Requests, replicas: Replicas, request: int) -> int:
    ready = 0
    for row in range(len(replicas.status)):
        ready += replicas.status[row] == READY
    if ready == 0:
        return NOBODY
    first = int(requests.draws[request, 0] * ready)
    second = first
    if ready > 1:
        second = (first + 1 + int(requests.draws[request, 1] * (ready - 1))) % ready
    one, other = _nth_ready(replicas, first), _nth_ready(replicas, second)
    load_one = replicas.sequences[one] + replicas.waiting[one]
    load_other = replicas.sequences[other] + replicas.waiting[other]
    return other if load_other < load_one else one


@uncounted_inline
def _nth_ready(replicas: Replicas, number: int) -> int:
    for row in range(len(replicas.status)):
        if replicas.status[row] == READY:
            if number == 0:
                return row
            number -= 1
    return NOBODY


@uncounted_inline
def give(requests: Requests, replicas: Replicas, row: int, request: int, now_s: float) -> None:
    """Into a replica's queue. Of its prompt, what the replica's prefix cache holds by then: the
    load's `cached` tokens once the replica got WARM_AFTER requests, in proportion before. The last
    token of a prompt is always computed.
    """
    warm = min(1.0, replicas.served[row] / WARM_AFTER)
    hit = int(requests.cached[request] * warm)
    requests.hit[request] = min(hit, requests.prompt[request] - 1)
    requests.given_s[request] = now_s
    requests.replica[request] = row
    requests.state[request] = WAITING
    replicas.served[row] += 1
    append(requests, replicas, row, request)


@uncounted_inline
def hold(requests: Requests, cursor: Integers, request: int) -> None:
    """In front of the replicas, in order of arrival."""
    requests.state[request] = HELD
    requests.following[request] = NOBODY
    if cursor[HELD_TAIL] == NOBODY:
        cursor[HELD_HEAD] = request
    else:
        requests.following[cursor[HELD_TAIL]] = request
    cursor[HELD_TAIL] = request
    cursor[HELD_COUNT] += 1


@uncounted_inline
def take_held(requests: Requests, cursor: Integers) -> int:
    """The first of those that are held and still wanted; NOBODY where there is none."""
    found = NOBODY
    while found == NOBODY and cursor[HELD_HEAD] != NOBODY:
        request = int(cursor[HELD_HEAD])
        cursor[HELD_HEAD] = requests.following[request]
        if requests.state[request] != DROPPED:
            cursor[HELD_COUNT] -= 1
            found = request
    if cursor[HELD_HEAD] == NOBODY:
        cursor[HELD_TAIL] = NOBODY
    return found
