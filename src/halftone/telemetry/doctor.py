"""Metrics of a `halftone doctor` that keeps running: whether the contract of metrics holds.

Called by `halftone doctor --metrics-port`. A family is a word of the contract: vllm, ray, halftone,
kubernetes, dcgm or prometheus; or `rules` or `alerts`, which count groups of rules. `prometheus`
names the server that was looked at.
"""

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Gauge


class DoctorMetrics:
    """One set in a registry of its own, of one `prometheus`."""

    def __init__(self, prometheus: str) -> None:
        self._prometheus = prometheus
        self.registry = CollectorRegistry()
        self.ok = Gauge(
            "halftone_metric_contract_ok",
            "1 where everything of a family is there that rules, dashboards and the scaler need.",
            ["prometheus", "family"],
            registry=self.registry,
        )
        self.missing = Gauge(
            "halftone_metric_contract_missing",
            "Metrics of a family that are missing, old, or without a label.",
            ["prometheus", "family"],
            registry=self.registry,
        )

    def tell(self, missing: Mapping[str, int]) -> None:
        """What was found, by family."""
        for family, count in missing.items():
            self.ok.labels(self._prometheus, family).set(float(not count))
            self.missing.labels(self._prometheus, family).set(count)

    def forget(self) -> None:
        """Nothing is known: a value of before would be a claim."""
        self.ok.clear()
        self.missing.clear()
