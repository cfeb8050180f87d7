"""What rules, dashboards and the scaler need of Prometheus: the contract of `contract.json`.

    for need in load_contract(): need.name, need.labels, need.needed_by
    for group in load_groups(): group.name, group.rules

Called by `halftone.doctor`, which holds a Prometheus to it. `tools/contract.py` writes the file out
of every expression that there is, and has the tables of reasons. Standard library only.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from importlib.resources import files
from typing import Any, Final

CONTRACT_FILE: Final = "contract.json"


class Exists(StrEnum):
    """When an exporter has a series that it is able to have."""

    # As long as the exporter runs.
    Always = "Always"
    # Again and again, and not in between; one scrape may miss it.
    Intermittent = "Intermittent"
    # While, or after, the exporter had something to do; then with all others of the same reason.
    UnderLoad = "UnderLoad"
    # Maybe never.
    Optional = "Optional"


class LabelOrigin(StrEnum):
    """Who gives a label."""

    # The exporter; without it the query is wrong.
    Exporter = "Exporter"
    # Whoever scrapes; the page of an exporter does not have it.
    Scrape = "Scrape"
    # It may be absent, and the query is right all the same.
    MayLack = "MayLack"


class Source(StrEnum):
    """Who exports a metric, as a sentence names it."""

    VllmServer = "vLLM's own server"
    VllmRay = "vLLM through Ray"
    Ray = "Ray"
    EndpointServer = "an endpoint's own server"
    EndpointRay = "an endpoint through Ray"
    Autoscale = "`halftone autoscale`"
    AutoscaleRay = "Ray's autoscaling"
    Operator = "the operator"
    Doctor = "`halftone doctor`"
    KubeState = "kube-state-metrics"
    Kubelet = "the kubelet"
    Dcgm = "DCGM"
    Prometheus = "Prometheus"
    # Groups of them, not metrics.
    Rules = "Prometheus's rules"


# One of each is enough; whichever is there has to be whole.
ALTERNATIVES: Final = (
    frozenset({Source.VllmServer, Source.VllmRay}),
    frozenset({Source.EndpointServer, Source.EndpointRay}),
    frozenset({Source.Autoscale, Source.AutoscaleRay}),
)
# Of an endpoint: its model and its user's selector say which series are meant.
OF_ENDPOINTS: Final = frozenset(
    {
        Source.VllmServer,
        Source.VllmRay,
        Source.Ray,
        Source.EndpointServer,
        Source.EndpointRay,
        Source.Autoscale,
        Source.AutoscaleRay,
    }
)
# There is nothing to see without these; all others are there where somebody runs them.
NECESSARY: Final = frozenset({Source.VllmServer, Source.VllmRay})
# What vLLM exports through Ray cannot be read without what Ray says of nodes and replicas.
BRINGS: Final = {Source.VllmRay: Source.Ray}


@dataclass(frozen=True, slots=True)
class Need:
    """One metric: `because` says why it is not always there, and `needed_by` who is blind then.

    One that exists under load alone has to be there once `after` is, the name of another one.
    """

    name: str
    family: str
    source: Source
    exists: Exists
    because: str
    labels: Mapping[str, LabelOrigin]
    needed_by: tuple[str, ...]
    after: str | None = None

    def needed_labels(self, *, is_scraped: bool) -> tuple[str, ...]:
        """Labels that its series must have, in Prometheus or on an exporter's page."""
        origins = {LabelOrigin.Exporter} | ({LabelOrigin.Scrape} if is_scraped else set())
        return tuple(label for label, origin in self.labels.items() if origin in origins)

    @property
    def model_label(self) -> str | None:
        """The label that names the model of an endpoint, where it has one."""
        named = (label for label in ("model_name", "model") if label in self.labels)
        return next(named, None) if self.source in OF_ENDPOINTS else None


@dataclass(frozen=True, slots=True)
class Group:
    """A group of our rules; `sources` are those of which they read something.

    Its family is `rules`, which record, or `alerts`.
    """

    name: str
    family: str
    sources: frozenset[Source]
    rules: tuple[str, ...]


@cache
def load_contract() -> tuple[Need, ...]:
    """Every need, by name."""
    return needs(_told())


@cache
def load_groups() -> tuple[Group, ...]:
    """Every group of rules, by file."""
    return tuple(
        Group(
            name=each["name"],
            family=each["family"],
            sources=frozenset(Source[source] for source in each["sources"]),
            rules=tuple(each["rules"]),
        )
        for each in _told()["groups"]
    )


def _told() -> dict[str, Any]:
    text = (files("halftone.telemetry") / CONTRACT_FILE).read_text(encoding="utf-8")
    told: dict[str, Any] = json.loads(text)
    return told


def needs(told: Mapping[str, Any]) -> tuple[Need, ...]:
    """The needs of the file's content."""
    return tuple(
        Need(
            name=each["name"],
            family=each["family"],
            source=Source[each["source"]],
            exists=Exists(each["exists"]),
            because=each["because"],
            labels={label: LabelOrigin(origin) for label, origin in each["labels"].items()},
            needed_by=tuple(each["neededBy"]),
            after=each.get("after"),
        )
        for each in told["metrics"]
    )
