"""What Prometheus has of each need: how many series, of which models, labels that they lack, and
the newest one's age.

    seen_in(Asking("http://prometheus:9090", Access()), load_contract(), Chosen({"namespace": "m"}))

Called by `halftone doctor --prometheus`. One small query for each need, and a second one, an hour
back, for what is not there now.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from halftone.doctor.judging import Seen, of_model
from halftone.scaling.inputs.asking import Asking
from halftone.scaling.inputs.parsing import Sample
from halftone.scaling.inputs.queries import braces
from halftone.telemetry.contract import OF_ENDPOINTS, Need

FIELD: Final = "halftone_field"
AGE: Final = "age"
SERIES: Final = "series"
LACKS: Final = "lacks:"  # before a label
MODEL: Final = "model"  # of one model
# Who looks for something that has gone wants to know since when, if it went lately. What comes and
# goes may be there for a single scrape, between the steps of a long look.
_LATELY: Final = "5m:1s"
_PAST: Final = "1h:15s"


@dataclass(frozen=True)
class Chosen:
    """Which series of endpoints are meant; those of all others are never chosen among."""

    selector: Mapping[str, str] = field(default_factory=dict)
    model: str | None = None

    def labels(self, need: Need) -> dict[str, str]:
        """What a series of this need must have."""
        if need.source not in OF_ENDPOINTS:
            return {}
        own = need.model_label
        named = {own: self.model} if own is not None and self.model is not None else {}
        return {**self.selector, **named}


def seen_in(asking: Asking, needs: Iterable[Need], chosen: Chosen) -> dict[str, Seen]:
    """What is seen of each need, by name. Raises UnusableAnswer."""
    found = {}
    for need in needs:
        if (seen := _seen(asking, need, chosen.labels(need))) is not None:
            found[need.name] = seen
    return found


def _seen(asking: Asking, need: Need, labels: Mapping[str, str]) -> Seen | None:
    samples = asking.ask(" or ".join(_now(need, labels)))
    now = _values(samples)
    if SERIES not in now:
        before = _values(asking.ask(past(need, labels)))
        return Seen(0, {}, before[AGE]) if AGE in before else None
    lacking = {
        each.removeprefix(LACKS): int(count)
        for each, count in now.items()
        if each.startswith(LACKS) and count
    }
    return Seen(int(now[SERIES]), lacking, now.get(AGE), _models(need, samples))


def _values(samples: Iterable[Sample]) -> dict[str, float]:
    return {sample.labels.get(FIELD, ""): sample.value for sample in samples}


def _models(need: Need, samples: Iterable[Sample]) -> frozenset[str]:
    label = need.model_label or ""
    named = (of_model(each.labels, label) for each in samples if each.labels.get(FIELD) == MODEL)
    return frozenset(name for name in named if name)


def _now(need: Need, labels: Mapping[str, str]) -> Iterator[str]:
    """Newest sample, series, those of each model, and for each label those that lack it."""
    series = need.name + braces(labels)
    if need.model_label is not None:
        yield _marked(f"count by ({need.model_label}, namespace) ({series})", MODEL)
    yield _marked(f"time() - max(timestamp({series}))", AGE)
    yield _marked(f"count({series})", SERIES)
    for label in need.needed_labels(is_scraped=True):
        if label not in labels:  # what is chosen by has it
            yield _marked(f"count({need.name}{braces({**labels, label: ''})})", LACKS + label)


def past(need: Need, labels: Mapping[str, str]) -> str:
    """The age of the newest sample, of an hour."""
    at = f"timestamp({need.name}{braces(labels)})"
    newest = f"max_over_time({at}[{_LATELY}]) or max_over_time({at}[{_PAST}])"
    return _marked(f"time() - max({newest})", AGE)


def _marked(value: str, name: str) -> str:
    return f'label_replace({value}, "{FIELD}", "{name}", "", "")'
