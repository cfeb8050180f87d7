"""Keeps the metric of replicas that did not start: they are gone before anybody reads theirs.

Called by `replica`. The first failure makes one small actor that lives as long as Ray Serve does.
"""

import asyncio
import logging
from typing import Any, Final

import ray
from ray.util.metrics import Counter, Gauge

from halftone.spec.errors import HalftoneError
from halftone.telemetry.endpoint import EndpointMetrics

_NAME: Final = "halftone-load-failures"
_NAMESPACE: Final = "halftone"
_PATIENCE_S: Final = 30
_LOG: Final = logging.getLogger("ray.serve")


class LoadFailures:
    """Counts, by model and reason."""

    def __init__(self) -> None:
        self._metrics: dict[str, EndpointMetrics] = {}

    def count(self, model: str, reason: str) -> None:
        """One more replica of `model` that did not start."""
        if model not in self._metrics:
            self._metrics[model] = EndpointMetrics(model, Counter, Gauge)
        self._metrics[model].count_failure(reason)


async def tell(model: str, error: HalftoneError) -> None:
    """Count `error`. Never raises: whatever happens here, the failure itself is what counts."""
    try:
        async with asyncio.timeout(_PATIENCE_S):
            await _counter().count.remote(model, str(error.reason))
    except Exception as trouble:
        _LOG.warning("The failure of a replica of %s could not be counted: %r.", model, trouble)


def _counter() -> Any:
    return (
        ray.remote(LoadFailures)
        .options(
            name=_NAME,
            namespace=_NAMESPACE,
            get_if_exists=True,
            lifetime="detached",
            num_cpus=0,
            # On the head: elsewhere it would go with a node that drains, or keep one from going.
            resources={"node:__internal_head__": 0.001},
            # And not in the placement group of the replica, which has no such node.
            scheduling_strategy="DEFAULT",
        )
        .remote()
    )
