"""What the plant's kernels read and write: plain arrays, one row a request or a replica.

Made by `endpoint`, advanced by `advancing`, compiled by `halftone.checkpoint.jit`. Nothing here
computes; a field that a kernel needs is added here and nowhere else.
"""

import math
from typing import Any, Final, NamedTuple, TypeVar, get_type_hints

import numpy as np

from halftone.scaling.capacity import Capacity
from halftone.scaling.loads.load import Floats, Integers, Load
from halftone.scaling.reading import ITL_BOUNDS, TTFT_BOUNDS

# Where a request is. From `DONE` on it is settled.
TO_COME: Final = 0
HELD: Final = 1  # in front of the replicas, none of which was ready
WAITING: Final = 2
RUNNING: Final = 3
DONE: Final = 4
DROPPED: Final = 5  # its client went, or no replica can hold it

# What a row of replicas is.
FREE: Final = 0
STARTING: Final = 1
READY: Final = 2
DRAINING: Final = 3
GONE: Final = 4

# Columns of `Replicas.counters`.
FINISHED: Final = 0
PROMPT: Final = 1
CACHED: Final = 2
GENERATION: Final = 3
FINISHED_PROMPT: Final = 4
FINISHED_OUTPUT: Final = 5
PREEMPTIONS: Final = 6
COUNTERS: Final = 7

# Columns of `Replicas.seen`, the gauges that the last step left.
SEEN_RUNNING: Final = 0
SEEN_WAITING: Final = 1
SEEN_BLOCKS: Final = 2

# Rows of the cursor.
NEXT: Final = 0  # the request that arrives next
EXPIRING: Final = 1  # the first that may still lose its client
HELD_HEAD: Final = 2
HELD_TAIL: Final = 3
HELD_COUNT: Final = 4
CHOSEN: Final = 5  # the replica that the router chose last
OPEN: Final = 6  # requests that are not settled
COMPUTED: Final = 7  # tokens that went through a model, again after preemptions
CURSORS: Final = 8

NOBODY: Final = -1
ROUTERS: Final = ("least-loaded", "round-robin", "power-of-two")

# Requests until a new replica's prefix cache holds what a warm one holds. Nothing is behind the
# number but that conversations come back within some hundred requests; it makes new replicas cold.
WARM_AFTER: Final = 200


class Groups(np.recarray[Any, Any]):
    """A row a cache group."""

    block_tokens: Integers
    most: Integers  # -1 where a request may grow without bound
    window: Integers  # tokens; 0 where there is none
    pinned: Integers  # 1 where `most` blocks are held whatever the length


class Rules(NamedTuple):
    """What holds for every replica: `Capacity` for kernels, seconds and tokens."""

    token_budget: int
    max_sequences: int
    kv_blocks: int
    step_base_s: float
    kv_token_s: float
    sequence_s: float
    prefill_token_s: float
    timeout_s: float
    router: int  # index in ROUTERS
    groups: Groups
    ttft_bounds: Floats
    itl_bounds: Floats


class Requests(np.recarray[Any, Any]):
    """A row a request, in order of arrival. Times are seconds, NaN until they happened."""

    arrival_s: Floats
    prompt: Integers
    output: Integers
    cached: Integers
    draws: Floats  # two, what a random router draws with
    given_s: Floats  # when a replica got it
    first_s: Floats
    last_s: Floats
    state: Integers
    replica: Integers
    following: Integers  # the next in the same queue
    hit: Integers  # prompt tokens that the prefix cache of its replica held
    made: Integers  # output tokens
    computed: Integers  # tokens whose KV exists
    before: Integers  # `computed` when its last step began
    planned: Integers  # tokens of the step that runs
    quiet: Integers  # steps of one token in which it neither gets nor frees a block


class Replicas(np.recarray[Any, Any]):
    """A row a replica; rows of those that are gone are used again.

    Beside it goes `running`, int64 (replicas, sequences): the requests that each runs, in the order
    in which they were admitted.
    """

    status: Integers
    asked_s: Floats
    ready_s: Floats
    gone_s: Floats
    step_end_s: Floats  # infinite while idle
    sequences: Integers  # how many of `running`
    head: Integers  # of the waiting queue
    tail: Integers
    waiting: Integers  # in the queue, without those that were dropped
    blocks: Integers  # in use
    served: Integers  # requests that it got
    counters: Integers  # COUNTERS columns
    seen: Integers  # three
    ttft: Integers  # requests by bucket, not cumulative
    itl: Integers  # gaps between tokens by bucket, not cumulative


_COLUMNS: Final = {
    "draws": 2,
    "counters": COUNTERS,
    "seen": 3,
    "ttft": len(TTFT_BOUNDS) + 1,
    "itl": len(ITL_BOUNDS) + 1,
}
Rows = TypeVar("Rows", bound=np.recarray[Any, Any])


def _rows(kind: type[Rows], count: int) -> Rows:
    """Zeros, of the fields that `kind` declares."""
    fields: list[tuple[str, Any, Any]] = [
        (name, np.float64 if hint == Floats else np.int64, _COLUMNS.get(name, ()))
        for name, hint in get_type_hints(kind).items()
    ]
    made: Rows = np.zeros(count, fields).view(kind)
    return made


def rules(capacity: Capacity, timeout_s: float, router: str) -> Rules:
    """Raises ValueError for a router that is none of ROUTERS."""
    if router not in ROUTERS:
        raise ValueError(f"'{router}' is no router of the plant; there are {', '.join(ROUTERS)}")
    groups = _rows(Groups, len(capacity.groups))
    groups.block_tokens[:] = [each.block_tokens for each in capacity.groups]
    groups.most[:] = [-1 if each.most is None else each.most for each in capacity.groups]
    groups.window[:] = [each.window or 0 for each in capacity.groups]
    groups.pinned[:] = [each.pinned for each in capacity.groups]
    return Rules(
        token_budget=capacity.token_budget,
        max_sequences=capacity.max_sequences,
        kv_blocks=capacity.kv_blocks,
        step_base_s=float(capacity.step_base_s),
        kv_token_s=float(capacity.seconds_per_kv_token),
        sequence_s=float(capacity.seconds_per_sequence),
        prefill_token_s=1.0 / capacity.prefill_tokens_per_second,
        timeout_s=float(timeout_s),
        router=ROUTERS.index(router),
        groups=groups,
        ttft_bounds=np.array(TTFT_BOUNDS),
        itl_bounds=np.array(ITL_BOUNDS),
    )


def requests(load: Load, seed: int) -> Requests:
    """All of them still to come."""
    made = _rows(Requests, len(load))
    made.arrival_s[:] = load.arrival_s
    made.prompt[:] = load.prompt
    made.output[:] = load.output
    made.cached[:] = load.cached
    made.draws[:] = np.random.default_rng((seed, 1)).random((len(load), 2))
    for times in (made.given_s, made.first_s, made.last_s):
        times[:] = math.nan
    for links in (made.replica, made.following):
        links[:] = NOBODY
    return made


def replicas(rows: int) -> Replicas:
    """`rows` free ones."""
    made = _rows(Replicas, rows)
    for times in (made.asked_s, made.ready_s, made.gone_s):
        times[:] = math.nan
    made.step_end_s[:] = math.inf
    for links in (made.head, made.tail):
        links[:] = NOBODY
    return made


def more_replicas(known: Replicas, rows: int) -> Replicas:
    """`known`, and `rows` free ones behind them."""
    return np.concatenate([known, replicas(rows)]).view(Replicas)


def running(rows: int, sequences: int) -> Integers:
    """Nothing runs on `rows` replicas, each for at most `sequences` requests."""
    return np.full((rows, sequences), NOBODY, np.int64)


def cursor(requests_to_come: int) -> Integers:
    """Before the first arrival."""
    made = np.zeros(CURSORS, np.int64)
    made[[HELD_HEAD, HELD_TAIL, CHOSEN]] = NOBODY
    made[OPEN] = requests_to_come
    return made
