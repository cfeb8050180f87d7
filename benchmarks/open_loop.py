"""A client that sends requests at their times, whatever came of those before: open-loop load.

    answers = send(Client(url, "pocket", text), load)

Called by `plant_accuracy` and `autoscaling`. The client of `halftone bench` keeps so many requests
in flight, which slows down with the endpoint; arrivals of users do not. Prompts are token ids drawn
from ordinary text, so lengths are exact and no prefix cache helps. It decides nothing of the load.
"""

import asyncio
import json
import math
import random
import threading
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Any

import httpx
import numpy as np

from halftone.scaling.loads.load import Floats, Load
from halftone.serve.measuring.connection import Place, connected
from halftone.serve.measuring.prompting import draw, text_tokens

_PATIENCE_S = 900.0  # longer than an endpoint of a benchmark lets an answer take
_LATE_S = 0.25  # a client that is later than this is no open loop
_SHOWN = 200  # characters of a failure


@dataclass(frozen=True)
class Client:
    """Whom to ask for what; `text` are token ids that prompts are drawn from."""

    url: str
    model: str
    text: list[int]


@dataclass(frozen=True)
class Answer:
    """One request, times in seconds since it was to be sent; NaN where nothing came.

    `late_s` is when it was really sent, `itl_s` the mean time between its tokens, `failure` a
    sentence, empty where it has all of its tokens.
    """

    late_s: float
    first_s: float = math.nan
    itl_s: float = math.nan
    failure: str = ""


@dataclass(frozen=True)
class Answers:
    """Of one load, in its order; fewer where it was stopped. `began` is of the monotonic clock."""

    began: float
    rows: tuple[Answer, ...]

    @property
    def failures(self) -> list[str]:
        """What went wrong, one sentence a request."""
        return [each.failure for each in self.rows if each.failure]

    @property
    def late_s(self) -> Floats:
        """When each was really sent, after its time; float64."""
        return np.array([each.late_s for each in self.rows])

    @property
    def ttft_s(self) -> Floats:
        """Of those that were answered; float64."""
        return np.array([each.first_s for each in self.rows if not each.failure])

    @property
    def itl_s(self) -> Floats:
        """Of those that were answered with two tokens at least; float64."""
        found = np.array([each.itl_s for each in self.rows if not each.failure])
        known: Floats = found[~np.isnan(found)]
        return known

    @property
    def late_share(self) -> float:
        """How many were sent so late that the client, not the endpoint, made them wait."""
        return float((self.late_s > _LATE_S).mean()) if self.rows else 0.0


def client_of(url: str, model: str) -> Client:
    """The client of an endpoint that answers. Raises as `Connection` does where it does not."""

    async def text() -> list[int]:
        async with connected(Place(url)) as connection:
            await connection.find_model(model)
            return await text_tokens(connection)

    return Client(url, model, asyncio.run(text()))


def send(client: Client, load: Load, stop: threading.Event | None = None) -> Answers:
    """Send `load` from now on, until `stop`; returns when everything that was sent is settled."""
    return asyncio.run(_send(client, load, stop or threading.Event()))


async def _send(client: Client, load: Load, stop: threading.Event) -> Answers:
    numbers = random.Random(0)
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=64)
    wait = httpx.Timeout(_PATIENCE_S)
    asked: list[asyncio.Task[Answer]] = []
    async with httpx.AsyncClient(limits=limits, timeout=wait, trust_env=False) as http:
        began = time.monotonic()
        for at, prompt, output in zip(load.arrival_s, load.prompt, load.output, strict=True):
            while not stop.is_set() and (left := began + at - time.monotonic()) > 0:
                await asyncio.sleep(min(left, 0.2))
            if stop.is_set():
                break
            (tokens,) = draw(client.text, 1, int(prompt), numbers)
            body = {
                "model": client.model,
                "prompt": tokens,
                "max_tokens": int(output),
                "ignore_eos": True,
                "temperature": 0,
                "stream": True,
                "stream_options": {"include_usage": True},
            }
            asked.append(asyncio.create_task(_ask(http, client.url, body, began + at)))
        return Answers(began, tuple(await asyncio.gather(*asked)))


async def _ask(
    http: httpx.AsyncClient, url: str, body: dict[str, object], planned: float
) -> Answer:
    answer = Answer(time.monotonic() - planned)
    first = last = math.nan
    tokens = 0
    try:
        async with http.stream("POST", f"{url}/v1/completions", json=body) as response:
            if response.status_code != 200:
                said = (await response.aread()).decode(errors="replace")[:_SHOWN]
                return replace(answer, failure=f"{response.status_code}: {said}")
            async for chunk in _chunks(response):
                if chunk.get("choices"):
                    last = time.monotonic() - planned
                    first = last if math.isnan(first) else first
                tokens = (chunk.get("usage") or {}).get("completion_tokens", tokens)
    except (httpx.HTTPError, ValueError) as error:
        return replace(answer, failure=f"{type(error).__name__}: {error}"[:_SHOWN])
    if tokens != body["max_tokens"]:
        return replace(answer, failure=f"broke off after {tokens} of {body['max_tokens']} tokens")
    itl = (last - first) / (tokens - 1) if tokens > 1 else math.nan
    return replace(answer, first_s=first, itl_s=itl)


async def _chunks(response: httpx.Response) -> AsyncIterator[dict[str, Any]]:
    """The documents of a stream of events."""
    async for line in response.aiter_lines():
        data = line.removeprefix("data: ")
        if data != line and data != "[DONE]":
            yield json.loads(data)
