"""One question to Prometheus, and its answer as samples: the only place that knows its HTTP.

    Asking("http://prometheus:9090", Access(timeout_s=2)).ask("up == 0")

Called by `prometheus` for the law, and by `halftone.doctor`. Standard library only.
"""

import json
import ssl
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path
from typing import Any, Final
from urllib.error import HTTPError
from urllib.parse import urlencode, urlsplit
from urllib.request import (
    HTTPRedirectHandler,
    HTTPSHandler,
    OpenerDirector,
    Request,
    build_opener,
)

from halftone.scaling.inputs.parsing import Sample, UnusableAnswer, refusal, vector, whole

# Several thousand replicas; more is not what was asked for.
_LONGEST_ANSWER: Final = 64 * 2**20
_PIECE: Final = 2**16
_NOT_LET_IN: Final = (401, 403)


@dataclass(frozen=True, slots=True)
class Access:
    """How Prometheus is reached. Files are read at each request, for tokens are renewed."""

    headers: Mapping[str, str] = field(default_factory=dict)
    token_file: Path | None = None
    ca_file: Path | None = None
    timeout_s: float = 5.0


class NotLetIn(UnusableAnswer):
    """Whoever is asked wants a token, or another one."""


class Asking:
    """Questions to one Prometheus. Raises ValueError for a URL that is none."""

    def __init__(self, url: str, access: Access) -> None:
        _check(url)
        self.url = url.rstrip("/")
        self.access = access

    def ask(self, query: str) -> tuple[Sample, ...]:
        """The answer to one instant query. Raises UnusableAnswer, NotLetIn among them."""
        form = {"query": query, "timeout": f"{self.access.timeout_s:g}s"}
        return vector(self._answered("query", urlencode(form).encode()))

    def read(self, path: str) -> Any:
        """What lies at a path below `/api/v1`. Raises UnusableAnswer, NotLetIn among them."""
        return whole(self._answered(path))

    def _answered(self, path: str, form: bytes | None = None) -> bytes:
        request, opener = self._prepared(path, form)
        try:
            return self._body(request, opener)
        except HTTPError as error:
            with closing(error):
                kind = NotLetIn if error.code in _NOT_LET_IN else UnusableAnswer
                raise kind(_refused(error)) from None
        except (OSError, HTTPException, ValueError) as error:
            if isinstance(error, UnusableAnswer):
                raise
            reason = getattr(error, "reason", None) or error
            raise UnusableAnswer(f"does not answer: {reason}") from None

    def _prepared(self, path: str, form: bytes | None) -> tuple[Request, OpenerDirector]:
        """The request with what its sender shows. Raises UnusableAnswer for a missing file."""
        access = self.access
        headers = {**access.headers, "Accept": "application/json"}
        try:
            if access.token_file is not None:
                token = access.token_file.read_text(encoding="utf-8").strip()
                headers["Authorization"] = f"Bearer {token}"
            opener = build_opener(_NoRedirect, *_https(self.url, access.ca_file))
        except (OSError, ValueError) as error:
            raise UnusableAnswer(f"is not asked, for a file cannot be read: {error}") from None
        for name, value in headers.items():
            if not value.isprintable():  # the client would repeat it in its error
                raise UnusableAnswer(f"is not asked, for the header {name} is not one line of text")
        return Request(f"{self.url}/api/v1/{path}", form, headers), opener  # noqa: S310 (checked)

    def _body(self, request: Request, opener: OpenerDirector) -> bytes:
        """All of the answer, if it comes in time; a socket's own limit is for each piece."""
        limit = self.access.timeout_s
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
    except (OSError, HTTPException, ValueError, RecursionError):
        told = refusal(None)
    return f"answers with status {error.code}: {told}"
