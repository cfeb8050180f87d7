"""Metrics of an endpoint's replicas, through Ray, which exports them with the prefix `ray_`.

Called by `serve.replica` and `serve.load_failures`, in processes that belong to Ray, which give
Ray's kinds of metrics: this room imports no ray. vLLM's own metrics lie beside them as
`ray_vllm_…`. No label has values without a bound.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

# Name without prefix -> what it counts, and its labels.
COUNTERS: Final = {
    "halftone_endpoint_load_failures": (
        "Replicas that did not start, by the reason in the status.",
        ("model", "reason"),
    ),
    "halftone_endpoint_requests": (
        "Answers to requests for tokens, by path and status; 499 is a client that left.",
        ("model", "path", "status"),
    ),
}
GAUGES: Final = {
    "halftone_endpoint_load_seconds": (
        "How long a step of a replica's start took (weights, engine, check, warmUp).",
        ("model", "step"),
    ),
    "halftone_endpoint_requests_in_flight": (
        "Answers that run or wait in a replica; a request may want several.",
        ("model",),
    ),
    "halftone_endpoint_requests_limit": (
        "How many may run or wait before the next is answered with 429.",
        ("model",),
    ),
    "halftone_endpoint_artifact": (
        "1 for the artifact that a replica serves.",
        ("model", "digest", "verdict"),
    ),
    "halftone_endpoint_capacity": (
        "What a replica can do, of the capacity card of its artifact that fits its engine.",
        ("model", "field"),
    ),
    "halftone_endpoint_capacity_exact": (
        "1 where that card was measured with just this engine, 0 where with one like it.",
        ("model",),
    ),
}


class EndpointMetrics:
    """The metrics of one process that serves `model`.

    `counter` and `gauge` are `ray.util.metrics.Counter` and `Gauge`. Ray drops a gauge some seconds
    after it was set, so whoever wants to be seen calls `repeat` again and again.
    """

    def __init__(self, model: str, counter: Callable[..., Any], gauge: Callable[..., Any]) -> None:
        self._model = model
        self._metrics: dict[str, Any] = {
            name: kind(name, description=text, tag_keys=labels)
            for kind, table in ((counter, COUNTERS), (gauge, GAUGES))
            for name, (text, labels) in table.items()
        }
        # What each gauge was set to last, by its name and labels.
        self._said: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}

    def repeat(self) -> None:
        """Set every gauge again that was ever set, to its last value."""
        for (name, labels), value in tuple(self._said.items()):
            self._metrics[name].set(value, tags=dict(labels))

    def count_failure(self, reason: str) -> None:
        """A replica that did not start."""
        self._add("halftone_endpoint_load_failures", reason=reason)

    def count_answer(self, path: str, status: int) -> None:
        """One answer of the middleware."""
        self._add("halftone_endpoint_requests", path=path, status=str(status))

    def set_load_seconds(self, step: str, seconds: float) -> None:
        """A step of the start is over."""
        self._set("halftone_endpoint_load_seconds", seconds, step=step)

    def set_requests(self, in_flight: int, limit: int) -> None:
        """How full the replica is."""
        self._set("halftone_endpoint_requests_in_flight", in_flight)
        self._set("halftone_endpoint_requests_limit", limit)

    def set_artifact(self, digest: str, verdict: str) -> None:
        """What is served from now on."""
        self._set("halftone_endpoint_artifact", 1, digest=digest, verdict=verdict)

    def set_capacity(self, fields: Mapping[str, float], *, is_exact: bool) -> None:
        """What the replica can do, by the names of `halftone.scaling.capacity_fields`."""
        for field, value in fields.items():
            self._set("halftone_endpoint_capacity", value, field=field)
        self._set("halftone_endpoint_capacity_exact", float(is_exact))

    def _add(self, name: str, **labels: str) -> None:
        self._metrics[name].inc(1, tags={"model": self._model, **labels})

    def _set(self, name: str, value: float, **labels: str) -> None:
        tags = {"model": self._model, **labels}
        self._said[name, tuple(tags.items())] = value
        self._metrics[name].set(value, tags=tags)
