"""Prompts of an exact number of tokens, which no cache has seen.

Called by `rounds` and `steps`. Tokens are those of ordinary text in the endpoint's own tokenizer,
drawn at random: experts are chosen much as they would be, lengths are exact, and no two prompts of
one run begin alike, so a prefix cache helps nobody.
"""

import random
from typing import Final

import httpx

from halftone.serve.measuring.connection import Connection, describe, error_text
from halftone.spec.errors import EnvironmentFault
from halftone.spec.names import Reason

_TEXT: Final = (
    "The harbour lay still that morning. Two boats had come in before dawn, their decks white with "
    "salt, and the men were counting crates under the lamps while the tide turned. A clerk wrote "
    "each number twice, once for the owner and once for himself, because paper is lost more often "
    "than fish. By eight o'clock the market was open, and the price of herring had gone up again. "
)


async def text_tokens(endpoint: Connection) -> list[int]:
    """Token ids of some ordinary text, as `endpoint` reads it.

    Raises EnvironmentFault(EndpointUnavailable) where it does not tell them.
    """
    body = {
        "model": endpoint.model.name,
        "prompt": _TEXT,
        "max_tokens": 1,
        "return_token_ids": True,
    }
    try:
        status, said = await endpoint.post_json("/v1/completions", body)
        how = f"answered {error_text(status, said)}" if status != 200 else ""
    except httpx.HTTPError as error:
        said, how = None, f"did not answer ({describe(error)})"
    try:
        ids = list(said["choices"][0]["prompt_token_ids"])
    except (KeyError, IndexError, TypeError):
        told = (
            f"'{endpoint.place.url}' {how or 'does not tell the token ids of a prompt'}; "
            "`halftone bench` needs an endpoint of vLLM that generates from text."
        )
        raise EnvironmentFault(Reason.EndpointUnavailable, endpoint.place.url, told) from None
    return ids


def draw(ids: list[int], prompts: int, length: int, numbers: random.Random) -> list[list[int]]:
    """So many prompts of `length` tokens each."""
    return [numbers.choices(ids, k=length) for _ in range(prompts)]
