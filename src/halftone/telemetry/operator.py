"""Metrics of the operator of QuantizationJobs. No job's name is a label: their number has no bound.

Called by `operators.quantizationjob`.
"""

from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from halftone.spec.cluster import ChildStage

# A plan takes seconds, a large checkpoint hours.
_STAGE_BUCKETS: Final = (1, 5, 15, 60, 300, 900, 3600, 4 * 3600, 12 * 3600)
_SUCCEEDED: Final = "succeeded"
_FAILED: Final = "failed"
_RECONCILE_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class OperatorMetrics:
    """One set in a registry of its own, so that a test can have several."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._make_visits()
        self._make_jobs()
        self._make_bytes()

    def _make_visits(self) -> None:
        self.reconciles = Counter(
            "halftone_operator_reconciles",
            "Visits of a QuantizationJob, by what came of them (done, early, conflict, error).",
            ["result"],
            registry=self.registry,
        )
        self.reconcile_seconds = Histogram(
            "halftone_operator_reconcile_seconds",
            "Duration of a visit, its requests included.",
            buckets=_RECONCILE_BUCKETS,
            registry=self.registry,
        )
        self.queue_age = Gauge(
            "halftone_operator_queue_age_seconds",
            "For how long the oldest waiting QuantizationJob has not been looked at.",
            registry=self.registry,
        )
        self.queue_length = Gauge(
            "halftone_operator_queue_length",
            "QuantizationJobs that wait to be looked at.",
            registry=self.registry,
        )
        self.requests = Counter(
            "halftone_operator_api_requests",
            "Requests sent to the API server, by method and status; 0 for no answer.",
            ["method", "status"],
            registry=self.registry,
        )
        self.pipeline_requests = Counter(
            "halftone_operator_pipeline_requests",
            "Questions to Kubeflow Pipelines, by what came of them (done, refused, unreachable).",
            ["result"],
            registry=self.registry,
        )
        self.is_leader = Gauge(
            "halftone_operator_is_leader",
            "1 for the replica that acts.",
            registry=self.registry,
        )

    def _make_jobs(self) -> None:
        self.jobs = Gauge(
            "halftone_jobs",
            "QuantizationJobs by a condition and its status and reason.",
            ["condition", "status", "reason"],
            registry=self.registry,
        )
        self.headroom = Gauge(
            "halftone_gate_headroom_ratio",
            "The least room that a gate of a job leaves to its limit, as a share of the limit.",
            ["metric"],
            registry=self.registry,
        )
        self.stage_seconds = Histogram(
            "halftone_stage_duration_seconds",
            "From the creation of a stage's Job to its end, by stage and result.",
            ["stage", "result"],
            buckets=_STAGE_BUCKETS,
            registry=self.registry,
        )
        # Else the first stage that ends would make its series, and nobody saw it grow.
        for stage in ChildStage:
            for result in (_SUCCEEDED, _FAILED):
                self.stage_seconds.labels(stage, result)
        self.stage_running = Gauge(
            "halftone_stage_running_seconds",
            "For how long the oldest Job of a stage has been running.",
            ["stage"],
            registry=self.registry,
        )

    def _make_bytes(self) -> None:
        self.bytes_read = Counter(
            "halftone_checkpoint_read_bytes",
            "Bytes of sources that were read while quantizing, as running workers tell them.",
            registry=self.registry,
        )
        self.bytes_written = Counter(
            "halftone_checkpoint_written_bytes",
            "Bytes of checkpoints that were written.",
            registry=self.registry,
        )
        self.bytes_published = Counter(
            "halftone_artifact_published_bytes",
            "Bytes of artifacts that were published.",
            registry=self.registry,
        )

    def count_request(self, method: str, status: int) -> None:
        """One request to the API server; `WATCH` is a method here."""
        self.requests.labels(method, str(status)).inc()

    def end_stage(self, stage: str, seconds: float, *, succeeded: bool) -> None:
        """A stage's Job came to its end."""
        result = _SUCCEEDED if succeeded else _FAILED
        self.stage_seconds.labels(stage, result).observe(seconds)

    def read_jobs(self, rows: Callable[[], Iterable[tuple[str, str, str]]]) -> None:
        """Count (condition, status, reason) of all jobs anew."""
        self.jobs.clear()
        for condition, status, reason in rows():
            self.jobs.labels(condition, status, reason).inc()

    def read_headrooms(self, rows: Callable[[], Iterable[tuple[str, float]]]) -> None:
        """Keep the least of (metric of a gate, room as a share of its limit), by metric."""
        self.headroom.clear()
        least: dict[str, float] = {}
        for metric, room in rows():
            least[metric] = min(room, least.get(metric, room))
        for metric, room in least.items():
            self.headroom.labels(metric).set(room)

    def read_stages(
        self, rows: Callable[[], Iterable[tuple[str, datetime]]], now: datetime
    ) -> None:
        """Age the oldest (stage, since when) of each stage that runs; others have none."""
        self.stage_running.clear()
        oldest: dict[str, datetime] = {}
        for stage, since in rows():
            oldest[stage] = min(since, oldest.get(stage, since))
        for stage, since in oldest.items():
            # Clocks of the API server and of this process differ a little.
            self.stage_running.labels(stage).set(max(0.0, (now - since).total_seconds()))
