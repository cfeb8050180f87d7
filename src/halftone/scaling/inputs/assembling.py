"""Replicas' series and the orchestrator's counts become a `Reading`, or the words why they do not.

Called by `prometheus`; pure, so that recorded answers replay through it. It never guesses: what is
zero is known to be zero, and everything else that is not there is `missing`.

An idle replica of Ray has no gauges. It counts as idle when the orchestrator calls it ready and
Prometheus still reaches it: its counters are there, or what it was scraped from answers.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from halftone.scaling.inputs.counts import ReplicaCounts
from halftone.scaling.inputs.estimating import estimated
from halftone.scaling.inputs.gathering import (
    Gathered,
    Series,
    Target,
    absent,
    gather,
    impossible,
)
from halftone.scaling.inputs.names import Family
from halftone.scaling.inputs.parsing import Sample
from halftone.scaling.reading import (
    COUNTERS,
    GAUGES,
    ITL_BOUNDS,
    TTFT_BOUNDS,
    Reading,
    ReplicaReading,
)

# Prometheus's own servers may differ by that much; no physics.
_FUTURE_S = 5.0


@dataclass(frozen=True, slots=True)
class Known:
    """A replica as it was last read, and where; no target of one that never had series."""

    reading: ReplicaReading
    target: Target
    lazy: bool


@dataclass(frozen=True)
class Remembered:
    """What one reading leaves for the next; a caller only hands it back.

    `unseen` says since when (Prometheus's clock) a ready replica has had no series at all.
    """

    replicas: Mapping[str, Known] = field(default_factory=lambda: MappingProxyType({}))
    unseen: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True, slots=True)
class Asked:
    """One reading's circumstances: the reader's clock, and the age at which a value is stale."""

    family: Family
    counts: ReplicaCounts
    at: float
    stale_s: float


def assemble(
    samples: tuple[Sample, ...], asked: Asked, before: Remembered
) -> tuple[Reading, Remembered]:
    """The reading that an answer to `queries.read` makes, and what to remember of it.

    Times of the answer are Prometheus's; in the reading they are the reader's, with the same ages,
    so that a clock that is wrong on either side makes nothing old or new.
    """
    found = gather(samples, asked.family)
    if found.now is None:
        return empty(asked, "Prometheus did not say what time it is"), before
    return _Assembly(found, asked, before, found.now).finish()


def empty(asked: Asked, *missing: str) -> Reading:
    """A reading of nothing, with the reason."""
    counts = asked.counts
    return Reading(
        time_s=asked.at,
        ready=counts.ready,
        starting=counts.starting,
        draining=counts.draining,
        replicas=(),
        held=counts.held,
        missing=missing,
    )


class _Assembly:
    """One reading while it is put together; times are Prometheus's until `finish`."""

    def __init__(self, found: Gathered, asked: Asked, before: Remembered, now: float) -> None:
        self._found = found
        self._family = asked.family
        self._asked = asked
        self._before = before
        self._now = now
        self._replicas: dict[str, Known] = {}
        self._unseen: dict[str, float] = {}
        self._missing: list[str] = []

    def finish(self) -> tuple[Reading, Remembered]:
        """Read what is there, account for what is not, and judge ages."""
        for name in self._found.nameless:
            labels = " or ".join(f"`{label}`" for label in self._family.replica_labels)
            self._missing.append(f"`{name}` has no label {labels} that names a replica")
        for series in self._ready():
            self._read(series)
        self._account()
        self._missing.extend(self._old())
        shift = self._asked.at - self._now
        readings = (known.reading for _, known in sorted(self._replicas.items()))
        reading = replace(
            empty(self._asked, *dict.fromkeys(self._missing)),
            replicas=tuple(replace(each, time_s=each.time_s + shift) for each in readings),
        )
        return reading, Remembered(self._kept(), MappingProxyType(self._unseen))

    def _ready(self) -> list[Series]:
        """The series of replicas that take requests. Ray keeps counters of those that are gone."""
        counts, all_ = self._asked.counts, self._found.replicas
        if counts.names is not None:
            return [series for name, series in all_.items() if name in counts.names]
        busy = [series for series in all_.values() if series.is_busy]
        quiet = [series for series in all_.values() if not series.is_busy]
        known = self._before.replicas
        quiet.sort(key=lambda each: (not each.is_live, each.name not in known, each.name))
        return busy + quiet[: max(0, counts.ready - len(busy))]

    def _read(self, series: Series) -> None:
        wrong = [*impossible(series, self._family), *absent(series, self._family)]
        at = series.sampled_at()
        if at is None and not wrong:
            wrong = [f"nobody says when replica {series.name} was scraped"]
        self._missing.extend(wrong)
        if at is None or wrong:
            self._unseen[series.name] = self._now  # seen, and of no use
            return
        values = dict.fromkeys((*GAUGES, *COUNTERS), 0.0) | series.values()
        reading = ReplicaReading(
            name=series.name,
            time_s=at,
            ttft=series.buckets("ttft"),
            itl=series.buckets("itl"),
            **values,
        )
        if series.lazy:
            known = self._before.replicas.get(series.name)
            reading = estimated(reading, None if known is None else known.reading)
        self._replicas[series.name] = Known(reading, series.target, series.lazy)

    def _account(self) -> None:
        """Ready replicas without series: idle, or missing."""
        counts = self._asked.counts
        told = self._replicas.keys() | self._unseen.keys()
        if counts.names is not None:
            self._check_names(counts.names)
            for name in sorted(counts.names - told):
                self._without_series(name)
            return
        gone = [
            name
            for name in sorted(self._before.replicas)
            if name not in told and name not in self._found.replicas
        ]
        # One that was let go looks like one that is missing; prefer what can be idle.
        gone.sort(key=lambda name: bool(self._doubt_of_known(self._before.replicas[name])))
        short = counts.ready - len(told)
        for name in gone[: max(0, short)]:
            self._without_series(name)
        for number in range(short - len(gone)):
            self._without_series(f"(unnamed {number + 1})")

    def _check_names(self, names: frozenset[str]) -> None:
        others = self._found.replicas.keys() - names
        if names and others and not names & self._found.replicas.keys():
            self._missing.append(
                f"Prometheus knows the replicas {_listed(others)}, and ready are {_listed(names)};"
                " are labels renamed?"
            )

    def _without_series(self, name: str) -> None:
        known = self._before.replicas.get(name)
        self._unseen[name] = since = self._before.unseen.get(name, self._now)
        doubt = self._doubt_of_new(since) if known is None else self._doubt_of_known(known)
        if doubt:
            self._missing.append(f"replica {name} is ready and has no series: {doubt}")
            return
        if known is not None:
            reading = replace(
                known.reading, time_s=self._now, running=0.0, waiting=0.0, kv_usage=0.0
            )
            self._replicas[name] = replace(known, reading=reading)
        else:
            self._replicas[name] = Known(_new(name, self._now), (), lazy=True)

    def _doubt_of_known(self, known: Known) -> str:
        """Why one that had series may not be idle; nothing if it is."""
        where = "/".join(filter(None, known.target)) or "its target"
        if not known.lazy:
            return f"{where} exported them, idle or not"
        answers = (self._found.nodes | self._found.targets).get(known.target)
        if answers is None:
            return f"{where} is no longer scraped"
        return "" if answers else f"{where} does not answer Prometheus"

    def _doubt_of_new(self, since: float) -> str:
        """Why one that never had series may not be idle."""
        answers = self._found.nodes | self._found.targets
        down = sorted("/".join(target) for target, is_up in answers.items() if not is_up)
        if down:
            return f"{', '.join(down)} does not answer Prometheus"
        others = [each for each in self._replicas.values() if each.target]
        if not others or not all(each.lazy for each in others):
            return "it was never scraped"
        if not self._found.nodes:
            return "Prometheus reaches no node of Ray"
        waited = self._now - since
        if waited > self._asked.stale_s and all(each.reading.running > 0 for each in others):
            return f"for {waited:.0f} s, while all others work; is its node scraped?"
        return ""

    def _old(self) -> Iterator[str]:
        for name, known in sorted(self._replicas.items()):
            age = self._now - known.reading.time_s
            if age > self._asked.stale_s:
                yield (
                    f"replica {name} was last scraped {age:.0f} s ago, "
                    f"more than {self._asked.stale_s:g} s"
                )
            elif age < -_FUTURE_S:
                yield f"replica {name} was scraped {-age:.0f} s in Prometheus's own future"

    def _kept(self) -> Mapping[str, Known]:
        """Replicas to remember: those of now, and those of before that are ready still."""
        names = self._asked.counts.names
        kept = {
            name: known
            for name, known in self._before.replicas.items()
            if name in self._unseen and (names is None or name in names)
        }
        read = {name: known for name, known in self._replicas.items() if known.target}
        return MappingProxyType(kept | read)


def _new(name: str, now: float) -> ReplicaReading:
    """A replica to which nothing has happened yet."""
    return ReplicaReading(
        name=name,
        time_s=now,
        ttft=(0.0,) * (len(TTFT_BOUNDS) + 1),
        itl=(0.0,) * (len(ITL_BOUNDS) + 1),
        **dict.fromkeys((*GAUGES, *COUNTERS), 0.0),
    )


def _listed(names: frozenset[str] | set[str]) -> str:
    return ", ".join(sorted(names))
