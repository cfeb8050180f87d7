"""One question to an endpoint, as a client asks it, with the times that a client sees.

Called by `halftone serve --once`.
"""

import json
from dataclasses import dataclass
from time import monotonic
from typing import Final

import httpx

from halftone.spec.errors import CheckFailed
from halftone.spec.names import Reason

_MAX_TOKENS: Final = 128
_PATIENCE_S: Final = 300.0


@dataclass(frozen=True)
class Answer:
    """What was said; seconds to the first token; tokens, and how many came a second after it."""

    text: str
    first_token_s: float
    tokens: int
    tokens_per_second: float | None


def ask(url: str, model: str, prompt: str, key: str | None) -> Answer:
    """Stream the answer of the chat model at `url` to `prompt`, at temperature 0.

    Raises CheckFailed(EngineFailed) with the endpoint's own words where it refuses, or how it broke
    off.
    """
    try:
        return _asked(url, model, prompt, key)
    except httpx.HTTPError as error:
        raise _refusal(f"{type(error).__name__}: {error}; see its logs.") from error


def _asked(url: str, model: str, prompt: str, key: str | None) -> Answer:
    body = {
        "model": model,
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": _MAX_TOKENS,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    headers = {} if key is None else {"authorization": f"Bearer {key}"}
    began = monotonic()
    parts: list[str] = []
    times: list[float] = []
    tokens = 0
    with httpx.stream(
        "POST",
        f"{url}/v1/chat/completions",
        json=body,
        headers=headers,
        timeout=_PATIENCE_S,
        trust_env=False,  # it is on this machine; no proxy leads there
    ) as response:
        if response.status_code != httpx.codes.OK:
            response.read()
            raise _refusal(response.text)
        for line in response.iter_lines():
            data = line.removeprefix("data: ")
            if data == line or data == "[DONE]":
                continue
            event = json.loads(data)
            if "error" in event:
                raise _refusal(data)
            tokens = (event.get("usage") or {}).get("completion_tokens", tokens)
            for choice in event["choices"]:
                delta = choice["delta"]
                # A model that reasons aloud does so in a field of its own.
                said = (delta.get("reasoning") or "") + (delta.get("content") or "")
                if said:
                    parts.append(said)
                    times.append(monotonic())
    if not times:
        times = [monotonic()]
    seconds = times[-1] - times[0]
    rate = (tokens - 1) / seconds if tokens > 1 and seconds > 0 else None
    return Answer("".join(parts), times[0] - began, tokens, rate)


def _refusal(said: str) -> CheckFailed:
    try:
        said = json.loads(said)["error"]["message"]
    except (ValueError, KeyError, TypeError):
        said = said[:500]
    return CheckFailed(Reason.EngineFailed, "--once", f"The endpoint did not answer: {said}")
