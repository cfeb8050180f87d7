"""Answers of Prometheus about replicas, as samples, for tests of what is made of them.

Called by unit tests of `halftone.scaling.inputs`. Times are Prometheus's, and `NOW` is its clock.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Final

from halftone.scaling.capacity import CacheGroup, Capacity
from halftone.scaling.capacity_fields import Stated, told
from halftone.scaling.inputs import queries
from halftone.scaling.inputs.assembling import Asked, Remembered, assemble
from halftone.scaling.inputs.counts import ReplicaCounts
from halftone.scaling.inputs.names import RAY, Family
from halftone.scaling.inputs.parsing import Sample
from halftone.scaling.inputs.queries import FIELD, NODE, TARGET, TIME
from halftone.scaling.reading import COUNTERS, GAUGES, Reading

# Of a hybrid model: attention grows, a window and states do not.
SAID: Final = Stated(
    Capacity(
        prefill_tokens_per_second=5000.0,
        step_base_s=0.02,
        seconds_per_kv_token=1e-8,
        seconds_per_sequence=0.0,
        kv_blocks=2000,
        groups=(CacheGroup(16), CacheGroup(16, 64), CacheGroup(784, 3, pinned=True)),
        token_budget=1024,
        max_sequences=64,
    ),
    warm_up_s=120.5,
)
NOW: Final = 5000.0
STALE_S: Final = 60.0

# How each family labels the replica "a" at "10.0.0.1:8080".
_NAME_LABEL: Final = {"native": "pod", "ray": "ReplicaId", "recorded": "replica"}


def replica(
    name: str,
    family: Family = RAY,
    *,
    at: float = NOW - 4,
    fields: Iterable[str] = (*GAUGES, *COUNTERS),
    labels: Mapping[str, str] | None = None,
    values: Mapping[str, float] | None = None,
    **more: float,
) -> list[Sample]:
    """Every series of one replica, zero where no value is said, on a node of its own."""
    values = {**(values or {}), **more}
    told = {
        "model_name": "qwen",
        "engine": "0",
        "job": "endpoint",
        "instance": f"{name}:8080",
        _NAME_LABEL[family.title]: name,
        **(labels or {}),
    }
    told = {label: value for label, value in told.items() if value}
    samples = []
    for field in fields:
        samples.append(Sample({**told, FIELD: field}, values.get(field, 0.0)))
        samples.append(Sample({**told, FIELD: field + TIME}, at))
    return samples


def capacity_gauges(
    said: Stated,
    name: str = "a",
    *,
    prefix: str = "ray_",
    without: Iterable[str] = (),
    **changes: float,
) -> list[Sample]:
    """What one replica exports of what it can do, as Prometheus has it; some fields changed."""
    labels = {
        "__name__": f"{prefix}halftone_endpoint_capacity",
        "model": "qwen",
        "job": "endpoint",
        "instance": f"{name}:8080",
        "WorkerId": name,
    }
    fields = {**told(said), **changes}
    return [
        Sample({**labels, "field": field}, value)
        for field, value in fields.items()
        if field not in without
    ]


def vector_of(samples: Iterable[Sample]) -> bytes:
    """Prometheus's answer with these samples."""
    result = [{"metric": one.labels, "value": [NOW, str(one.value)]} for one in samples]
    answer = {"status": "success", "data": {"resultType": "vector", "result": result}}
    return json.dumps(answer).encode()


def idle(name: str, *, at: float = NOW - 4, **values: float) -> list[Sample]:
    """A replica of Ray without gauges."""
    return replica(name, at=at, fields=COUNTERS, values=values)


def node(name: str, *, is_up: bool = True, kind: str = NODE) -> Sample:
    """What Prometheus says of a replica's node, or target."""
    return Sample({"job": "endpoint", "instance": f"{name}:8080", FIELD: kind}, float(is_up))


def target(name: str, *, is_up: bool = True) -> Sample:
    """What Prometheus says of a target that exported series of the model."""
    return node(name, is_up=is_up, kind=TARGET)


def read(
    samples: Iterable[Sample],
    counts: ReplicaCounts,
    *,
    family: Family = RAY,
    before: Remembered | None = None,
    now: float = NOW,
    at: float = NOW,
) -> tuple[Reading, Remembered]:
    """The reading that these samples make when Prometheus's clock says `now`, and ours `at`."""
    asked = Asked(family, counts, at, STALE_S)
    all_ = (*samples, Sample({FIELD: queries.NOW}, now))
    return assemble(all_, asked, before or Remembered())


def ready(*names: str) -> ReplicaCounts:
    """These are ready, and known by name."""
    return ReplicaCounts(len(names), names=frozenset(names))
