"""Every expression that a dashboard shows, apart from how it shows it.

Called by the dashboards. A recorded series is read where there is one: it has one name, whoever
exports what is behind it, and `$family` is the label that says who, of replicas. What no rule
records of an endpoint always comes through Ray, also where a Deployment runs it.

A model of the same name in two namespaces is two endpoints: their counts are added up, and what
cannot be added is shown of each. Where nothing happens there is no share and no quantile, so every
division is by what is above 0, and no quantile is NaN.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from halftone.scaling.policy import Term

MODEL: Final = 'model_name=~"$model", namespace=~"$namespace"'
REPLICA: Final = f'{MODEL}, replica=~"$replica", source=~"$family"'
# Of what our replicas export, which call a model `model`.
OURS: Final = 'model=~"$model", namespace=~"$namespace"'
OPERATOR: Final = 'namespace=~"$namespace"'
_RATE: Final = "$__rate_interval"
_RANGE: Final = "$__range"
_EACH: Final = "model_name, namespace, replica"


@dataclass(frozen=True)
class Query:
    """An expression, and what the legend calls each of its series."""

    expression: str
    legend: str = ""


def model(recorded: str, by: str = "model_name") -> str:
    """A recorded series of models, added up over namespaces."""
    return f"sum by ({by}) ({recorded}{{{MODEL}}})"


def replica(recorded: str) -> str:
    """A recorded gauge of replicas, each of them once though two jobs scrape it."""
    return f"max by ({_EACH}) ({recorded}{{{REPLICA}}})"


def replica_rate(recorded: str) -> str:
    """A recorded counter of replicas, a second."""
    return f"max by ({_EACH}) (rate({recorded}{{{REPLICA}}}[{_RATE}]))"


# Tokens


def tokens_per_gpu() -> tuple[Query, Query]:
    """By pod where DCGM says whose a GPU is, by Ray's node where Ray sees it. What is joined
    decides the family."""
    chosen = f'halftone:replica_generation_tokens_total{{{MODEL}, replica=~"$replica"'
    pods = (
        'label_replace(DCGM_FI_DEV_GPU_UTIL{namespace=~"$namespace"}, '
        '"replica", "$1", "pod", "(.+)")'
    )
    rays = 'ray_node_gpus_utilization{namespace=~"$namespace"}'
    return (
        _over(f'{chosen}, source="native"}}', "replica", pods),
        _over(f'{chosen}, source="ray"}}', "instance", rays),
    )


def _over(tokens: str, place: str, gpus: str) -> Query:
    """Tokens a second of a place, over its GPUs."""
    each = f"max by (namespace, instance, replica) (rate({tokens}[{_RATE}]))"
    return Query(
        f"sum by (namespace, {place}) ({each}) / on (namespace, {place}) "
        f"count by (namespace, {place}) ({gpus})",
        f"{{{{{place}}}}}",
    )


GPU_BUSY: Final = (
    Query('DCGM_FI_DEV_GPU_UTIL{namespace=~"$namespace"}', "{{Hostname}}, GPU {{gpu}}"),
    Query('ray_node_gpus_utilization{namespace=~"$namespace"}', "{{instance}}, GPU {{GpuIndex}}"),
)
_PROMPT: Final = model("halftone:model_prompt_tokens:rate2m")
PREFIX_HITS: Final = f"{model('halftone:model_prompt_tokens_cached:rate2m')} / ({_PROMPT} > 0)"


def cost(tokens: str) -> str:
    """What a million of `tokens`, a rate, costs; nothing while none are made."""
    replicas = model("halftone:model_replicas:count")
    return f"1e6 * $price * {replicas} / (3600 * ({tokens} > 0))"


GENERATED: Final = model("halftone:model_generation_tokens:rate2m")
COST_GENERATED: Final = cost(GENERATED)
COST_ALL: Final = cost(f"({_PROMPT} + {GENERATED})")


# Latency

_TTFT: Final = "halftone:model_time_to_first_token_seconds_bucket:rate5m"
_ITL: Final = "halftone:model_inter_token_latency_seconds_bucket:rate5m"


def _quantile(share: float, buckets: str) -> str:
    """A quantile of a histogram; nothing where it has no observation, of which Prometheus says NaN,
    and NaN is not at least 0."""
    return f"histogram_quantile({share}, {buckets}) >= 0"


def quantile(share: float, buckets: str) -> str:
    """A quantile of a recorded histogram of models."""
    return _quantile(share, model(buckets, "model_name, le"))


def quantiles(buckets: str) -> tuple[Query, ...]:
    """The median, and what one in twenty and one in a hundred exceed."""
    return tuple(
        Query(quantile(share, buckets), f"p{share * 100:.0f} {{{{model_name}}}}")
        for share in (0.5, 0.95, 0.99)
    )


def within(buckets: str, bound: str) -> str:
    """The share that is at most `bound`. Prometheus 2 may call 1 what 3 calls 1.0."""
    good = f'sum by (model_name) ({buckets}{{{MODEL}, le=~"{bound}([.]0)?"}})'
    every = f'(sum by (model_name) ({buckets}{{{MODEL}, le="+Inf"}}) > 0)'
    return f"{good} / {every}"


TTFT_P95: Final = quantile(0.95, _TTFT)
TTFT: Final = quantiles(_TTFT)
ITL: Final = quantiles(_ITL)
TTFT_WITHIN: Final = within(_TTFT, "$ttft")
ITL_WITHIN: Final = within(_ITL, "$itl")


# Scaling


ENDPOINT: Final = "model_name, namespace"


def scaling(name: str, by: str = ENDPOINT) -> str:
    """A gauge of scaling, of each endpoint."""
    return f"max by ({by}) ({_scaling(name)})"


def scaled(name: str) -> str:
    """Replicas of scaling, added up over namespaces."""
    return model(f"halftone:model_scaling_{name}:max")


def _scaling(name: str, more: str = "") -> str:
    return f"halftone:model_scaling_{name}:max{{{MODEL}{more}}}"


# An endpoint that has more than it wants makes up for nothing that another one lacks.
REPLICAS_MISSING: Final = (
    f"sum(clamp_min({_scaling('desired_replicas')} - {_scaling('ready_replicas')}, 0))"
)


def _numbered() -> str:
    """The term that binds as a number, 1 for the law's first: states of a timeline are numbers."""
    parts = (
        f"{number} * " + _scaling("decision_info", f', term="{term}"')
        for number, term in enumerate(Term, 1)
    )
    return f"max by ({ENDPOINT}) ({' or '.join(parts)}) > 0"


TERM: Final = _numbered()
# What each state of scaling means while it is 1, in the order of urgency.
STATES: Final[Sequence[tuple[str, str, str]]] = (
    ("held", "model_name", "held for want of data"),
    ("failed", "model_name", "target not reached"),
    ("arguments_refused", "model_name", "values refused"),
    ("conflict", "model_name, kind", "conflict: {{kind}}"),
    ("observe_only", "model_name", "observes only"),
)


# Answers


def answers(by: str, status: str = ".*") -> str:
    """Answers a second by a label; `status` is a pattern."""
    total = f'halftone:replica_answers_by_status_total{{{MODEL}, status=~"{status}"}}'
    return f"sum by ({by}) (max by ({_EACH}, status) (rate({total}[{_RATE}])))"


ERROR_RATIO: Final = f"max by (model_name) (halftone:model_answers_failed:ratio_rate5m{{{MODEL}}})"
_ANSWERS: Final = answers("model_name")
REFUSED_RATIO: Final = f"({answers('model_name', '429')} or 0 * {_ANSWERS}) / ({_ANSWERS} > 0)"
LOAD_FAILURES: Final = (
    "sum by (model_name, reason) (max_over_time(halftone:model_load_failures:increase30m"
    f"{{{MODEL}}}[{_RANGE}]))"
)
LOAD_SECONDS: Final = (
    f"max by (model, step) (last_over_time(ray_halftone_endpoint_load_seconds{{{OURS}}}[{_RANGE}]))"
)
# Ray drops a gauge that nobody sets again, so a digest is new when a day has not seen it.
NEW_ARTIFACT: Final = (
    f"max by (model, digest) (ray_halftone_endpoint_artifact{{{OURS}}}) unless "
    f"max by (model, digest) (last_over_time(ray_halftone_endpoint_artifact{{{OURS}}}[1d] "
    "offset 5m))"
)


def in_flight(name: str) -> str:
    """Of replicas, each once: `requests_in_flight` or `requests_limit`."""
    each = f"max by (model, namespace, WorkerId) (ray_halftone_endpoint_{name}{{{OURS}}})"
    return f"sum by (model) ({each})"


# Quantization


def jobs(by: str, *chosen: str) -> str:
    """QuantizationJobs by labels."""
    return f"sum by ({by}) (halftone:jobs:max{{{', '.join((OPERATOR, *chosen))}}})"


def stage_quantile(share: float) -> str:
    """How long stages took that ended in the time that is shown."""
    buckets = f'halftone_stage_duration_seconds_bucket{{{OPERATOR}, result="succeeded"}}'
    return _quantile(share, f"sum by (stage, le) (increase({buckets}[{_RANGE}]))")


def total(counter: str, by: str = "") -> str:
    """By how much a counter of the operator grew in the time that is shown."""
    kept = f" by ({by})" if by else ""
    return f"sum{kept} (increase({counter}{{{OPERATOR}}}[{_RANGE}]))"


# `increase` reckons a little beyond the first and the last scrape, and makes 1.02 of one.
STAGES_ENDED: Final = (
    f"round({total('halftone_stage_duration_seconds_count', 'stage, result')}) > 0"
)
STAGE_RUNNING: Final = f"max by (stage) (halftone:stage_running_seconds:max{{{OPERATOR}}})"
HEADROOM: Final = f"min by (metric) (halftone:gate_headroom_ratio:min{{{OPERATOR}}})"
NOT_TRUE: Final = 'status="False"'


# Operator


def operator_rate(name: str, by: str = "", *chosen: str) -> str:
    """A counter of the operator, a second."""
    labels = ", ".join((OPERATOR, *chosen))
    kept = f" by ({by})" if by else ""
    return f"sum{kept} (rate({name}{{{labels}}}[{_RATE}]))"


def operator_gauge(name: str, operation: str = "max", by: str = "namespace") -> str:
    """A gauge of the operator; those that look on have an empty queue."""
    return f"{operation} by ({by}) ({name}{{{OPERATOR}}})"


LEADERS: Final = f"sum by (namespace) (halftone:operator_leaders:sum{{{OPERATOR}}})"
QUEUE_AGE: Final = f"max by (namespace) (halftone:operator_queue_age_seconds:max{{{OPERATOR}}})"
VISITS: Final = f"sum by (result) (halftone:operator_reconciles:rate15m{{{OPERATOR}}})"
CONTRACT: Final = "min(halftone:metric_contract_ok:min)"


def reconcile_quantile(share: float) -> str:
    """How long visits took."""
    return _quantile(share, operator_rate("halftone_operator_reconcile_seconds_bucket", "le"))


_REQUESTS: Final = "halftone_operator_api_requests_total"
# 404 and 409 are answers that a reconcile expects; 0 is no answer.
_UNANSWERED: Final = operator_rate(_REQUESTS, "", 'status=~"0|429|5.."')
API_ERROR_RATIO: Final = f"({_UNANSWERED} or vector(0)) / ({operator_rate(_REQUESTS)} > 0)"
API_REQUESTS: Final = operator_rate(_REQUESTS, "method, status")
