"""Which series a reading needs, by the three names that they go by, and what tells replicas apart.

Called by `queries` and `assembling`; the recording rules of `charts/halftone-monitoring` are held
to it by a contract test. Names are those of vLLM 0.32 and Ray 2.60. Standard library only.

What the families differ in:

- vLLM's own server exports all of its series from its start on, idle or not.
- Through Ray a counter appears when it first counts and then stays, even after its replica is gone,
  until the node's agent ends. A gauge vanishes two export intervals after it was last set, so an
  idle replica has counters and no gauges. Sums of histograms are made of the middles of buckets,
  which `estimating` mends.
- Recorded series are either of these, by `source`, under one name.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

# Cumulative buckets; a reading does without where they are missing.
HISTOGRAMS: Final = ("ttft", "itl")

MODEL_LABEL: Final = "model_name"
# Labels that tell the parts of one replica's value apart: engines of data parallelism, reasons.
PART_LABELS: Final = ("engine", "finished_reason")
# Who scraped, and where.
TARGET_LABELS: Final = ("job", "instance")

# Every node of Ray exports it, whatever runs there.
RAY_NODE: Final = "ray_node_mem_used"


@dataclass(frozen=True, slots=True)
class Family:
    """The names of one exporter. `series` has one for each of `reading.GAUGES`, `reading.COUNTERS`
    and HISTOGRAMS.

    `replica_labels` name a replica, the first one that is there. `time` is the series whose value
    says when the others were scraped; None where their own time does.
    """

    title: str
    series: Mapping[str, str]
    replica_labels: tuple[str, ...]
    time: str | None = None


_VLLM: Final = MappingProxyType(
    {
        "running": "num_requests_running",
        "waiting": "num_requests_waiting",
        "kv_usage": "kv_cache_usage_perc",
        "finished": "request_success_total",
        "prompt_tokens": "prompt_tokens_total",
        "cached_tokens": "prompt_tokens_cached_total",
        "generation_tokens": "generation_tokens_total",
        "finished_prompt_tokens": "request_prompt_tokens_sum",
        "finished_output_tokens": "request_generation_tokens_sum",
        "preemptions": "num_preemptions_total",
        "ttft": "time_to_first_token_seconds_bucket",
        "itl": "inter_token_latency_seconds_bucket",
    }
)
_RECORDED: Final = MappingProxyType(
    {
        "running": "requests_running",
        "waiting": "requests_waiting",
        "kv_usage": "kv_cache_usage_ratio",
        "finished": "requests_finished_total",
        "prompt_tokens": "prompt_tokens_total",
        "cached_tokens": "prompt_tokens_cached_total",
        "generation_tokens": "generation_tokens_total",
        "finished_prompt_tokens": "finished_prompt_tokens_total",
        "finished_output_tokens": "finished_generation_tokens_total",
        "preemptions": "preemptions_total",
        "ttft": "time_to_first_token_seconds_bucket",
        "itl": "inter_token_latency_seconds_bucket",
    }
)


def _family(
    title: str,
    prefix: str,
    names: Mapping[str, str],
    labels: tuple[str, ...],
    time: str | None = None,
) -> Family:
    series = {field: prefix + name for field, name in names.items()}
    return Family(title, MappingProxyType(series), labels, time)


NATIVE: Final = _family("native", "vllm:", _VLLM, ("pod", "instance"))
RAY: Final = _family("ray", "ray_vllm_", _VLLM, ("ReplicaId", "WorkerId"))
RECORDED: Final = _family(
    "recorded",
    "halftone:replica_",
    _RECORDED,
    ("replica",),
    time="halftone:replica_sample_timestamp_seconds",
)
# What a recorded series says of where it came from.
SOURCE_LABEL: Final = "source"

# The first of these that Prometheus has is read, and no other: they are the same replicas.
FAMILIES: Final = (RECORDED, NATIVE, RAY)


def is_lazy(family: Family, labels: Mapping[str, str]) -> bool:
    """Whether a series of `family` with these labels is absent where nothing happens."""
    return family is RAY or labels.get(SOURCE_LABEL) == RAY.title
