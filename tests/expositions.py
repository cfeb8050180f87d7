"""Pages and answers that tests hand to `halftone doctor`, made of the contract itself or by hand.

Called by unit tests of the doctor. A page has every metric of some sources with all its labels, and
a test takes away or renames what it likes; `Answers` is a Prometheus that has what a table says.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qs

from halftone.doctor.prometheus import AGE, FIELD, LACKS, SERIES
from halftone.telemetry.contract import LabelOrigin, Need, Source, load_contract

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
    """What Prometheus has of one name: `age_s` of the newest sample, series, and those that lack
    a label."""

    age_s: float = 5.0
    series: int = 2
    lacking: Mapping[str, int] = field(default_factory=dict)


def scraped(*sources: Source) -> dict[str, Metric]:
    """Every need of these sources, as it should be."""
    return {need.name: Metric() for need in needs_of(*sources)}


class Answers:
    """Prometheus, as far as the doctor asks it; it keeps the queries. `metrics` may be changed.

    What is older than five minutes is found only by who looks back, as in Prometheus.
    """

    def __init__(self, metrics: dict[str, Metric]) -> None:
        self.metrics = metrics
        self.queries: list[str] = []

    def __call__(self, body: bytes) -> tuple[int, bytes]:
        (query,) = parse_qs(body.decode())["query"]
        self.queries.append(query)
        found = re.search(r"timestamp\(([\w:]+)", query)
        assert found is not None, query
        metric = self.metrics.get(found[1])
        values: dict[str, float] = {}
        if metric is not None and "max_over_time" in query:
            values = {AGE: metric.age_s}
        elif metric is not None and metric.age_s < 300:
            lacking = {LACKS + label: count for label, count in metric.lacking.items()}
            values = {AGE: metric.age_s, SERIES: metric.series, **lacking}
        result = [
            {"metric": {FIELD: name}, "value": [0, str(value)]} for name, value in values.items()
        ]
        data = {"resultType": "vector", "result": result}
        return 200, json.dumps({"status": "success", "data": data}).encode()
