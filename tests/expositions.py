"""Pages and answers that tests hand to `halftone doctor`, made of the contract itself or by hand.

Called by unit tests of the doctor. A page has every metric of some sources with all its labels, and
a test takes away or renames what it likes; `Answers` is a Prometheus that has what a table says.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import chain, repeat
from urllib.parse import parse_qs

from halftone.doctor.prometheus import AGE, FIELD, LACKS, MODEL, SERIES
from halftone.telemetry.contract import LabelOrigin, Need, Source, load_contract, load_groups

_VALUES = {"le": "+Inf", "model_name": "qwen", "model": "qwen"}


def needs_of(*sources: Source) -> tuple[Need, ...]:
    """The needs of these sources."""
    return tuple(need for need in load_contract() if need.source in sources)


def line(need: Need, *, without: str = "") -> str:
    """One series as its exporter writes it: without what a scrape adds."""
    labels = ",".join(
        f'{label}="{_VALUES.get(label, "x")}"'
        for label, origin in need.labels.items()
        if origin is LabelOrigin.Exporter and label != without
    )
    return f"{need.name}{{{labels}}} 1\n"


def page_of(*sources: Source, without: Iterable[str] = ()) -> str:
    """A page with a series of every need of these sources, but for names in `without`."""
    left_out = set(without)
    return "".join(line(need) for need in needs_of(*sources) if need.name not in left_out)


@dataclass
class Metric:
    """What Prometheus has of one name: `age_s` of the newest sample, series, those that lack a
    label, and of which models they are."""

    age_s: float = 5.0
    series: int = 2
    lacking: Mapping[str, int] = field(default_factory=dict)
    models: tuple[str, ...] = ("qwen",)


def scraped(*sources: Source) -> dict[str, Metric]:
    """Every need of these sources, as it should be."""
    return {need.name: Metric() for need in needs_of(*sources)}


def healthy() -> dict[str, dict[str, dict[str, str]]]:
    """By group and name every rule of ours, as Prometheus tells of it."""
    return {
        group.name: {name: {"name": name, "health": "ok"} for name in group.rules}
        for group in load_groups()
    }


class Answers:
    """Prometheus, as far as the doctor asks it; it keeps the queries. `metrics`, `groups` of rules
    and models that are `recorded` may be changed.

    What is older than five minutes is found only by who looks back, as in Prometheus.
    """

    def __init__(self, metrics: dict[str, Metric]) -> None:
        self.metrics = metrics
        self.queries: list[str] = []
        self.groups = healthy()
        self.recorded: tuple[str, ...] = ("qwen",)

    def __call__(self, body: bytes) -> tuple[int, bytes]:
        if not body:  # all that is asked without one
            told = [{"name": n, "rules": [*each.values()]} for n, each in self.groups.items()]
            return 200, json.dumps({"status": "success", "data": {"groups": told}}).encode()
        (query,) = parse_qs(body.decode())["query"]
        self.queries.append(query)
        if "halftone:replica_requests_running" in query:
            return _vector({"model_name": model} for model in self.recorded)
        found = re.search(r"timestamp\(([\w:]+)", query)
        assert found is not None, query
        metric = self.metrics.get(found[1])
        values: dict[str, float] = {}
        if metric is not None and "max_over_time" in query:
            values = {AGE: metric.age_s}
        elif metric is not None and metric.age_s < 300:
            lacking = {LACKS + label: count for label, count in metric.lacking.items()}
            values = {AGE: metric.age_s, SERIES: metric.series, **lacking}
        by = re.search(r"count by \((\w+), namespace\)", query)
        named = () if metric is None or by is None or SERIES not in values else metric.models
        models = ({FIELD: MODEL, by[1] if by else "": model} for model in named)
        return _vector((*({FIELD: name} for name in values), *models), values.values())


def _vector(labels: Iterable[Mapping[str, str]], values: Iterable[float] = ()) -> tuple[int, bytes]:
    """An answer with these series; 1 where there is no value."""
    paired = zip(labels, chain(values, repeat(1)), strict=False)
    result = [{"metric": dict(each), "value": [0, str(value)]} for each, value in paired]
    data = {"resultType": "vector", "result": result}
    return 200, json.dumps({"status": "success", "data": data}).encode()
