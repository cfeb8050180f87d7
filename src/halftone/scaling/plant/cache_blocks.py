"""KV blocks of one request, as vLLM 0.32 counts them, and the waiting queues.

Called by `stepping`. Blocks are those of synchronous scheduling without shared prefixes: what two
requests have in common is held twice. A window gives its blocks back when the next step of its
request begins, so what a request holds depends on where its last step began.
"""

from halftone.checkpoint.jit import uncounted_inline
from halftone.scaling.loads.load import Integers
from halftone.scaling.plant.state import NOBODY, PREEMPTIONS, WAITING, Replicas, Requests, Rules


@uncounted_inline
def held(rules: Rules, before: int, upto: int) -> int:
    """Blocks of a request with KV of `upto` tokens whose last step began at `before`."""
    if upto == 0:
        return 0
    total = 0
    for group in range(len(rules.groups)):
        most = rules.groups.most[group]
        if rules.groups.pinned[group]:
            total += most
            continue
        size = rules.groups.block_tokens[group]
        blocks = (upto + size - 1) // size
        if rules.groups.window[group] > 0:
            left = before - rules.groups.window[group] + 1
            if left > 0:
                blocks -= min(left // size, blocks)
        elif most >= 0:
            blocks = min(blocks, most)
        total += blocks
    return total


@uncounted_inline
def admission(rules: Rules, hit: int, tokens: int) -> int:
    """Blocks that must be free before a request of `tokens` tokens is admitted: all of them,
    of which `hit` need no computing. A window asks for no more than its most.
    """
    total = 0
    for group in range(len(rules.groups)):
        most = rules.groups.most[group]
        if rules.groups.pinned[group]:
            total += most
            continue
        size = rules.groups.block_tokens[group]
        blocks = (tokens + size - 1) // size
        if most >= 0:
            blocks = min(blocks, most)
        if rules.groups.window[group] > 0 and hit - rules.groups.window[group] + 1 > 0:
            blocks -= min((hit - rules.groups.window[group] + 1) // size, blocks)
        total += blocks
    return total


@uncounted_inline
def quiet_steps(rules: Rules, tokens: int) -> int:
    """How many steps of one token from `tokens` on change no block."""
    steps = 1 << 40
    for group in range(len(rules.groups)):
        if rules.groups.pinned[group]:
            continue
        size = rules.groups.block_tokens[group]
        steps = min(steps, -tokens % size)
        if rules.groups.window[group] > 0:
            left = tokens - rules.groups.window[group] + 1
            steps = min(steps, -left % size if left > 0 else size - left)
    return steps


@uncounted_inline
def release(rules: Rules, requests: Requests, replicas: Replicas, row: int, request: int) -> None:
    """Give back all that a running request holds."""
    upto = requests.computed[request] + requests.planned[request]
    replicas.blocks[row] -= held(rules, requests.before[request], upto)
    requests.planned[request] = 0


@uncounted_inline
def preempt_last(
    rules: Rules, requests: Requests, replicas: Replicas, running: Integers, row: int
) -> int:
    """Back to the head of the queue with the request that was admitted last; returns it."""
    replicas.sequences[row] -= 1
    request: int = running[row, replicas.sequences[row]]
    release(rules, requests, replicas, row, request)
    requests.computed[request] = 0
    requests.before[request] = 0
    requests.quiet[request] = 0
    requests.state[request] = WAITING
    requests.following[request] = replicas.head[row]
    replicas.head[row] = request
    if replicas.tail[row] == NOBODY:
        replicas.tail[row] = request
    replicas.waiting[row] += 1
    replicas.counters[row, PREEMPTIONS] += 1
    return request


@uncounted_inline
def append(requests: Requests, replicas: Replicas, row: int, request: int) -> None:
    """To the end of a replica's queue."""
    requests.following[request] = NOBODY
    if replicas.tail[row] == NOBODY:
        replicas.head[row] = request
    else:
        requests.following[replicas.tail[row]] = request
    replicas.tail[row] = request
    replicas.waiting[row] += 1


@uncounted_inline
def take_first(requests: Requests, replicas: Replicas, row: int) -> int:
    """Out of a replica's queue, whose head it must have; the count of those waiting is left."""
    request: int = replicas.head[row]
    replicas.head[row] = requests.following[request]
    if replicas.head[row] == NOBODY:
        replicas.tail[row] = NOBODY
    return request
