"""Asks Prometheus and makes a `Reading` of its answer.

    reader = PrometheusReader("http://prometheus:9090", model="qwen")
    reading = reader.read(ReplicaCounts(ready=2, names=frozenset({"a", "b"})))

Called by Ray's policy class (in a thread of its own) and by the external controller; standard
library only. `read` takes up to three timeouts and never raises: whatever goes wrong is a sentence
in `missing`, and the law holds the count.
"""

import time
from collections.abc import Callable, Mapping

from halftone.scaling.capacity_fields import Stated
from halftone.scaling.inputs import capacity_gauges, queries
from halftone.scaling.inputs.asking import Access, Asking
from halftone.scaling.inputs.assembling import Asked, Remembered, assemble, empty
from halftone.scaling.inputs.counts import ReplicaCounts
from halftone.scaling.inputs.names import FAMILIES, MODEL_LABEL, Family
from halftone.scaling.inputs.parsing import Sample, UnusableAnswer
from halftone.scaling.reading import Reading


class PrometheusReader:
    """Reads one model's replicas. It remembers their last counters, and is used by one thread.

    `selector` are labels that all series must have, such as `{"namespace": "models"}`; without it
    two endpoints that serve models of one name are read as one. `families` are those that may be
    read, the best one first. Raises ValueError for a URL that is none.
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        selector: Mapping[str, str] | None = None,
        access: Access | None = None,
        stale_s: float = 60.0,
        families: tuple[Family, ...] = FAMILIES,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._asking = Asking(url, access or Access())
        self._url = self._asking.url
        self._model = model
        self._selector = dict(selector or {})
        self._stale_s = stale_s
        self._families = families
        self._clock = clock
        self._family: Family | None = None
        self._remembered = Remembered()

    @property
    def family(self) -> str | None:
        """The title of the family that is read; None before any was found."""
        return None if self._family is None else self._family.title

    def read(self, counts: ReplicaCounts) -> Reading:
        """The reading of now. Never raises for what Prometheus or the network does."""
        at = self._clock()
        try:
            samples = self._samples()
        except UnusableAnswer as error:
            asked = Asked(self._families[0], counts, at, self._stale_s)
            return empty(asked, f"Prometheus at {self._url} {error}")
        assert self._family is not None
        asked = Asked(self._family, counts, at, self._stale_s)
        reading, self._remembered = assemble(samples, asked, self._remembered)
        return reading

    def stated(self) -> Stated | None:
        """What replicas say that one of them can do; None where none says it.

        Raises UnusableAnswer, with a whole sentence but for its end, for what Prometheus or the
        network does.
        """
        try:
            samples = self._asking.ask(queries.capacity(self._model, self._selector))
        except UnusableAnswer as error:
            raise UnusableAnswer(f"Prometheus at {self._url} {error}") from None
        return capacity_gauges.capacity(samples)

    def _samples(self) -> tuple[Sample, ...]:
        """The answer of the family that is there; looked for anew when it has none of the model."""
        samples: tuple[Sample, ...] = ()
        if self._family is not None:
            samples = self._asking.ask(queries.read(self._family, self._model, self._selector))
            if any(map(_is_series, samples)):
                return samples
        found, known = self._probe()
        if found is None and self._family is None:
            raise UnusableAnswer(known)
        if found in (None, self._family):
            return samples
        self._family = found
        return self._asking.ask(queries.read(found, self._model, self._selector))

    def _probe(self) -> tuple[Family | None, str]:
        """The first family that has this model's series; and what there is, if none has."""
        found: dict[str, set[str]] = {}
        for sample in self._asking.ask(queries.probe(self._selector)):
            model = sample.labels.get(MODEL_LABEL, "")
            found.setdefault(model, set()).add(sample.labels.get("__name__", ""))
        ours = found.pop(self._model, set())
        there = (family for family in self._families if ours & set(family.series.values()))
        others = f"; it knows {', '.join(sorted(map(repr, found)))}" if found else ""
        wanted = ", ".join(f"`{family.series['running']}`" for family in self._families)
        told = f"has no series of {wanted} with {MODEL_LABEL}={self._model!r}{others}"
        return next(there, None), told


def _is_series(sample: Sample) -> bool:
    return sample.labels.get(queries.FIELD) not in (queries.NODE, queries.TARGET, queries.NOW)
