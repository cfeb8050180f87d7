"""The controller's metrics over HTTP, in the words of Prometheus.

Called by `halftone autoscale`. `telemetry.scaling` has the names.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Gauge, start_http_server

from halftone.scaling.policy import Term
from halftone.telemetry.scaling import ScalingMetrics, Set


def metrics_in(registry: CollectorRegistry, model: str) -> ScalingMetrics:
    """The metrics of one endpoint, in a registry of their own."""

    def make(name: str, description: str, labels: tuple[str, ...]) -> Set:
        gauge = Gauge(name, description, labels, registry=registry)

        def set_to(value: float, by: Mapping[str, str]) -> None:
            gauge.labels(**by).set(value)

        return set_to

    return ScalingMetrics(model, [str(term) for term in Term], make)


@contextmanager
def served(registry: CollectorRegistry, host: str, port: int) -> Iterator[int]:
    """Answer scrapes on `host` and `port` (0 takes a free one), which is yielded.

    Raises OSError where nobody may listen there.
    """
    server, thread = start_http_server(port, addr=host, registry=registry)
    try:
        yield int(server.server_port)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
