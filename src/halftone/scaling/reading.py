"""What a scraper sees of an endpoint: the common ground of Prometheus, the plant and every policy.

`inputs` makes a `Reading` of what Prometheus answers, the plant makes one of its replicas, and the
policy and the baselines read nothing else. Standard library only.
"""

from dataclasses import dataclass
from typing import Final

# Upper bounds (seconds) of vLLM's histograms, of 0.32; the last bucket is unbounded.
TTFT_BOUNDS: Final = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75),
    *(1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0),
)
ITL_BOUNDS: Final = (
    *(0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75),
    *(1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0),
)
# Fields of a replica that say how it is, and those that only grow.
GAUGES: Final = ("running", "waiting", "kv_usage")
COUNTERS: Final = (
    "finished",
    "prompt_tokens",
    "cached_tokens",
    "generation_tokens",
    "finished_prompt_tokens",
    "finished_output_tokens",
    "preemptions",
)


@dataclass(frozen=True, slots=True)
class ReplicaReading:
    """One replica's series at its last scrape. Counters are as exported: they only grow, until the
    replica starts anew. `ttft` and `itl` are cumulative bucket counts, the unbounded one last;
    empty where they were not read.
    """

    name: str
    time_s: float  # of the scrape
    running: float
    waiting: float
    kv_usage: float  # share of the blocks in use, 0 to 1
    finished: float  # requests
    prompt_tokens: float  # of requests that were prefilled, with what the prefix cache held
    cached_tokens: float  # of those, what the prefix cache held
    generation_tokens: float
    finished_prompt_tokens: float  # sum over finished requests
    finished_output_tokens: float  # sum over finished requests
    preemptions: float
    ttft: tuple[float, ...] = ()
    itl: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Reading:
    """Everything at one moment. Replica counts come from whoever starts replicas, not from series.

    `held` are requests that wait in front of the replicas. `missing` says in words what could not
    be read ("no series of `vllm:num_requests_waiting`"); empty when all is well. `replicas` are
    those that take requests and were scraped; one that is ready and idle counts as read although
    its series vanished (`inputs` adds its zeros).
    """

    time_s: float  # when it was put together, by the reader's clock
    ready: int
    starting: int
    draining: int
    replicas: tuple[ReplicaReading, ...]
    held: float = 0.0
    missing: tuple[str, ...] = ()

    @property
    def age_s(self) -> float:
        """Of the oldest series in it; 0 without replicas."""
        return max((self.time_s - each.time_s for each in self.replicas), default=0.0)
