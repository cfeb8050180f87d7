"""One request to a Kubeflow server and its answer, within limits of time and size.

Called by `rest` alone. It turns whatever goes wrong into `kubeflow.errors`, and writes no log:
a token must not reach one.
"""

import asyncio
import json
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any, Final

import httpx

from halftone.kubeflow.errors import NotFound, Refused, Unreachable

_API: Final = "apis/v2beta1"
# A page of runs with their pipelines has a few MB; more is not an answer that we asked for.
_MOST_BYTES: Final = 32 * 2**20
_MOST_TOKEN: Final = 64 * 2**10
_MOST_WORDS: Final = 600
_LAST_PORT: Final = 65535
_LATER: Final = frozenset({408, 425, 429})


@dataclass(frozen=True)
class Answer:
    """JSON that came with a 2xx; `place` is who answered what, for sentences."""

    content: Mapping[str, Any]
    place: str

    def strange(self) -> Unreachable:
        """The error for content of another shape."""
        return _no_api(self.place)


class Connection:
    """Connections to one endpoint, opened at the first request."""

    def __init__(
        self,
        endpoint: str,
        token_file: str | None,
        ca_file: str | None,
        token: str | None,
        seconds: float,
    ) -> None:
        self._endpoint = endpoint.rstrip("/")
        # In sentences, without a name and password that the address may hold.
        self.shown = _without_account(self._endpoint)
        self._token_file = token_file
        self._ca_file = ca_file
        self._token = token
        self._seconds = seconds
        self._client: httpx.AsyncClient | None = None
        self._opening = asyncio.Lock()

    async def aclose(self) -> None:
        """Close all connections; a later request opens new ones."""
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    async def ask(
        self, method: str, path: str, query: Mapping[str, str] | None = None, *, body: Any = None
    ) -> Answer:
        """Ask once. Raises Unreachable, Refused, NotFound."""
        headers = {"Accept": "application/json"}
        token = await self._bearer()
        if token:
            headers["Authorization"] = f"Bearer {token}"
        url = f"{self._endpoint}/{_API}/{path}"
        try:
            async with asyncio.timeout(self._seconds):
                code, content = await self._exchange(method, url, query, headers, body)
        except TimeoutError:
            said = f"it said nothing for {self._seconds:g} s"
            raise self._unreachable(said) from None
        except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
            # Of a proxy's address or a header, an error could repeat a secret: only its own words
            # for connections are told.
            if _is_about_certificates(error):
                await self.aclose()  # so that another bundle is read
            raise self._unreachable(_why(error)) from None
        return self._judged(code, content)

    async def _exchange(
        self,
        method: str,
        url: str,
        query: Mapping[str, str] | None,
        headers: Mapping[str, str],
        body: Any,
    ) -> tuple[int, bytes]:
        async with self._opening:
            if self._client is None:
                self._client = await asyncio.to_thread(self._new_client)
            client = self._client
        sent = None if body is None else json.dumps(body, ensure_ascii=False).encode()
        kind = {} if sent is None else {"Content-Type": "application/json"}
        async with client.stream(
            method, url, params=query, headers={**headers, **kind}, content=sent
        ) as response:
            content = bytearray()
            async for piece in response.aiter_bytes():
                content += piece
                if len(content) > _MOST_BYTES:
                    raise Unreachable(
                        f"What {self.shown} answers does not end after {_MOST_BYTES >> 20} MiB; "
                        "check that the endpoint is that of Kubeflow Pipelines."
                    )
            return response.status_code, bytes(content)

    def _new_client(self) -> httpx.AsyncClient:
        """Reads certificates, which takes a while; in a thread."""
        if (httpx.URL(self._endpoint).port or 0) > _LAST_PORT:
            raise ValueError  # which the socket would say in a group of errors
        trust = ssl.create_default_context(cafile=self._ca_file) if self._ca_file else True
        # `ask` has the bound for everything together; this one only has to be no tighter.
        return httpx.AsyncClient(verify=trust, timeout=2 * self._seconds, follow_redirects=False)

    async def _bearer(self) -> str:
        if self._token_file is None:
            return self._checked(self._token or "")
        try:
            text = await asyncio.to_thread(_first_bytes, Path(self._token_file))
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is not text"
            raise Unreachable(
                f"The file of the token for Kubeflow Pipelines, '{self._token_file}', cannot be "
                f"read ({why}); mount the token there, or name another file."
            ) from None
        return self._checked(text)

    def _checked(self, token: str) -> str:
        """A header takes printable signs alone; the error must not repeat the token."""
        token = token.strip()
        if not token.isascii() or not token.isprintable() or " " in token:
            raise Unreachable(
                "The token for Kubeflow Pipelines has signs that no token has; check "
                f"'{self._token_file or 'what was given'}'."
            )
        return token

    def _judged(self, code: int, content: bytes) -> Answer:
        if 300 <= code < 400:
            raise Unreachable(
                f"{self.shown} asks for a login ({code}); give a token that it takes, or the "
                "address of its REST interface inside the cluster.",
                code,
            )
        try:
            told = json.loads(content) if content else {}
        except (ValueError, RecursionError):
            told = None
        if 200 <= code < 300:
            if not isinstance(told, dict):
                raise _no_api(self.shown)
            return Answer(told, self.shown)
        own = told if isinstance(told, dict) else {}
        words = _words(own, content)
        if code in (401, 403):
            do = "Check its token." if code == 401 else "Give its account the right to."
            raise Unreachable(
                f"{self.shown} does not let us in ({code}): {words} {do}", code, words
            )
        if code in _LATER or code >= 500:
            raise Unreachable(f"{self.shown} cannot answer now ({code}): {words}", code, words)
        if code == 404:
            # What the API does not find it says with a code of its own; others know no such path.
            if own.get("code") != 5 or words == "Not Found.":
                raise _no_api(self.shown)
            raise NotFound(code, words)
        raise Refused(code, words)

    def _unreachable(self, why: str) -> Unreachable:
        return Unreachable(
            f"Kubeflow Pipelines cannot be reached at {self.shown} ({why.rstrip('.')}); check the "
            "endpoint, the network and the certificates."
        )


def _without_account(endpoint: str) -> str:
    scheme, _, rest = endpoint.partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"


def _first_bytes(file: Path) -> str:
    with file.open("rb") as stream:
        return stream.read(_MOST_TOKEN).decode()


def _words(told: Mapping[str, Any], content: bytes) -> str:
    """The server's own sentence, on one line and of bounded length."""
    said = (
        told.get("message") or told.get("error") or content[:_MOST_WORDS].decode(errors="replace")
    )
    # 2.14 puts a stack of Go behind some messages.
    lines = takewhile(lambda one: not one.startswith("github.com/"), str(said).splitlines())
    line = " ".join(" ".join(lines).split())
    if len(line) > _MOST_WORDS:
        line = f"{line[:_MOST_WORDS]} …"
    return line if line.endswith((".", "!", "?", "…")) else f"{line or 'no words'}."


def _no_api(endpoint: str) -> Unreachable:
    return Unreachable(
        f"What answers at {endpoint} is not the REST interface of Kubeflow Pipelines; check the "
        "endpoint (it ends before `/apis`; behind Kubeflow's gateway it ends with `/pipeline`)."
    )


def _why(error: Exception) -> str:
    """What the system or the TLS layer says; without the request, which has the token."""
    if isinstance(error, FileNotFoundError | PermissionError | IsADirectoryError):
        return f"its certificates: {error.strerror}"
    cause = _root(error)
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {cause.verify_message}"
    if isinstance(cause, OSError) and cause.strerror:
        return str(cause.strerror)
    if isinstance(error, ValueError) and not isinstance(error, ssl.SSLError):
        return "this is not an address"
    return str(error) or type(error).__name__


def _root(error: BaseException) -> BaseException:
    seen = error
    while (below := seen.__cause__ or seen.__context__) is not None:
        seen = below
    return seen


def _is_about_certificates(error: Exception) -> bool:
    return isinstance(error, ssl.SSLError) or isinstance(_root(error), ssl.SSLError)
