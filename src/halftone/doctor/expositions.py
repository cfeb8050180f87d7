"""What is on pages of exporters: `/metrics`, as somebody saved it.

    seen_on([Path("metrics.txt").read_text()], load_contract())

Called by `halftone doctor --exposition`. Names are those that Prometheus would store, which are
those of the samples: prometheus_client's parser renames counters by their `# TYPE`, so lines of
that kind are left out before it reads.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as openmetrics_families,
)
from prometheus_client.parser import text_string_to_metric_families as text_families
from prometheus_client.samples import Sample

from halftone.doctor.judging import Seen, of_model
from halftone.telemetry.contract import Need

# The last line of OpenMetrics, whose samples may have exemplars that the older parser refuses.
_OPENMETRICS: Final = re.compile(r"^# EOF\s*\Z", re.MULTILINE)
_COMMENT: Final = re.compile(r"^\s*#.*\n?", re.MULTILINE)
# What prometheus_client's parsers raise, which say it in words about themselves.
_UNREADABLE: Final = (ValueError, IndexError, KeyError)


class UnreadableExposition(ValueError):
    """A page that is not in Prometheus's text format, nor in OpenMetrics; the end of a sentence."""


class _Found(NamedTuple):
    """How many series, how many of them have each label, and their models."""

    series: Counter[str]
    labels: Counter[tuple[str, str]]
    models: dict[str, set[str]]


def seen_on(
    pages: Iterable[str], needs: Iterable[Need], model: str | None = None
) -> dict[str, Seen]:
    """What is seen of each need, by name; series of other models than `model` do not count.

    Raises UnreadableExposition.
    """
    every = {need.name: need for need in needs}
    found = _Found(Counter(), Counter(), defaultdict(set))
    for page in pages:
        for sample in _samples(page):
            need = every.get(sample.name)
            if need is None or not _is_of(sample, need, model):
                continue
            found.series[sample.name] += 1
            if need.model_label and (name := of_model(sample.labels, need.model_label)):
                found.models[need.name].add(name)
            found.labels.update(
                (sample.name, label) for label, value in sample.labels.items() if value
            )
    return {name: _seen(every[name], count, found) for name, count in found.series.items()}


def _seen(need: Need, count: int, found: _Found) -> Seen:
    lacking = {label: count - found.labels[need.name, label] for label in need.labels}
    models = frozenset(found.models[need.name])
    return Seen(count, {label: number for label, number in lacking.items() if number}, None, models)


def _is_of(sample: Sample, need: Need, model: str | None) -> bool:
    """A series without the label is of any model: its absence is to be found."""
    if model is None or need.model_label is None:
        return True
    return sample.labels.get(need.model_label, model) == model


def _samples(page: str) -> Iterator[Sample]:
    is_open = _OPENMETRICS.search(page) is not None
    parse = openmetrics_families if is_open else _families
    try:
        families = list(parse(page))
    except _UNREADABLE as error:
        what = "OpenMetrics, though it ends as such" if is_open else "metrics"
        where = "" if is_open else f": line {_first_wrong(page)} is no sample"
        raise UnreadableExposition(f"is no page of {what}{where}") from error
    for family in families:
        yield from family.samples


def _families(text: str) -> Iterable[Metric]:
    return text_families(_COMMENT.sub("", text))


def _first_wrong(page: str) -> int:
    """The number of the first line that cannot be read; the format has no samples of two lines."""
    for number, line in enumerate(page.split("\n"), 1):
        try:
            list(_families(line))
        except _UNREADABLE:
            return number
    return page.count("\n") + 1
