"""One prompt to one endpoint, streamed: what came, when it came, and how it ended.

Called by `replaying`. Whatever goes wrong with the request becomes `Answer.failure`, a sentence;
nothing is raised for it, because a comparison counts failures.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, Final

import httpx

from halftone.serve.comparing.prompts import Prompt
from halftone.serve.measuring.connection import Connection, describe, error_text

_END: Final = "[DONE]"
NO_NUMBER: Final = "gave a log probability that is no number"
# Servers write -9999 for what cannot be; above 0 is rounding.
_LEAST: Final = -1e6

# The log probabilities of one position by token, a text or an id.
Position = dict[str, float]


@dataclass
class Answer:
    """What one endpoint said to one prompt.

    `tokens` and `prompt_tokens` are ids, empty where the endpoint does not tell them. `positions`
    are there if they were asked for, one a token. `arrivals` are seconds since the request was
    sent, one for each chunk with a token. `failure` None: it came to its end.
    """

    text: str = ""
    tokens: list[int] = field(default_factory=list)
    prompt_tokens: list[int] = field(default_factory=list)
    positions: list[Position] = field(default_factory=list)
    pieces: list[str] = field(default_factory=list)
    arrivals: list[float] = field(default_factory=list)
    failure: str | None = None

    @property
    def first_token(self) -> float | None:
        """Seconds to the first token."""
        return self.arrivals[0] if self.arrivals else None

    @property
    def gaps(self) -> list[float]:
        """Seconds between tokens that followed each other."""
        return [b - a for a, b in zip(self.arrivals, self.arrivals[1:], strict=False)]


async def answer(
    endpoint: Connection, prompt: Prompt, more: dict[str, Any], timeout_s: float
) -> Answer:
    """Ask greedily, with `more` in the request; the whole answer has `timeout_s`."""
    body = {
        "model": endpoint.model.name,
        **prompt.body(),
        "temperature": 0,
        "seed": 0,
        "stream": True,
        **more,
    }
    found = Answer()
    try:
        async with asyncio.timeout(timeout_s):
            await _stream(endpoint, prompt.path, body, found)
    except TimeoutError:
        found.failure = f"took longer than {timeout_s:g} seconds, after {_so_far(found)}"
    except httpx.HTTPError as error:
        found.failure = f"broke off after {_so_far(found)} ({describe(error)})"
    return found


async def _stream(endpoint: Connection, path: str, body: dict[str, Any], found: Answer) -> None:
    begun = perf_counter()
    async with endpoint.client.stream("POST", path, json=body) as response:
        if response.status_code != 200:
            said = await response.aread()
            found.failure = f"answered {error_text(response.status_code, _json(said))}"
            return
        async for data in _events(response):
            if data == _END:
                return
            event = _json(data)
            if not isinstance(event, dict):
                found.failure = f"sent something that is not JSON after {_so_far(found)}"
                return
            if "error" in event:
                found.failure = f"ended with an error after {_so_far(found)}: {_said(event)}"
                return
            try:
                _take(event, perf_counter() - begun, found)
            except (AttributeError, KeyError, TypeError):  # of another shape than OpenAI's
                found.failure = f"sent an event that no client knows after {_so_far(found)}"
                return
    found.failure = f"broke off after {_so_far(found)}"


async def _events(response: httpx.Response) -> AsyncIterator[str]:
    """The data of server-sent events, each of one line as OpenAI's are."""
    async for line in response.aiter_lines():
        if line.startswith("data:"):
            yield line.removeprefix("data:").strip()


def _take(event: dict[str, Any], now: float, found: Answer) -> None:
    for choice in (event.get("choices") or [])[:1]:
        delta = choice.get("delta") or {}
        text = choice.get("text") or delta.get("content") or ""
        thought = delta.get("reasoning") or delta.get("reasoning_content") or ""
        ids = choice.get("token_ids") or []
        # Those of a chat's prompt come with its first chunk, which has no token.
        asked = choice.get("prompt_token_ids") or event.get("prompt_token_ids")
        if asked:
            found.prompt_tokens = list(asked)
        if ids or text or thought or delta.get("tool_calls"):
            found.arrivals.append(now)
        found.text += thought + text
        found.tokens += ids
        _take_logprobs(choice.get("logprobs"), found)


def _take_logprobs(logprobs: dict[str, Any] | None, found: Answer) -> None:
    if not logprobs:
        return
    if "content" in logprobs:  # of a chat
        rows = [
            (row["token"], {t["token"]: t["logprob"] for t in row["top_logprobs"]})
            for row in logprobs["content"] or []
        ]
    else:
        tops = logprobs.get("top_logprobs") or []
        rows = [
            (token, dict(row or {}))
            for token, row in zip(logprobs.get("tokens") or [], tops, strict=False)
        ]
    for token, row in rows:
        found.pieces.append(token)
        found.positions.append(row)
        if not are_numbers(row):
            found.failure = NO_NUMBER


def are_numbers(row: Position) -> bool:
    """Whether each log probability is one; a broken model, or a broken server, says others."""
    return all(isinstance(value, int | float) and _LEAST < value < 1 for value in row.values())


def _so_far(found: Answer) -> str:
    count = len(found.tokens) or len(found.arrivals)
    return f"{count} token{'' if count == 1 else 's'}"


def _said(event: dict[str, Any]) -> str:
    error = event["error"]
    return str(error.get("message", error) if isinstance(error, dict) else error)


def _json(data: bytes | str) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None
