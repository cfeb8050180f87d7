"""From samples to replicas: what belongs together, and what cannot be true.

Called by `assembling`. It knows series and labels, and nothing of how many replicas there should
be. Standard library only.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from halftone.scaling.inputs.names import (
    HISTOGRAMS,
    PART_LABELS,
    TARGET_LABELS,
    Family,
    is_lazy,
)
from halftone.scaling.inputs.parsing import Sample
from halftone.scaling.inputs.queries import FIELD, NODE, NOW, TARGET, TIME
from halftone.scaling.reading import COUNTERS, GAUGES, ITL_BOUNDS, TTFT_BOUNDS

Target = tuple[str, ...]  # values of TARGET_LABELS
Part = tuple[str, ...]  # values of PART_LABELS, and a bucket's bound

_FULL: Final = 1.001  # a share, and rounding
_BOUNDS: Final = {"ttft": TTFT_BOUNDS, "itl": ITL_BOUNDS}


@dataclass
class Series:
    """One replica's series. `parts` has, for each field, the values that make it up."""

    name: str
    target: Target
    lazy: bool
    parts: dict[str, dict[Part, float]] = field(default_factory=lambda: defaultdict(dict))
    twice: set[str] = field(default_factory=set)

    @property
    def is_live(self) -> bool:
        """Whether its gauges were there; an idle replica of Ray has counters only."""
        return any(gauge in self.parts for gauge in GAUGES)

    @property
    def is_busy(self) -> bool:
        """Whether any gauge is other than zero."""
        return any(value != 0 for gauge in GAUGES for value in self.parts.get(gauge, {}).values())

    def values(self) -> dict[str, float]:
        """Each field that is there, over its parts; the cache's use is their mean."""
        found: dict[str, float] = {}
        for name in (*GAUGES, *COUNTERS):
            if name in self.parts:
                values = self.parts[name].values()
                found[name] = math.fsum(values) / (len(values) if name == "kv_usage" else 1)
        return found

    def sampled_at(self) -> float | None:
        """When the oldest of its gauges was scraped, or of its counters without gauges."""
        for fields in (GAUGES, COUNTERS):
            times = [at for each in fields for at in self.parts.get(each + TIME, {}).values()]
            if times:
                return min(times)
        return None

    def buckets(self, histogram: str) -> tuple[float, ...]:
        """Cumulative counts in the order of the bounds of `reading`; empty if they are others."""
        counts: dict[float, float] = defaultdict(float)
        for (*_, bound), count in self.parts.get(histogram, {}).items():
            counts[_bound(bound)] += count
        bounds = (*_BOUNDS[histogram], math.inf)
        return tuple(counts[bound] for bound in bounds) if set(counts) == set(bounds) else ()


def _bound(label: str) -> float:
    try:
        return float(label)
    except ValueError:
        return math.nan  # none of ours


@dataclass(frozen=True)
class Gathered:
    """An answer, sorted. `nodes` and `targets` say of each whether it answers Prometheus."""

    now: float | None
    replicas: dict[str, Series]
    nodes: dict[Target, bool]
    targets: dict[Target, bool]
    nameless: tuple[str, ...]  # fields of series that name no replica


def gather(samples: Iterable[Sample], family: Family) -> Gathered:
    """Sort the answer to `queries.read`."""
    found = Gathered(None, {}, {}, {}, ())
    now: float | None = None
    nameless: set[str] = set()
    for sample in samples:
        kind = sample.labels.get(FIELD, "")
        if kind == NOW:
            now = sample.value
        elif kind in (NODE, TARGET):
            known = found.nodes if kind == NODE else found.targets
            known[_target(sample.labels)] = sample.value == 1
        elif name := next(_names(sample.labels, family), None):
            _add(found.replicas, name, kind, sample, family)
        else:
            nameless.add(family.series.get(kind.removesuffix(TIME), kind))
    return Gathered(now, found.replicas, found.nodes, found.targets, tuple(sorted(nameless)))


def _names(labels: Mapping[str, str], family: Family) -> Iterator[str]:
    return (labels[label] for label in family.replica_labels if labels.get(label))


def _target(labels: Mapping[str, str]) -> Target:
    return tuple(labels.get(label, "") for label in TARGET_LABELS)


def _add(replicas: dict[str, Series], name: str, kind: str, sample: Sample, family: Family) -> None:
    labels = sample.labels
    replica = replicas.get(name)
    if replica is None:
        lazy = is_lazy(family, labels)
        replica = replicas[name] = Series(name, _target(labels), lazy)
    part = tuple(labels.get(label, "") for label in (*PART_LABELS, "le"))
    values = replica.parts[kind]
    if part in values and kind in (*GAUGES, *COUNTERS, *HISTOGRAMS):
        replica.twice.add(family.series[kind])
    values[part] = sample.value


def impossible(series: Series, family: Family) -> Iterator[str]:
    """What is wrong with a replica's values, as sentences; nothing may be computed with them."""
    if series.twice:
        twice = _listed(sorted(series.twice))
        yield f"Prometheus has {twice} of replica {series.name} twice; is it scraped by two jobs?"
    for name, value in series.values().items():
        said = f"`{family.series[name]}` of replica {series.name} is {value:g}"
        if not math.isfinite(value):
            yield f"{said}, which is no number to decide by"
        elif value < 0 or (name == "kv_usage" and value > _FULL):
            yield f"{said}, which cannot be"


def absent(series: Series, family: Family) -> Iterator[str]:
    """Series that a replica of this family always has, and this one has not, as a sentence."""
    wanted: tuple[str, ...] = (*GAUGES, *COUNTERS)
    if series.lazy:
        wanted = GAUGES if series.is_live else ()
    names = [family.series[each] for each in wanted if each not in series.parts]
    if names:
        yield f"replica {series.name} has no series of {_listed(names)}"


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)
