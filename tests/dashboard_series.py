"""Series of a small cluster under load, as its exporters label them, for what dashboards ask.

Called by contract tests of the dashboards, which give them to `promtool test rules`: half an hour
of scrapes, 15 s apart. Model `big` is served through Ray, on two nodes with a GPU each, and `small`
by vLLM itself, in a pod whose GPU DCGM knows. `idle` makes of them what is there while nobody asks
for anything.
"""

import re
from collections.abc import Iterable, Iterator
from typing import Final

from halftone.scaling.policy import Term

STEPS: Final = 120
INTERVAL: Final = "15s"
# A Prometheus 3 writes 1.0 for a bound that an exporter calls 1, a Prometheus 2 does not.
_BELOW_ONE: Final = ("0.025", "0.05", "0.075", "0.1", "0.2", "0.25", "0.5")
_BOUNDS: Final = {
    "vllm:": (*_BELOW_ONE, "1", "2.5", "5", "10", "+Inf"),
    "ray_vllm_": (*_BELOW_ONE, "1.0", "2.5", "5.0", "10.0", "+Inf"),
}
_FLAT, _COUNTS = "{0}x{1}", "0+{0}x{1}"
_STATES: Final = ("held", "failed", "arguments_refused", "observe_only")


def _series(name: str, labels: str, value: str) -> dict[str, str]:
    return {"series": f"{name}{{{labels}}}", "values": value}


def _flat(value: float) -> str:
    return _FLAT.format(value, STEPS)


def _counts(step: float) -> str:
    return _COUNTS.format(step, STEPS)


def _engine(prefix: str, labels: str) -> Iterator[dict[str, str]]:
    gauges = {"num_requests_running": 3, "num_requests_waiting": 1, "kv_cache_usage_perc": 0.4}
    counters = {
        "request_success_total": 15,
        "prompt_tokens_total": 1500,
        "prompt_tokens_cached_total": 600,
        "generation_tokens_total": 300,
        "num_preemptions_total": 1,
    }
    for name, value in gauges.items():
        yield _series(prefix + name, labels, _flat(value))
    for name, step in counters.items():
        yield _series(prefix + name, labels, _counts(step))
    for name in ("time_to_first_token", "inter_token_latency"):
        for step, bound in enumerate(_BOUNDS[prefix], 1):
            labelled = f'{labels}, le="{bound}"'
            yield _series(f"{prefix}{name}_seconds_bucket", labelled, _counts(step))


def _serving() -> Iterator[dict[str, str]]:
    target = 'namespace="models", job="endpoint", instance="10.0.0.1:8000", pod="small-0"'
    yield from _engine("vllm:", f'model_name="small", engine="0", {target}')
    yield _series(
        "DCGM_FI_DEV_GPU_UTIL",
        'namespace="models", pod="small-0", gpu="0", Hostname="n0"',
        _flat(80),
    )
    for number in (1, 2):
        target = (
            f'namespace="models", job="ray", instance="10.0.1.{number}:8080", pod="big-{number}"'
        )
        replica = f'model_name="big", engine="0", ReplicaId="r{number}", WorkerId="w{number}"'
        yield from _engine("ray_vllm_", f"{replica}, {target}")
        yield _series("ray_node_gpus_utilization", f'GpuIndex="0", {target}', _flat(70))
        yield from _replica(f'model="big", WorkerId="w{number}", {target}')


def _replica(labels: str) -> Iterator[dict[str, str]]:
    """What a replica of ours says through Ray. It changed its artifact two minutes ago."""
    ours = "ray_halftone_endpoint_"
    for status, step in (("200", 14), ("429", 1), ("500", 1)):
        answer = f'{labels}, path="/v1/completions", status="{status}"'
        yield _series(f"{ours}requests_total", answer, _counts(step))
    yield _series(f"{ours}requests_in_flight", labels, _flat(4))
    yield _series(f"{ours}requests_limit", labels, _flat(64))
    failed = f'{labels}, reason="SignatureInvalid"'
    yield _series(f"{ours}load_failures_total", failed, f"0x{STEPS // 2} 1x{STEPS // 2}")
    yield _series(f"{ours}load_seconds", f'{labels}, step="engine"', _flat(42))
    before = STEPS - 8
    for digest, value in (("aa", f"1x{before}"), ("bb", f"_x{before} 1x8")):
        said = f'{labels}, digest="{digest}", verdict="Passed"'
        yield _series(f"{ours}artifact", said, value)


def _scaling(prefix: str, labels: str) -> Iterator[dict[str, str]]:
    name = f"{prefix}halftone_scaling_"
    counts = {"desired": 3, "ready": 2, "starting": 1, "max": 8}
    for what, value in counts.items():
        yield _series(f"{name}{what}_replicas", labels, _flat(value))
    for term in Term:
        said = f'{labels}, term="{term}"'
        yield _series(f"{name}decision_info", said, _flat(float(term == Term.Backlog)))
        yield _series(f"{name}asked_replicas", said, _flat(2.5))
    yield _series(f"{name}lead_seconds", labels, _flat(277))
    yield _series(f"{name}capacity_ratio", labels, _flat(1.1))
    yield _series(f"{name}leader", labels, _flat(1))
    yield _series(f"{name}conflict", f'{labels}, kind="Rival"', _flat(0))
    for state in _STATES:
        yield _series(f"{name}{state}", labels, _flat(0))


def _operating() -> Iterator[dict[str, str]]:
    target = 'namespace="halftone", job="operator", instance="10.0.2.1:8080"'
    counters = {
        "halftone_operator_reconciles_total": 'result="done"',
        "halftone_operator_api_requests_total": 'method="GET", status="200"',
        "halftone_operator_pipeline_requests_total": 'result="done"',
        "halftone_checkpoint_read_bytes_total": "",
        "halftone_checkpoint_written_bytes_total": "",
        "halftone_artifact_published_bytes_total": "",
        "halftone_stage_duration_seconds_count": 'stage="quantize", result="succeeded"',
    }
    gauges = {
        "halftone_operator_queue_age_seconds": "",
        "halftone_operator_queue_length": "",
        "halftone_operator_is_leader": "",
        "halftone_stage_running_seconds": 'stage="validate"',
        "halftone_gate_headroom_ratio": 'metric="KlDivergence"',
    }
    for bound, step in (("1", 4), ("+Inf", 5)):
        for name, labels in (
            ("halftone_operator_reconcile_seconds_bucket", ""),
            ("halftone_stage_duration_seconds_bucket", 'stage="quantize", result="succeeded", '),
        ):
            yield _series(name, f'{labels}le="{bound}", {target}', _counts(step))
    for names, values in ((counters, _counts(5)), (gauges, _flat(1))):
        for name, labels in names.items():
            yield _series(name, f"{labels}, {target}" if labels else target, values)
    yield _series("halftone_metric_contract_ok", 'prometheus="http://here"', _flat(1))
    jobs = (
        ("Succeeded", "Unknown", "Quantizing"),
        ("Succeeded", "True", "Published"),
        ("Succeeded", "False", "GateFailed"),
        ("Validated", "False", "GateFailed"),
        ("Quantized", "False", "OutOfMemory"),
    )
    for condition, status, reason in jobs:
        labels = f'condition="{condition}", status="{status}", reason="{reason}", {target}'
        yield _series("halftone_jobs", labels, _flat(1))


def all_series() -> list[dict[str, str]]:
    """As `input_series` of a suite has them."""
    autoscaler = 'model="small", namespace="models", job="autoscale", instance="10.0.0.9:8080"'
    head = 'model="big", namespace="models", job="ray", instance="10.0.1.0:8080"'
    return [
        *_serving(),
        *_scaling("ray_", head),
        *_scaling("", autoscaler),
        *_operating(),
    ]


def idle(series: Iterable[dict[str, str]]) -> list[dict[str, str]]:
    """The same series, each 0 from when it is there."""
    return [
        {**each, "values": re.sub(r"[\d.]+(?:\+[\d.]+)?x", "0x", each["values"])} for each in series
    ]
