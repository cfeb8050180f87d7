"""What a model thinks of an answer that another gave: log probabilities, position by position.

Called by `replaying`. The statistic needs the same contexts for both models, so the old endpoint's
answer is put behind its prompt as token ids, and both endpoints are asked for the log
probabilities of that prompt (`prompt_logprobs` of vLLM's `/v1/completions`; the one token that has
to be generated is thrown away). An endpoint without that is noticed before anything is replayed.
"""

from typing import Any, Final

import httpx

from halftone.serve.comparing.answering import NO_NUMBER, Position, are_numbers
from halftone.serve.measuring.connection import Connection, describe, error_text

# Any text does: asked is whether the endpoint answers such a question at all.
_PROBE: Final = "The harbour lay still that morning."


class ScoringFailed(Exception):
    """The endpoint did not answer; the message is the rest of a sentence that names it."""


async def cannot_score(endpoint: Connection, top_k: int) -> str | None:
    """Why `endpoint` gives no log probabilities of a prompt's tokens; None where it does."""
    body = {"prompt": _PROBE, "return_token_ids": True} | _question(endpoint, top_k)
    try:
        status, said = await endpoint.post_json("/v1/completions", body)
        rows = _rows(status, said)
        ids = said["choices"][0].get("prompt_token_ids")
    except ScoringFailed as failed:
        return str(failed)
    except httpx.HTTPError as error:
        return f"did not answer ({describe(error)})"
    if not ids or len(ids) != len(rows):
        return "does not tell the token ids of a prompt"
    return None


async def score(
    endpoint: Connection, prompt: list[int], answer: list[int], top_k: int
) -> list[Position]:
    """The distribution at each position of `answer`, which follows `prompt`; one a token.

    An answer that fills the whole context is one position short. Raises ScoringFailed.
    """
    ids = prompt + answer
    if endpoint.model.context is not None:
        ids = ids[: endpoint.model.context - 1]  # one token will be generated
    body = {"prompt": ids} | _question(endpoint, top_k)
    try:
        status, said = await endpoint.post_json("/v1/completions", body)
    except httpx.HTTPError as error:
        raise ScoringFailed(f"did not answer ({describe(error)})") from error
    rows = _rows(status, said)
    if len(rows) != len(ids):
        raise ScoringFailed(f"told of {len(rows)} tokens where {len(ids)} were asked about")
    return [_position(row) for row in rows[len(prompt) :]]


def _question(endpoint: Connection, top_k: int) -> dict[str, Any]:
    return {
        "model": endpoint.model.name,
        "max_tokens": 1,
        "temperature": 0,
        "prompt_logprobs": top_k,
    }


def _rows(status: int, said: Any) -> list[dict[str, Any] | None]:
    if status != 200:
        raise ScoringFailed(f"answered {error_text(status, said)}")
    try:
        rows = said["choices"][0]["prompt_logprobs"]
    except (KeyError, IndexError, TypeError):
        rows = None
    if not isinstance(rows, list):
        raise ScoringFailed("answered without `prompt_logprobs`")
    return rows


def _position(row: dict[str, Any] | None) -> Position:
    try:
        found = {token: each["logprob"] for token, each in (row or {}).items()}
    except (AttributeError, KeyError, TypeError):
        raise ScoringFailed("answered with `prompt_logprobs` of another shape") from None
    if not are_numbers(found):
        raise ScoringFailed(NO_NUMBER)
    return found
