"""JSON from strangers: an object, exactly as the standard has it, or a refusal.

Used for headers, the index and `config.json`. Python's parser is too kind for these: it takes the
last of two equal keys where another reader takes the first, accepts NaN, turns 1e999 into infinity
and keeps half of a surrogate pair, and can be made to recurse until it fails.
"""

import json
import re
from math import isfinite
from typing import Any, Final, NoReturn

from halftone.spec.errors import RefusedInput
from halftone.spec.names import Reason

# Real configurations nest five or six levels; whoever walks one recursively must be able to.
MAX_DEPTH: Final = 64

# Without such an escape, text that is UTF-8 cannot turn into a surrogate.
_SURROGATE: Final = re.compile(rb"\\u[dD][89a-fA-F]")

# Bounds the memory that a document takes once parsed, which is far more than its bytes.
MAX_VALUES: Final = 5_000_000


def parse_object(raw: bytes, file: str, max_values: int = MAX_VALUES) -> dict[str, Any]:
    """The JSON object in `raw`; RefusedInput(MalformedCheckpoint) names `file` otherwise."""
    # Each value but a container's first follows a comma. Counting is cheap beside parsing.
    if sum(raw.count(mark) for mark in (b",", b"{", b"[")) > max_values:
        refuse(file, f"`{file}` holds more than {max_values} values; fetch the file again.")
    try:
        document = _DECODER.decode(raw.decode("utf-8"))
        if _SURROGATE.search(raw):
            json.dumps(document, ensure_ascii=False).encode()
    except UnicodeDecodeError as error:
        refuse(file, f"`{file}` is not UTF-8 at byte {error.start}; fetch the file again.", error)
    except UnicodeEncodeError as error:
        refuse(file, f"`{file}` holds half of a surrogate pair; fetch the file again.", error)
    except RecursionError as error:
        refuse(file, f"The JSON of `{file}` is nested too deeply; fetch the file again.", error)
    except ValueError as error:
        refuse(file, f"`{file}` holds no valid JSON ({error}); fetch the file again.", error)
    if not isinstance(document, dict):
        refuse(file, f"`{file}` must hold a JSON object, not a {type(document).__name__}.")
    return document


def refuse_deep(document: dict[str, Any], file: str) -> None:
    """Refuse an object that nests deeper than MAX_DEPTH, which others could not walk."""
    level: list[Any] = [document]
    for _ in range(MAX_DEPTH):
        level = [
            inner
            for value in level
            if isinstance(value, (dict, list))
            for inner in (value.values() if isinstance(value, dict) else value)
        ]
        if not level:
            return
    refuse(file, f"The JSON of `{file}` nests deeper than {MAX_DEPTH} levels; fetch it again.")


def refuse(subject: str, message: str, cause: Exception | None = None) -> NoReturn:
    """Raise RefusedInput(MalformedCheckpoint)."""
    raise RefusedInput(Reason.MalformedCheckpoint, subject, message) from cause


def quoted(value: object) -> str:
    """A value from a stranger's file, safe and short enough to stand in a message."""
    text = ascii(value)
    return text if len(text) <= 100 else f"{text[:100]}…"


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise ValueError(f"the key {quoted(key)} appears twice")
            seen.add(key)
    return found


def _refuse_constant(literal: str) -> NoReturn:
    raise ValueError(f"{literal} is no JSON value")


def _finite(literal: str) -> float:
    value = float(literal)
    if not isfinite(value):
        raise ValueError(f"{quoted(literal)} is beyond the range of numbers")
    return value


_DECODER: Final = json.JSONDecoder(
    object_pairs_hook=_unique, parse_constant=_refuse_constant, parse_float=_finite
)
