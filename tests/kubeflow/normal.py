"""Makes recordings of a server the same each time: identifiers, times and names by their order.

Called by `recording`, once with all that was recorded. Equal values stay equal, times keep their
order, and nothing else changes; so a diff of two recordings shows what the server does otherwise.
"""

import json
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Final

_UUID: Final = re.compile(r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b")
_TIME: Final = re.compile(r"\b20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?Z")
# Argo's name of a run, and of a node or pod of it.
_WORKFLOW: Final = re.compile(r"\bshape-[bcdfghjklmnpqrstvwxz2456789]{5}\b")
_EXPERIMENT: Final = re.compile(r"\brecordings-\d+")
_PAGE_TOKEN: Final = re.compile(r"\beyJ[A-Za-z0-9+/]{40,}=*")
_NODE: Final = re.compile(r"(?<=-)\d{6,10}\b")
_UNKNOWN: Final = "00000000-0000-0000-0000-000000000000"
_BEGIN: Final = datetime(2026, 1, 1, tzinfo=UTC)


def normalise(recorded: Any) -> Any:
    """A copy with first things first: `…-000000000001`, `shape-00001`, 2026-01-01T00:00:01Z."""
    text = json.dumps(recorded)
    times = sorted({match[0] for match in _TIME.finditer(text)})
    moments = {time: _moment(number) for number, time in enumerate(times, start=1)}
    text = _TIME.sub(lambda match: moments[match[0]], text)
    text = _UUID.sub(_numbered("00000000-0000-4000-8000-{:012d}", {_UNKNOWN: _UNKNOWN}), text)
    text = _WORKFLOW.sub(_numbered("shape-{:05d}", {}), text)
    text = _EXPERIMENT.sub("recordings", text)
    text = _PAGE_TOKEN.sub(_numbered("token-of-page-{:d}", {"": ""}), text)
    return json.loads(_NODE.sub(_numbered("{:d}", {}), text))


def _moment(number: int) -> str:
    return (_BEGIN + timedelta(seconds=number)).strftime("%Y-%m-%dT%H:%M:%SZ")


def _numbered(form: str, known: dict[str, str]) -> Callable[[re.Match[str]], str]:
    def replace(match: re.Match[str]) -> str:
        return known.setdefault(match[0], form.format(len(known) + 1))

    return replace
