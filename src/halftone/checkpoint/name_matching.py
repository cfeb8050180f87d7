"""A stranger's regular expressions held against names, with an end to it.

A short expression can keep Python's `re` busy for years, and nothing stops it within a process. So
expressions are compiled and matched in a child process that this file also is: it imports nothing
but the standard library, is ended after `seconds`, and ends itself should its parent be gone.

Called by `serving_compressed_tensors`; it knows nothing of what the names mean.
"""

import json
import re
import resource
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

# A list that a server can live with takes some hundredths of a second for all names.
MATCHING_SECONDS: Final = 10.0
# Enumerated lists have some hundreds of expressions, each as long as a name.
MAX_EXPRESSIONS: Final = 10_000
MAX_EXPRESSION_CHARACTERS: Final = 10_000


class NotMatchedError(Exception):
    """Expressions that were given up; the message says which or why."""


def first_matches(
    expressions: Sequence[str], names: Sequence[str], seconds: float = MATCHING_SECONDS
) -> list[int | None]:
    """For each of `names` the position of the first of `expressions` that matches its beginning.

    Raises NotMatchedError for an expression that is none or is too long, for too many of them, and
    when not all is done in `seconds`.
    """
    if len(expressions) > MAX_EXPRESSIONS:
        raise NotMatchedError(
            f"there are {len(expressions)} regular expressions, more than {MAX_EXPRESSIONS}; "
            "write one for many names"
        )
    for expression in expressions:
        if len(expression) > MAX_EXPRESSION_CHARACTERS:
            raise NotMatchedError(
                f"{_shown(expression)} is longer than {MAX_EXPRESSION_CHARACTERS} characters; "
                "write names, or simpler expressions"
            )
    question = {"expressions": list(expressions), "names": list(names), "seconds": seconds}
    # Without site-packages: nothing that is installed has a part in this.
    command = [sys.executable, "-I", "-S", str(Path(__file__).resolve())]
    try:
        ended = subprocess.run(  # noqa: S603 - our own file
            command, input=json.dumps(question).encode(), capture_output=True, timeout=seconds
        )
    except subprocess.TimeoutExpired as error:
        raise NotMatchedError(
            f"its regular expressions, the longest of which is {_shown(max(expressions, key=len))},"
            f" take more than {seconds:g} seconds to match, so whether a server loads this was not "
            "judged; write names, or simpler expressions"
        ) from error
    if ended.returncode:
        raise NotMatchedError(
            "its regular expressions could not be matched within bounds of time and memory, so "
            "whether a server loads this was not judged; write names, or simpler expressions"
        )
    answer: dict[str, Any] = json.loads(ended.stdout)
    if "error" in answer:
        raise NotMatchedError(
            f"{_shown(expressions[answer['position']])} is not a regular expression: "
            f"{answer['error']}"
        )
    found: list[int | None] = answer["first"]
    return found


def answer(question: dict[str, Any]) -> dict[str, Any]:
    """What the child says: `first`, or `error` and the `position` of what does not compile."""
    patterns: list[re.Pattern[str]] = []
    for position, expression in enumerate(question["expressions"]):
        try:
            patterns.append(re.compile(expression))
        except (re.error, OverflowError, RecursionError) as error:
            return {"position": position, "error": ascii(str(error))[1:-1]}
    return {
        "first": [
            next((at for at, pattern in enumerate(patterns) if pattern.match(name)), None)
            for name in question["names"]
        ]
    }


def _shown(expression: str) -> str:
    text = ascii(expression)
    return text if len(text) <= 100 else f"{text[:100]}…"


def _main() -> None:
    question = json.load(sys.stdin)
    # More than the parent waits: who is late to end this, on a busy machine, has the better words.
    most = int(question["seconds"]) + 60
    resource.setrlimit(resource.RLIMIT_CPU, (most, most))
    resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
    json.dump(answer(question), sys.stdout)


if __name__ == "__main__":
    _main()
