"""An OpenAI-compatible endpoint as `halftone compare` and `halftone bench` reach it.

    async with connected(Place("http://host:8000", key_file=Path("key"))) as endpoint:
        model = await endpoint.find_model(None)

Called by `comparing` and `measuring`. What goes wrong before any measurement is raised as a
sentence that names the endpoint and the way out; what goes wrong with one request of many is for
the caller to count. A key is never part of a message.
"""

import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx

from halftone.serve.http.keys import API_KEY, is_one_key
from halftone.spec.errors import EnvironmentFault, RefusedInput
from halftone.spec.names import Reason

_CONNECT_S: Final = 10.0
_SHOWN: Final = 300  # characters of what an endpoint said


@dataclass(frozen=True)
class Place:
    """Where an endpoint is, and how we are known there.

    `url` with or without `/v1`. The key is in `key_file`, else in `VLLM_API_KEY`, else there is
    none. `option` and `model_option` are what the command line calls the file and the model's name,
    for messages.
    """

    url: str
    key_file: Path | None = None
    option: str = "--api-key-file"
    model_option: str = "--model"

    @property
    def root(self) -> str:
        """The URL without `/v1`."""
        return self.url.rstrip("/").removesuffix("/v1")

    def headers(self) -> dict[str, str]:
        """With the key. Raises RefusedInput(AccessDenied) for a file or a variable that holds none:
        the client would repeat in its error what cannot be sent.
        """
        key, source, told = os.environ.get(API_KEY, "").strip(), API_KEY, f"`{API_KEY}`"
        if self.key_file is not None:
            source, told = self.option, f"`{self.option}` '{self.key_file}'"
            try:
                key = self.key_file.read_text(encoding="ascii").strip()
            except (OSError, UnicodeDecodeError):
                key = ""
        elif not key:
            return {}
        if not is_one_key(key):
            told = f"{told} holds no API key; write it there alone."
            raise RefusedInput(Reason.AccessDenied, source, told)
        return {"Authorization": f"Bearer {key}"}


@dataclass(frozen=True)
class ServedName:
    """A model of an endpoint; `context` is its longest sequence in tokens, where it is said."""

    name: str
    context: int | None


@dataclass
class Connection:
    """One endpoint with connections that are kept; `connected` makes it."""

    place: Place
    client: httpx.AsyncClient
    model: ServedName = field(default=ServedName("", None))

    async def find_model(self, named: str | None) -> ServedName:
        """The model that is asked from now on: `named`, or the only one that is served.

        Raises EnvironmentFault(EndpointUnavailable) where nobody answers, RefusedInput where the
        key is wrong, or where the name is not one of those served.
        """
        answer = await self.get_json("/v1/models")
        found = _models(answer)
        if not found:
            raise self._fault("serves no model")
        names = ", ".join(f"'{each.name}'" for each in found)
        if named is None and len(found) > 1:
            option = self.place.model_option
            told = f"'{self.place.url}' serves {names}; name one with `{option}`."
            raise RefusedInput(Reason.InvalidJob, option, told)
        chosen = [each for each in found if named in {None, each.name}]
        if not chosen:
            option = self.place.model_option
            told = f"'{self.place.url}' serves {names} and not the '{named}' of `{option}`."
            raise RefusedInput(Reason.InvalidJob, option, told)
        self.model = chosen[0]
        return self.model

    async def get_json(self, path: str) -> Any:
        """What `path` answers. Raises as `find_model` does."""
        return self._read(path, await self._send("GET", path))

    async def get_if_there(self, path: str) -> Any | None:
        """The same, or None where the endpoint has no such path."""
        response = await self._send("GET", path)
        if response.status_code in {404, 405}:
            return None
        return self._read(path, response)

    async def post_json(self, path: str, body: Mapping[str, Any]) -> tuple[int, Any]:
        """Status and JSON of an answer; None where it is not JSON. Raises httpx's errors."""
        response = await self.client.post(path, json=body)
        try:
            return response.status_code, response.json()
        except (ValueError, RecursionError):
            return response.status_code, None

    async def _send(self, method: str, path: str) -> httpx.Response:
        try:
            return await self.client.request(method, path)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise self._fault(f"cannot be reached ({describe(error)})") from error

    def _read(self, path: str, response: httpx.Response) -> Any:
        if response.status_code in {401, 403}:
            told = (
                f"'{self.place.url}' answered {response.status_code} to `{path}`; give its API key "
                f"with `{self.place.option}` or in {API_KEY}."
            )
            raise RefusedInput(Reason.AccessDenied, self.place.option, told)
        if response.status_code != 200:
            raise self._fault(f"answered {response.status_code} to `{path}`")
        try:
            return response.json()
        except (ValueError, RecursionError) as error:
            raise self._fault(f"answered `{path}` with something that is not JSON") from error

    def _fault(self, how: str) -> EnvironmentFault:
        return EnvironmentFault(
            Reason.EndpointUnavailable,
            self.place.url,
            f"'{self.place.url}' {how}; see that an OpenAI-compatible endpoint serves there, and "
            "run the same command again.",
        )


@asynccontextmanager
async def connected(place: Place, timeout_s: float = 60.0) -> AsyncIterator[Connection]:
    """The endpoint at `place`; `timeout_s` is the longest silence. Sends nothing yet."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx.AsyncClient(
        base_url=_url(place),
        headers=place.headers(),
        timeout=httpx.Timeout(timeout_s, connect=_CONNECT_S),
        limits=limits,
    ) as client:
        yield Connection(place, client)


def _url(place: Place) -> httpx.URL:
    try:
        url = httpx.URL(place.root)
    except (httpx.InvalidURL, ValueError):
        url = httpx.URL("")
    if url.userinfo:
        told = (
            "An endpoint's URL must hold no user name and no password, which would stand in "
            f"messages; give an API key with `{place.option}` or in {API_KEY}."
        )
        raise RefusedInput(Reason.InvalidJob, "URL", told)
    if url.scheme not in {"http", "https"} or not url.host:
        told = f"'{place.url}' is not the URL of an endpoint; write it as http://HOST:PORT."
        raise RefusedInput(Reason.InvalidJob, "URL", told)
    return url


def describe(error: Exception) -> str:
    """A network error in words; httpx leaves many without."""
    words = str(error) or type(error).__name__
    return words.splitlines()[0][:_SHOWN]


def error_text(status: int, answer: Any) -> str:
    """What an error answer says, in OpenAI's form or vLLM's."""
    said = answer.get("error", answer) if isinstance(answer, dict) else answer
    said = said.get("message", said) if isinstance(said, dict) else said
    return f"{status}: {str(said)[:_SHOWN]}" if said else str(status)


def _models(answer: Any) -> list[ServedName]:
    rows = answer.get("data") if isinstance(answer, dict) else None
    found = []
    for row in rows if isinstance(rows, list) else []:
        if isinstance(row, dict) and isinstance(row.get("id"), str):
            context = row.get("max_model_len")
            found.append(ServedName(row["id"], context if isinstance(context, int) else None))
    return found
