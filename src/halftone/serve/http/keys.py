"""The key that clients of an endpoint must send, out of the environment of whoever answers them.

Called by `replica`, and by `halftone serve` before anything starts. A key that is meant and not
there must not open the endpoint to everybody, which is what vLLM makes of an empty one.
"""

import re
from collections.abc import Mapping
from typing import Final

from halftone.spec.errors import RefusedInput
from halftone.spec.names import Reason

# As vLLM names it.
API_KEY: Final = "VLLM_API_KEY"


def is_one_key(text: str) -> bool:
    """Whether clients can send `text` in a header as it is: printable ASCII, without spaces."""
    return re.fullmatch(r"[!-~]+", text) is not None


def client_keys(environment: Mapping[str, str]) -> tuple[str, ...]:
    """The keys that open the endpoint; none where anyone may ask.

    Raises RefusedInput(InvalidEndpoint) for a variable that is set and holds no key. The key is no
    part of the message.
    """
    key = environment.get(API_KEY)
    if key is None:
        return ()
    if not is_one_key(key):
        raise RefusedInput(
            Reason.InvalidEndpoint,
            API_KEY,
            f"`{API_KEY}` is set and holds no key, or spaces, an end of line or letters beyond "
            "ASCII beside it; set it to one key (`kubectl create secret generic NAME "
            "--from-literal=api-key=KEY`), or leave it out where anyone may ask.",
        )
    return (key,)
