"""What our recording rules have to make of recorded pages, reckoned without PromQL.

    expected(RECORDING)["halftone:model_requests_running:sum"]
    # {(("model_name", "pocket"), ("namespace", "ray")): 7.0, ...}

Called by contract tests, which have promtool evaluate the rules on the same pages at their last
moment. Names stand here apart from the tables that rules are written from.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from statistics import fmean
from typing import Final

from tests.recorded import Labels, series
from tests.recording.files import Recording

Of = tuple[tuple[str, str], ...]
Points = Sequence[tuple[float, float]]  # seconds since the first moment, value
Rows = Iterable[tuple[Labels, Points]]
Together = dict[Of, Points]
Combine = Callable[[list[float]], float]

# What rules call it -> what vLLM does, without a prefix.
_GAUGES: Final = {
    "requests_running": "num_requests_running",
    "requests_waiting": "num_requests_waiting",
    "kv_cache_usage_ratio": "kv_cache_usage_perc",
}
_COUNTERS: Final = {
    "requests_finished_total": "request_success_total",
    "prompt_tokens_total": "prompt_tokens_total",
    "prompt_tokens_cached_total": "prompt_tokens_cached_total",
    "generation_tokens_total": "generation_tokens_total",
    "finished_prompt_tokens_total": "request_prompt_tokens_sum",
    "finished_generation_tokens_total": "request_generation_tokens_sum",
    "preemptions_total": "num_preemptions_total",
}
_BUCKETS: Final = ("time_to_first_token_seconds_bucket", "inter_token_latency_seconds_bucket")
_SCALING: Final = (
    *("desired_replicas", "max_replicas", "ready_replicas", "starting_replicas", "held"),
    *("lead_seconds", "capacity_ratio", "arguments_refused", "observe_only"),
    *("asked_replicas", "decision_info", "leader", "failed", "conflict"),
)
_MODEL: Final = ("model_name", "namespace")
_TARGET: Final = ("job", "instance", "replica")
_REPLICA: Final = (*_MODEL, *_TARGET, "source")
_DEPLOYMENT: Final = ("namespace", "ray_io_cluster", "application", "deployment")
_WINDOWS: Final = {"5m": 300.0, "30m": 1800.0, "1h": 3600.0, "6h": 21600.0}
_OBJECTIVE: Final = "2.5"
# How vLLM says that a request ended, as a status.
_STATUS: Final = {"abort": "499", "error": "500"}
# Of the reasons that a recorded replica failed for, that which is the artifact's.
_REFUSED: Final = "DigestDiffers"


def expected(recording: Recording) -> dict[str, dict[Of, float]]:
    """By the name of each rule its values at the last moment, by their labels."""
    reckoning = _Reckoning(recording)
    for source in ("native", "ray"):
        reckoning.replicas(source)
    reckoning.models()
    reckoning.answers()
    reckoning.scaling()
    reckoning.all_else()
    return {name: values for name, values in reckoning.found.items() if values}


class _Reckoning:
    """All rules of one recording."""

    def __init__(self, recording: Recording) -> None:
        self._every = series(recording.pages)
        self._step = recording.interval_s
        self._end = self._step * (max(map(len, self._every.values())) - 1)
        # Series of replicas over time, of which those of models are made.
        self._replicas: dict[str, Together] = defaultdict(dict)
        self.found: dict[str, dict[Of, float]] = defaultdict(dict)

    def of(self, name: str, **more: str) -> Iterator[tuple[Labels, Points]]:
        """What pages have of a metric; `more` are labels that take another one's value."""
        for (found, labels), values in self._every.items():
            if found == name:
                own = dict(labels)
                points = [(at * self._step, v) for at, v in enumerate(values) if v is not None]
                yield {**own, **{to: own.get(label, label) for to, label in more.items()}}, points

    def put(self, name: str, together: Mapping[Of, Points], lasting: bool = False) -> None:
        """Record the values of the last moment, or the last ones at all."""
        for labels, points in together.items():
            if points and (lasting or points[-1][0] == self._end):
                self.found[f"halftone:{name}"][labels] = points[-1][1]

    def replicas(self, source: str) -> None:
        """By the label that names one: a pod's name, or Ray's id."""
        prefix, named = ("vllm:", "pod") if source == "native" else ("ray_vllm_", "ReplicaId")
        for short, name in {
            **_GAUGES,
            **_COUNTERS,
            **dict(zip(_BUCKETS, _BUCKETS, strict=True)),
        }.items():
            by = (*_REPLICA, "le") if short in _BUCKETS else _REPLICA
            rows = self.of(prefix + name, replica=named, source=source)
            together = added(rows, by, fmean if short == "kv_cache_usage_ratio" else sum)
            self._replicas[short] |= together
            self.put(f"replica_{short}", together)
        rows = self.of(f"{prefix}num_requests_running", replica=named, source=source)
        times = {of: [(at, at) for at, _ in points] for of, points in added(rows, _REPLICA).items()}
        self.put("replica_sample_timestamp_seconds", times)

    def models(self) -> None:
        """Replicas together, now and a second."""
        self.gauge("replicas:count", "requests_running", len)
        self.gauge("requests_running:sum", "requests_running", sum)
        self.gauge("requests_waiting:sum", "requests_waiting", sum)
        self.gauge("kv_cache_usage_ratio:avg", "kv_cache_usage_ratio", fmean)
        self.gauge("kv_cache_usage_ratio:max", "kv_cache_usage_ratio", max)
        self.rate("requests_finished:rate2m", "requests_finished_total", 120)
        # There is nothing two minutes before, so those that arrived are those that finished.
        self.rate("requests_arrived:rate2m", "requests_finished_total", 120)
        self.rate("requests_finished:rate1h", "requests_finished_total", 3600)
        self.rate("prompt_tokens:rate2m", "prompt_tokens_total", 120)
        self.rate("generation_tokens:rate2m", "generation_tokens_total", 120)
        # Through Ray these are absent until they happen, which is zero.
        for short, beside in (
            ("prompt_tokens_cached", "prompt_tokens"),
            ("preemptions", "requests_finished"),
        ):
            self.rate(f"{short}:rate2m", f"{short}_total", 120)
            none = dict.fromkeys(self.found[f"halftone:model_{beside}:rate2m"], 0.0)
            self.found[f"halftone:model_{short}:rate2m"] = {
                **none,
                **self.found[f"halftone:model_{short}:rate2m"],
            }
        prompt, cached = (
            self.found[f"halftone:model_prompt_tokens{each}:rate2m"] for each in ("", "_cached")
        )
        self.found["halftone:model_prompt_tokens_computed:rate2m"] = {
            of: max(0.0, value - cached[of]) for of, value in prompt.items()
        }
        for name in _BUCKETS:
            self.rate(f"{name}:rate5m", name, 300, "le")
        for window, seconds in _WINDOWS.items():
            rates = rated(self._replicas[_BUCKETS[0]], (*_MODEL, "le"), seconds)
            self.ratio(
                f"first_tokens_in_time:ratio_rate{window}",
                {of[1:]: rate for of, rate in rates.items() if of[0] == ("le", _OBJECTIVE)},
                {of[1:]: rate for of, rate in rates.items() if of[0] == ("le", "+Inf")},
            )

    def gauge(self, name: str, short: str, combine: Combine) -> None:
        """One value of a model's replicas."""
        rows = [(dict(of), points) for of, points in self._replicas[short].items()]
        self.put(f"model_{name}", added(rows, _MODEL, combine))

    def rate(self, name: str, short: str, seconds: float, *more: str) -> None:
        """What a model's replicas count a second."""
        self.found[f"halftone:model_{name}"] = rated(
            self._replicas[short], (*_MODEL, *more), seconds
        )

    def ratio(self, name: str, part: Mapping[Of, float], whole: Mapping[Of, float]) -> None:
        """One rate over another one that is not zero."""
        self.found[f"halftone:model_{name}"] = {
            of: part[of] / value for of, value in whole.items() if value > 0
        }

    def answers(self) -> None:
        """By status: vLLM's own words for it, or those of our middleware."""
        rows: list[tuple[Labels, Points]] = [
            ({**labels, "status": _STATUS.get(labels["finished_reason"], "200")}, points)
            for labels, points in self.of("vllm:request_success_total", replica="pod")
        ]
        rows += self.of(
            "ray_halftone_endpoint_requests_total", model_name="model", replica="WorkerId"
        )
        by = (*_MODEL, *_TARGET)
        by_status = added(rows, (*by, "status"))
        every = added(rows, by)
        failed: Together = {of: [(at, 0.0) for at, _ in points] for of, points in every.items()}
        failed |= added([row for row in rows if row[0]["status"].startswith("5")], by)
        self.put("replica_answers_by_status_total", by_status)
        self.put("replica_answers_total", every)
        self.put("replica_answers_failed_total", failed)
        for window, seconds in _WINDOWS.items():
            parts = (rated(each, _MODEL, seconds) for each in (failed, every))
            self.ratio(f"answers_failed:ratio_rate{window}", *parts)
        self.found["halftone:model_answers:rate1h"] = rated(every, _MODEL, 3600)
        failures = added(
            self.of("ray_halftone_endpoint_load_failures_total", model_name="model"),
            (*_MODEL, "reason"),
        )
        self.put("model_load_failures:increase30m", failures, lasting=True)
        refused = {of: points for of, points in failures.items() if ("reason", _REFUSED) in of}
        self.put("model_artifact_refusals:increase30m", refused, lasting=True)

    def scaling(self) -> None:
        """What decides, with Ray and without."""
        for short in _SCALING:
            combine: Combine = sum if short == "leader" else max
            name = "leaders:sum" if short == "leader" else f"{short}:max"
            for prefix in ("", "ray_"):
                rows = self.of(f"{prefix}halftone_scaling_{short}", model_name="model")
                together = added(rows, (*_MODEL, "term", "kind"), combine)
                self.put(f"model_scaling_{name}", together, lasting=bool(prefix))

    def all_else(self) -> None:
        """Targets, Serve, the doctor, and the operator."""
        for name in ("vllm:num_requests_running", "ray_vllm_prompt_tokens_total"):
            targets = added(self.of(name, replica="pod"), (*_MODEL, "replica"))
            up = {of: [(at, 1.0) for at, _ in points] for of, points in targets.items()}
            self.put("replica_up:min", up)
        least = (
            ("deployment_status:min", "ray_serve_deployment_status"),
            ("metric_contract_ok:min", "halftone_metric_contract_ok"),
        )
        for name, metric in least:
            by = _DEPLOYMENT if "ray" in metric else ("prometheus",)
            self.put(name, added(self.of(metric), by, min), lasting=True)
        own = ("namespace", "condition", "status", "reason", "stage")
        self.put("jobs:max", added(self.of("halftone_jobs"), own, max))
        running = added(self.of("halftone_stage_running_seconds"), own, max)
        self.put("stage_running_seconds:max", running)
        rooms = self.of("halftone_gate_headroom_ratio")
        self.put("gate_headroom_ratio:min", added(rooms, (*own, "metric"), min))
        self.put("operator_leaders:sum", added(self.of("halftone_operator_is_leader"), own))
        age = added(self.of("halftone_operator_queue_age_seconds"), own, max)
        self.put("operator_queue_age_seconds:max", age)
        visits = added(self.of("halftone_operator_reconciles_total"), (*own, "result"))
        self.found["halftone:operator_reconciles:rate15m"] = rated(visits, (*own, "result"), 900)


def added(rows: Rows, by: Sequence[str], combine: Combine = sum) -> Together:
    """Series that have these labels alike, as one: `combine` makes one value of each moment's."""
    found: dict[Of, dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
    for labels, points in rows:
        for at, value in points:
            found[_labels(labels, by)][at].append(value)
    return {
        of: [(at, combine(values)) for at, values in sorted(moments.items())]
        for of, moments in found.items()
    }


def rated(together: Mapping[Of, Points], by: Sequence[str], seconds: float) -> dict[Of, float]:
    """Rates of series at the last moment, added up by these labels."""
    found: dict[Of, float] = defaultdict(float)
    for of, points in together.items():
        found[_labels(dict(of), by)] += rate(points, seconds)
    return dict(found)


def rate(points: Points, seconds: float) -> float:
    """What Prometheus calls the rate of a counter over a window that begins before all points.

    A window that is longer than the points goes on for half a step before them, but not to where
    the counter would have been below zero.
    """
    values = [value for _, value in points]
    grown = sum(after - before if after >= before else after for before, after in pairwise(values))
    covered = points[-1][0] - points[0][0]
    before = covered / (len(points) - 1) / 2
    if grown > 0:
        before = min(before, covered * values[0] / grown)
    return grown * (covered + before) / covered / seconds


def _labels(labels: Labels, by: Sequence[str]) -> Of:
    return tuple(sorted((name, labels[name]) for name in by if labels.get(name)))
