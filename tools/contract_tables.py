"""What no expression says of a metric: whose it is, when it exists, and which labels may be absent.

Called by `contract`. In each table the first row that fits decides; a metric that no row of the
first names is refused, so that somebody says whose it is.
"""

import re
from typing import Final, NamedTuple

from halftone.telemetry.contract import Exists, LabelOrigin, Source


class Whose(NamedTuple):
    """Names that match are of this source and family."""

    pattern: str
    source: Source
    family: str


SOURCES: Final = (
    Whose(r"vllm:.*", Source.VllmServer, "vllm"),
    Whose(r"ray_vllm_.*", Source.VllmRay, "vllm"),
    Whose(r"halftone_endpoint_.*", Source.EndpointServer, "halftone"),
    Whose(r"ray_halftone_endpoint_.*", Source.EndpointRay, "halftone"),
    Whose(r"halftone_scaling_.*", Source.Autoscale, "halftone"),
    Whose(r"ray_halftone_scaling_.*", Source.AutoscaleRay, "halftone"),
    Whose(r"halftone_metric_contract_.*", Source.Doctor, "halftone"),
    Whose(
        r"halftone_(jobs|(operator|stage|gate|checkpoint|artifact)_.*)", Source.Operator, "halftone"
    ),
    Whose(r"ray_.*", Source.Ray, "ray"),
    Whose(r"kube_.*", Source.KubeState, "kubernetes"),
    Whose(r"(container|kubelet|machine)_.*", Source.Kubelet, "kubernetes"),
    Whose(r"DCGM_.*", Source.Dcgm, "dcgm"),
    Whose(r"up|scrape_.*|ALERTS|ALERTS_FOR_STATE|prometheus_.*", Source.Prometheus, "prometheus"),
)


class When(NamedTuple):
    """When names that match exist, and why; `after` is a metric with which they are there too."""

    pattern: str
    exists: Exists
    because: str
    after: str | None = None


_SELDOM: Final = "it appears when it first happens, which may be never"
_FEATURE: Final = "it is there with the feature alone"
# Ray's exporter has a counter or a histogram from when it first counted, and a gauge for as long as
# somebody sets it. Metrics with labels of their own, in Prometheus's client, are as Ray's counters,
# unless they were made before they count.
EXISTENCE: Final = (
    When(r"ray_vllm_num_preemptions_total", Exists.Optional, _SELDOM),
    When(r"ray_vllm_prompt_tokens_cached_total", Exists.Optional, _SELDOM),
    When(
        r"(ray_)?vllm[:_](spec_decode|lora|external_prefix|mm_cache)_.*", Exists.Optional, _FEATURE
    ),
    When(r"(ray_)?vllm[:_]kv_(block|offload)_.*", Exists.Optional, _FEATURE),
    When(r"ray_vllm_.*(queries|hits)_total", Exists.Optional, _SELDOM),
    When(
        r"ray_vllm_.*_(total|bucket|sum|count)",
        Exists.UnderLoad,
        "through Ray it appears with the first request that finishes",
    ),
    When(
        r"ray_vllm_.*",
        Exists.UnderLoad,
        "through Ray it vanishes some seconds after the last request",
    ),
    When(r"vllm:.*", Exists.Always, "vLLM exports it from its start on"),
    When(r"ray_node_(gpus|gram)_.*", Exists.Optional, "a node without a GPU has none"),
    When(r"ray_node_.*", Exists.Always, "every node of Ray exports it"),
    When(
        r"ray_serve_deployment_status",
        Exists.UnderLoad,
        "Serve sets it for as long as it has a deployment",
        after="ray_serve_deployment_replica_healthy",
    ),
    When(
        r"ray_serve_deployment_replica_healthy",
        Exists.Intermittent,
        "Serve sets it every ten seconds, and it may vanish in between",
    ),
    When(r"(ray_)?halftone_endpoint_load_failures_total", Exists.Optional, _SELDOM),
    When(r"(ray_)?halftone_endpoint_capacity.*", Exists.Optional, "it needs a card that fits"),
    When(
        r"(ray_)?halftone_endpoint_load_seconds",
        Exists.UnderLoad,
        "a replica sets it when a step of its start is over, and again and again from then on",
        after="ray_halftone_endpoint_requests_limit",
    ),
    When(
        r"(ray_)?halftone_endpoint_.*_total",
        Exists.Optional,
        "it appears with the first request to the endpoint, of which its own warm-up is none",
    ),
    When(
        r"(ray_)?halftone_endpoint_.*",
        Exists.UnderLoad,
        "a replica that has started sets it again every two seconds",
    ),
    When(
        r"ray_halftone_scaling_(conflict|leader|failed)",
        Exists.Optional,
        "`halftone autoscale` alone has rivals and a target that may fail",
    ),
    When(
        r"(ray_)?halftone_scaling_(decision_info|asked_replicas|desired_replicas)",
        Exists.UnderLoad,
        "it appears with the first decision",
    ),
    When(r"(ray_)?halftone_scaling_capacity_ratio", Exists.Optional, "it has to be measured first"),
    When(r"halftone_scaling_(failed|leader|observe_only)", Exists.UnderLoad, "each look sets it"),
    When(
        r"(ray_)?halftone_scaling_.*", Exists.UnderLoad, "each look that reaches its target sets it"
    ),
    When(r"ray_.*", Exists.Optional, "it depends on what Ray runs"),
    When(r"halftone_operator_pipeline_.*", Exists.Optional, _FEATURE),
    When(r"halftone_operator_reconciles_total", Exists.Optional, "it appears with the first job"),
    When(
        r"halftone_jobs",
        Exists.UnderLoad,
        "it is there while there are jobs",
        after="halftone_stage_running_seconds",
    ),
    When(r"halftone_stage_running_.*", Exists.Optional, "it is there while a stage runs"),
    When(r"halftone_gate_.*", Exists.Optional, "it is there while a job has a gate's score"),
    When(
        r"halftone_(operator|checkpoint|artifact|stage_duration)_.*",
        Exists.Always,
        "the operator exports it from its start on",
    ),
    When(
        r"halftone_metric_contract_.*",
        Exists.Optional,
        "it needs a `halftone doctor` that keeps running",
    ),
    When(
        r"kube_.*(_reason|_last_terminated_.*)", Exists.Optional, "it appears when it first happens"
    ),
    When(r"kube_.*", Exists.Optional, "it depends on what there is in the cluster"),
    When(r"DCGM_.*", Exists.Optional, "which fields DCGM exports is a setting of its own"),
    When(r"up|scrape_.*", Exists.Always, "Prometheus makes it of every scrape"),
    When(r"ALERTS.*", Exists.Optional, "it is there while an alert is pending or fires"),
    When(r".*", Exists.Optional, "nothing says that it is always there"),
)


class Label(NamedTuple):
    """Where a label of names that match comes from, and why."""

    pattern: str
    label: str
    origin: LabelOrigin
    because: str


_OUTSIDE: Final = "outside Kubernetes nobody adds it"
_OWN: Final = r"kube_.*|container_.*|kubelet_.*|DCGM_.*"
LABELS: Final = (
    Label(
        r"DCGM_.*",
        r"pod|namespace|container|exported_.*|Hostname|hostname|node|modelName|UUID|device",
        LabelOrigin.MayLack,
        "DCGM adds it by its own settings, or for a GPU that a pod has",
    ),
    Label(
        r"(kube|container|kubelet)_.*",
        r"container|image|node|instance|uid",
        LabelOrigin.MayLack,
        "an object without it, such as a pod that no node has yet, is shown all the same",
    ),
    Label(_OWN, r"job|instance", LabelOrigin.Scrape, "Prometheus adds it to every series"),
    Label(_OWN, r".*", LabelOrigin.Exporter, "its own"),
    Label(r".*", r"job|instance", LabelOrigin.Scrape, "Prometheus adds it to every series"),
    Label(
        r".*",
        r"namespace|pod|container|service|endpoint|node|cluster",
        LabelOrigin.MayLack,
        f"{_OUTSIDE}; without it there is one namespace, and a replica is named by its instance",
    ),
    Label(
        r"up|scrape_.*|ALERTS.*",
        r".*",
        LabelOrigin.MayLack,
        "it depends on how targets are labelled",
    ),
    Label(
        r"ray_.*",
        r"ray_io_.*|RayNodeType",
        LabelOrigin.MayLack,
        "KubeRay, or whoever scrapes it, adds it",
    ),
    Label(r".*", r".*", LabelOrigin.Exporter, "its own"),
)


def whose(name: str) -> Whose:
    """Whose a metric is. Raises LookupError for one that no row names."""
    for row in SOURCES:
        if re.fullmatch(row.pattern, name):
            return row
    raise LookupError(
        f"nobody says whose `{name}` is; add a row to SOURCES of tools/contract_tables.py"
    )


def when(name: str) -> When:
    """When a metric exists."""
    return next(row for row in EXISTENCE if re.fullmatch(row.pattern, name))


def origin(name: str, label: str) -> LabelOrigin:
    """Where a label of a metric comes from."""
    fits = (
        row for row in LABELS if re.fullmatch(row.pattern, name) and re.fullmatch(row.label, label)
    )
    return next(fits).origin
