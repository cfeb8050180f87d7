"""What vLLM's log says in the end, short enough for a sentence.

Called by `session`, and by `halftone.serve.measuring.load` for the log of an endpoint.
"""

import re
from typing import Final

_LINES: Final = 4
_CHARACTERS: Final = 900
# Progress bars rewrite their line; colours and the prefix of each record are noise in a sentence.
_NOISE: Final = re.compile(
    r"\x1b\[[0-9;]*m|\((?:EngineCore|MainProcess|Worker)[^)]*\) |(?<=[A-Z] )\d\d-\d\d [\d:]+ "
)


def last_lines(text: str, lines: int = _LINES) -> str:
    """The last `lines` lines that are neither empty nor a progress bar, joined by ` | `."""
    kept: list[str] = []
    for line in reversed(text[-200_000:].splitlines()):
        said = _NOISE.sub("", line.rpartition("\r")[2]).strip()
        if not said or "it/s]" in said or "s/it]" in said or set(said) <= set("^~ "):
            continue
        kept.append(said[-_CHARACTERS // lines * 2 :])
        if len(kept) == lines:
            break
    return (" | ".join(reversed(kept)) or "(nothing)")[-_CHARACTERS:]
