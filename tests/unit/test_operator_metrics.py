"""What the operator exports of stages that run, and of gates.

We test these aspects:
- a stage is as old as its oldest Job that runs, from when the Job was last begun;
- a Job that ended, waits for a queue or is being deleted does not run, and counts for nothing;
- a stage of which none runs any more is not exported;
- how long stages took is there for every stage and result before one has ended;
- of the room that gates of all jobs leave to their limits the least is kept by metric, and none of
  jobs that are gone.
"""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import product
from typing import Any

from halftone.spec.cluster import ATTEMPT_LABEL, JOB_LABEL, STAGE_LABEL, ChildStage
from halftone.telemetry.operator import OperatorMetrics
from operators.quantizationjob.indexes import Indexes
from tests.unwatched import unwatched

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
STAGES = ("plan", "quantize", "validate", "publish")
SPEC = {"template": {"spec": {"containers": [{"name": "stage"}]}}}


def ago(seconds: float) -> str:
    """A time as the API server writes it."""
    return (NOW - timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")


def job(name: str, stage: str, created: float, started: float | None = None) -> dict[str, Any]:
    """A Job that was made and begun so many seconds ago."""
    labels = {JOB_LABEL: f"of-{name}", STAGE_LABEL: stage, ATTEMPT_LABEL: "1"}
    metadata = {"name": name, "namespace": "team", "uid": name, "labels": labels}
    status = {} if started is None else {"startTime": ago(started)}
    metadata["creationTimestamp"] = ago(created)
    return {"metadata": metadata, "spec": dict(SPEC), "status": status}


def knowing(*bodies: dict[str, Any]) -> Indexes:
    """Indexes that have heard of these Jobs."""
    indexes = unwatched()
    for body in bodies:
        indexes.children.put(body)
    return indexes


def told(
    metrics: OperatorMetrics, name: str = "halftone_stage_running_seconds"
) -> dict[str, float]:
    """Values by the one label."""
    return {
        next(iter(sample.labels.values())): sample.value
        for family in metrics.registry.collect()
        for sample in family.samples
        if sample.name == name
    }


def test_a_stage_is_as_old_as_its_oldest_job_that_runs() -> None:
    indexes = knowing(
        job("a", "quantize", 7200, 3600),
        job("b", "quantize", 900, 890),
        job("c", "publish", 40),
        job("d", "plan", -2, -2),
    )
    metrics = OperatorMetrics()
    metrics.read_stages(indexes.running, NOW)
    assert told(metrics) == {"quantize": 3600, "publish": 40, "plan": 0}


def test_what_does_not_run_counts_for_nothing() -> None:
    ended, failed, queued, going = (job(name, name, 9000, 8000) for name in STAGES)
    ended["status"]["conditions"] = [{"type": "Complete", "status": "True"}]
    ended["status"]["completionTime"] = ago(10)
    failed["status"]["conditions"] = [
        {"type": "Failed", "status": "True", "lastTransitionTime": ago(10)}
    ]
    queued["spec"]["suspend"] = True
    going["metadata"]["deletionTimestamp"] = ago(10)
    assert list(knowing(ended, failed, queued, going).running()) == []


def judged(name: str, scores: dict[str, str], maximum: str) -> dict[str, Any]:
    """A QuantizationJob with a gate for each score."""
    gates = [{"name": gate, "metric": gate, "maximum": maximum} for gate in scores]
    values = [{"name": gate, "value": value} for gate, value in scores.items()]
    metadata = {"name": name, "namespace": "team", "uid": name}
    status = {"gates": values}
    return {"metadata": metadata, "spec": {"validation": {"gates": gates}}, "status": status}


def test_the_least_room_of_all_jobs_is_kept() -> None:
    indexes = knowing()
    indexes.objects.put(judged("a", {"KlDivergence": "0.75", "WeightError": "0.5"}, "1"))
    indexes.objects.put(judged("b", {"KlDivergence": "1.5"}, "1"))
    metrics = OperatorMetrics()
    metrics.read_headrooms(indexes.headrooms)
    room = "halftone_gate_headroom_ratio"
    assert told(metrics, room) == {"KlDivergence": -0.5, "WeightError": 0.5}
    indexes.objects.drop(("team", "b"))
    metrics.read_headrooms(indexes.headrooms)
    assert told(metrics, room) == {"KlDivergence": 0.25, "WeightError": 0.5}
    indexes.objects.drop(("team", "a"))
    metrics.read_headrooms(indexes.headrooms)
    assert told(metrics, room) == {}


def test_durations_of_every_stage_are_there_before_one_has_ended() -> None:
    """`increase` of a series that begins at 1 is 0."""
    metrics = OperatorMetrics()

    def counted() -> dict[tuple[str, str], float]:
        return {
            (sample.labels["stage"], sample.labels["result"]): sample.value
            for sample in next(iter(metrics.stage_seconds.collect())).samples
            if sample.name.endswith("_count")
        }

    none = counted()
    assert none == dict.fromkeys(product(ChildStage, ("succeeded", "failed")), 0)
    metrics.end_stage(ChildStage.Quantize, 60, succeeded=True)
    metrics.end_stage(ChildStage.Validate, 60, succeeded=False)
    more = {("quantize", "succeeded"): 1, ("validate", "failed"): 1}
    assert counted() == {**none, **more}


def test_a_stage_of_which_none_runs_any_more_is_not_exported() -> None:
    metrics = OperatorMetrics()
    metrics.read_stages(knowing(job("a", "validate", 60, 50)).running, NOW)
    assert told(metrics) == {"validate": 50}

    def nobody() -> Iterator[tuple[str, datetime]]:
        return iter(())

    metrics.read_stages(nobody, NOW)
    assert told(metrics) == {}
