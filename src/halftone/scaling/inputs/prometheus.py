"""Asks Prometheus and makes a `Reading` of its answer.

    reader = PrometheusReader("http://prometheus:9090", model="qwen")
    reading = reader.read(ReplicaCounts(ready=2, names=frozenset({"a", "b"})))

Called by Ray's policy class (in a thread of its own) and by the external controller; standard
library only. `read` takes up to three timeouts and never raises: whatever goes wrong is a sentence
in `missing`, and the law holds the count.
"""

import json
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path
from typing import Final
from urllib.error import HTTPError
from urllib.parse import urlencode, urlsplit
from urllib.request import (
    HTTPRedirectHandler,
    HTTPSHandler,
    OpenerDirector,
    Request,
    build_opener,
)

from halftone.scaling.capacity_fields import Stated
from halftone.scaling.inputs import capacity_gauges, queries
from halftone.scaling.inputs.assembling import Asked, Remembered, assemble, empty
from halftone.scaling.inputs.counts import ReplicaCounts
from halftone.scaling.inputs.names import FAMILIES, MODEL_LABEL, Family
from halftone.scaling.inputs.parsing import Sample, UnusableAnswer, refusal, vector
from halftone.scaling.reading import Reading

# Several thousand replicas; more is not what was asked for.
_LONGEST_ANSWER: Final = 64 * 2**20
_PIECE: Final = 2**16


@dataclass(frozen=True, slots=True)
class Access:
    """How Prometheus is reached. Files are read at each request, for tokens are renewed."""

    headers: Mapping[str, str] = field(default_factory=dict)
    token_file: Path | None = None
    ca_file: Path | None = None
    timeout_s: float = 5.0


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
        _check(url)
        self._url = url.rstrip("/")
        self._model = model
        self._selector = dict(selector or {})
        self._access = access or Access()
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
            samples = self._ask(queries.capacity(self._model, self._selector))
        except UnusableAnswer as error:
            raise UnusableAnswer(f"Prometheus at {self._url} {error}") from None
        return capacity_gauges.capacity(samples)

    def _samples(self) -> tuple[Sample, ...]:
        """The answer of the family that is there; looked for anew when it has none of the model."""
        samples: tuple[Sample, ...] = ()
        if self._family is not None:
            samples = self._ask(queries.read(self._family, self._model, self._selector))
            if any(map(_is_series, samples)):
                return samples
        found, known = self._probe()
        if found is None and self._family is None:
            raise UnusableAnswer(known)
        if found in (None, self._family):
            return samples
        self._family = found
        return self._ask(queries.read(found, self._model, self._selector))

    def _probe(self) -> tuple[Family | None, str]:
        """The first family that has this model's series; and what there is, if none has."""
        found: dict[str, set[str]] = {}
        for sample in self._ask(queries.probe(self._selector)):
            model = sample.labels.get(MODEL_LABEL, "")
            found.setdefault(model, set()).add(sample.labels.get("__name__", ""))
        ours = found.pop(self._model, set())
        there = (family for family in self._families if ours & set(family.series.values()))
        others = f"; it knows {', '.join(sorted(map(repr, found)))}" if found else ""
        wanted = ", ".join(f"`{family.series['running']}`" for family in self._families)
        told = f"has no series of {wanted} with {MODEL_LABEL}={self._model!r}{others}"
        return next(there, None), told

    def _ask(self, query: str) -> tuple[Sample, ...]:
        """The answer to one instant query. Raises UnusableAnswer."""
        request, opener = self._prepared(query)
        try:
            return vector(self._body(request, opener))
        except HTTPError as error:
            with closing(error):
                raise UnusableAnswer(_refused(error)) from None
        except (OSError, HTTPException, ValueError) as error:
            if isinstance(error, UnusableAnswer):
                raise
            reason = getattr(error, "reason", None) or error
            raise UnusableAnswer(f"does not answer: {reason}") from None

    def _prepared(self, query: str) -> tuple[Request, OpenerDirector]:
        """The request with what its sender shows. Raises UnusableAnswer for a missing file."""
        access = self._access
        headers = {**access.headers, "Accept": "application/json"}
        try:
            if access.token_file is not None:
                token = access.token_file.read_text(encoding="utf-8").strip()
                headers["Authorization"] = f"Bearer {token}"
            opener = build_opener(_NoRedirect, *_https(self._url, access.ca_file))
        except (OSError, ValueError) as error:
            raise UnusableAnswer(f"is not asked, for a file cannot be read: {error}") from None
        for name, value in headers.items():
            if not value.isprintable():  # the client would repeat it in its error
                raise UnusableAnswer(f"is not asked, for the header {name} is not one line of text")
        form = urlencode({"query": query, "timeout": f"{access.timeout_s:g}s"}).encode()
        return Request(f"{self._url}/api/v1/query", form, headers), opener  # noqa: S310 (checked)

    def _body(self, request: Request, opener: OpenerDirector) -> bytes:
        """All of the answer, if it comes in time; a socket's own limit is for each piece."""
        limit = self._access.timeout_s
        until = time.monotonic() + limit
        body = bytearray()
        with opener.open(request, timeout=limit) as answer:
            while piece := answer.read1(_PIECE):
                body += piece
                if time.monotonic() > until:
                    raise UnusableAnswer(f"does not answer within {limit:g} s")
                if len(body) > _LONGEST_ANSWER:
                    raise UnusableAnswer("answers with more than was asked for; set a selector")
        return bytes(body)


def _is_series(sample: Sample) -> bool:
    return sample.labels.get(queries.FIELD) not in (queries.NODE, queries.TARGET, queries.NOW)


def _check(url: str) -> None:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"'{url}' is no URL of Prometheus; it begins with http:// or https://")
    if parts.username is not None or parts.password is not None:
        raise ValueError("a URL of Prometheus must not hold a password; use a header or a file")


class _NoRedirect(HTTPRedirectHandler):
    """A redirect would take the token elsewhere; it is told as the status that it is."""

    def redirect_request(self, *_: object) -> None:
        return None


def _https(url: str, ca_file: Path | None) -> Iterator[HTTPSHandler]:
    if url.lower().startswith("https:"):
        named = None if ca_file is None else str(ca_file)
        yield HTTPSHandler(context=ssl.create_default_context(cafile=named))


def _refused(error: HTTPError) -> str:
    """What a status other than 200 means, in Prometheus's words if it has any."""
    try:
        told = refusal(json.loads(error.read(_LONGEST_ANSWER)))
    except (OSError, HTTPException, ValueError):
        told = refusal(None)
    return f"answers with status {error.code}: {told}"
