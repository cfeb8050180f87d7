"""The prompts that `halftone compare` replays: JSON Lines, one request a line.

    {"prompt": "Once upon a time", "max_tokens": 64}
    {"messages": [{"role": "user", "content": "What is 2+3?"}]}

Called by the command line. Other keys are refused: temperature and the like are the comparison's.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NoReturn

from halftone.spec.errors import RefusedInput
from halftone.spec.names import Reason

_KEYS: Final = {"prompt", "messages", "max_tokens"}
_MOST_TOKENS: Final = 1_000_000


@dataclass(frozen=True)
class Prompt:
    """One request: exactly one of `text` and `messages`; `line` of the file, from 1."""

    line: int
    text: str | None
    messages: tuple[dict[str, Any], ...] | None
    max_tokens: int

    @property
    def path(self) -> str:
        """Where an OpenAI-compatible endpoint takes it."""
        return "/v1/completions" if self.text is not None else "/v1/chat/completions"

    def body(self) -> dict[str, Any]:
        """What is asked, without the model and how it answers."""
        if self.text is not None:
            return {"prompt": self.text, "max_tokens": self.max_tokens}
        return {"messages": list(self.messages or ()), "max_tokens": self.max_tokens}


def read_prompts(path: Path, max_tokens: int) -> tuple[Prompt, ...]:
    """All prompts of a file; `max_tokens` is for those that have none of their own.

    Raises RefusedInput that names the line, also for a file without any.
    """
    try:
        # Not `splitlines`: JSON may hold separators of Unicode as they are.
        lines = path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        told = f"`--prompts` '{path}' is not UTF-8 text; write JSON Lines."
        raise RefusedInput(Reason.InvalidJob, "--prompts", told) from error
    prompts = tuple(
        _prompt(path, number, line, max_tokens)
        for number, line in enumerate(lines, start=1)
        if line.strip()
    )
    if not prompts:
        told = f"`--prompts` '{path}' holds no prompt; write one JSON object a line."
        raise RefusedInput(Reason.InvalidJob, "--prompts", told)
    return prompts


def _prompt(path: Path, number: int, line: str, max_tokens: int) -> Prompt:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        row = None
    if not isinstance(row, dict):
        _refuse(path, number, "is not a JSON object")
    if unknown := sorted(set(row) - _KEYS):
        _refuse(path, number, f"has `{unknown[0]}`, which a comparison does not take")
    if ("prompt" in row) == ("messages" in row):
        _refuse(path, number, "must have exactly one of `prompt` and `messages`")
    limit = row.get("max_tokens", max_tokens)
    if type(limit) is not int or not 1 <= limit <= _MOST_TOKENS:
        _refuse(path, number, "must have a whole number from 1 as `max_tokens`")
    text, messages = row.get("prompt"), row.get("messages")
    if "prompt" in row and not (isinstance(text, str) and text):
        _refuse(path, number, "must have text as `prompt`")
    if "messages" in row and not _are_messages(messages):
        _refuse(path, number, "must have a list of messages with a `role` as `messages`")
    return Prompt(number, text, tuple(messages) if messages is not None else None, limit)


def _are_messages(value: Any) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(each, dict) and isinstance(each.get("role"), str) for each in value)
    )


def _refuse(path: Path, number: int, how: str) -> NoReturn:
    raise RefusedInput(
        Reason.InvalidJob,
        "--prompts",
        f"Line {number} of `--prompts` '{path}' {how}; write it as "
        '{"prompt": "…"} or {"messages": […]}, with `max_tokens` if you like.',
    )
