"""A conversation as the source's chat template writes it.

Called by `samples`, with whatever renders a template; it knows no tokenizer and no row. Templates
differ in what they take as the `content` of a message: a string, a list of parts, or either, and
say so nowhere. What one is not made for it writes as Python would print it, or leaves out without
a word. Servers choose by a look at the template's source; here the template itself is watched.
"""

from collections.abc import Callable, Sequence
from typing import Any

Message = dict[str, Any]
Render = Callable[[list[Message]], str]


class PartsUnreadError(Exception):
    """The template takes no list of parts, so the image of a message would get no place."""


class _Part(dict[str, Any]):
    """A part of a message that notices whether somebody takes what it holds."""

    def __init__(self, part: Message) -> None:
        super().__init__(part)
        self._telling = "text" if part["type"] == "text" else "type"
        self.is_read = False

    def __getitem__(self, key: str) -> Any:
        self.is_read |= key == self._telling
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        self.is_read |= key == self._telling
        return super().get(key, default)


def written(messages: Sequence[Message], render: Render) -> str:
    """The text of `messages`: as parts where the template reads parts, and as strings elsewhere.

    As servers do it, a string becomes one part, and parts become a string with a line for each.
    Raises PartsUnreadError for a message with an image that the template cannot take, and whatever
    `render` raises for the rest.
    """
    parts = [_in_parts(message) for message in messages]
    try:
        text = render(parts)
        unread = [_is_unread(message) for message in parts]
    except Exception:  # templates are programs; this one may object to lists
        text, unread = "", [True] * len(parts)
    if not any(unread):
        return text
    second = [
        _in_a_string(message) if is_unread else message
        for message, is_unread in zip(parts, unread, strict=True)
    ]
    text = render(second)
    if any(_is_unread(message) and _has_image(message) for message in second):
        raise PartsUnreadError
    return text


def _in_parts(message: Message) -> Message:
    """`message` with watched parts; one that says nothing has the empty string."""
    content = message.get("content")
    if not content:
        return message | {"content": ""}
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    return message | {"content": [_Part(part) for part in parts]}


def _in_a_string(message: Message) -> Message:
    """`message` with its text in a string; one with an image stays in parts."""
    content = message.get("content")
    if not isinstance(content, list) or _has_image(message):
        return message
    return message | {"content": "\n".join(part["text"] for part in content)}


def _has_image(message: Message) -> bool:
    content = message.get("content")
    return isinstance(content, list) and any(part["type"] == "image" for part in content)


def _is_unread(message: Message) -> bool:
    """Whether the template passed over a part of `message`."""
    content = message.get("content")
    return isinstance(content, list) and not all(part.is_read for part in content)
