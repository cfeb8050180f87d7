"""A row of calibration data: what it may hold, and what is said of one that cannot be used.

Called by the readers of files (`json_lines`, `parquet`) for every row, and by `samples`
for those that were drawn. Rows come from strangers, so nothing in one is believed. It must not open
files, decode images or import torch.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NoReturn

from halftone.checkpoint.json_objects import quoted
from halftone.spec.calibration import Modality
from halftone.spec.errors import RefusedInput
from halftone.spec.names import Reason
from halftone.spec.presentation import printable

# Names of the fields that are read; a row may have others.
FIELDS: Final = ("text", "messages", "images")
_SHAPE: Final = "a row has `text`, or `messages`, and with images `images`"


@dataclass(frozen=True)
class Row:
    """One usable row. Exactly one of `text` and `messages`; `images` as they stand in the file.

    `place` says where it came from, as messages to the user name it; an image's path starts at the
    folder of `file`.
    """

    place: str
    file: str
    text: str | None
    messages: tuple[dict[str, Any], ...] | None
    images: tuple[Any, ...]

    @property
    def modality(self) -> Modality:
        """What the row holds."""
        return Modality.Image if self.images else Modality.Text


def understood(fields: Mapping[str, Any], place: str, file: str) -> Row | None:
    """The row in `fields`; None for one without any text, which has nothing to measure.

    Raises RefusedInput(DatasetUnusable) for a row that is neither of the two kinds.
    """
    text, messages, images = (fields.get(name) for name in FIELDS)
    if text is not None and messages is not None:
        refuse(place, f"{place} has both `text` and `messages`; keep one of them ({_SHAPE}).")
    if text is None and messages is None:
        has = ", ".join(_field(name, fields[name]) for name in list(fields)[:8]) or "nothing"
        refuse(place, f"{place} has neither `text` nor `messages` but {has}; {_SHAPE}.")
    if images is not None and not isinstance(images, list):
        refuse(place, f"`images` of {place} is {quoted(images)}; make it a list.")
    if text is not None:
        if not isinstance(text, str):
            refuse(place, f"`text` of {place} is {quoted(text)}; make it a string.")
        return Row(place, file, text, None, tuple(images or ())) if text.strip() else None
    if not isinstance(messages, list):
        refuse(place, f"`messages` of {place} is {quoted(messages)}; make it a list.")
    if not messages:
        return None
    spoken = tuple(_message(message, place, index) for index, message in enumerate(messages))
    return Row(place, file, None, spoken, tuple(images or ()))


def refuse(subject: str, message: str, cause: Exception | None = None) -> NoReturn:
    """Raise RefusedInput(DatasetUnusable)."""
    raise RefusedInput(Reason.DatasetUnusable, subject, printable(message)) from cause


def image_places(messages: tuple[dict[str, Any], ...]) -> int:
    """How many images `messages` say that they want."""
    return sum(
        part["type"] == "image"
        for message in messages
        if isinstance(message.get("content"), list)
        for part in message["content"]
    )


def _field(name: str, value: Any) -> str:
    return f"`{name[:40]}`" + (" (null)" if value is None else "")


def _message(message: Any, place: str, index: int) -> dict[str, Any]:
    """A message as a chat template may see it: without the empty fields that Parquet fills in."""
    name = f"`messages[{index}]` of {place}"
    if not isinstance(message, dict) or not isinstance(message.get("role"), str):
        refuse(place, f"{name} is {quoted(message)}; give it a `role` and a `content`.")
    kept: dict[str, Any] = _without_nothing(message)
    content = message.get("content")
    if isinstance(content, list):
        kept["content"] = [_part(part, at, name, place) for at, part in enumerate(content)]
    elif content is None or isinstance(content, str):
        kept["content"] = content
    else:
        refuse(place, f"`content` of {name} is {quoted(content)}; make it a string or a list.")
    return kept


def _part(part: Any, at: int, message: str, place: str) -> dict[str, Any]:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind == "image":
        # Whatever address it carries stays unread: images come from `images`, in order.
        return {"type": "image"}
    if kind == "text" and isinstance(part.get("text"), str):
        return {"type": "text", "text": part["text"]}
    refuse(
        place,
        f"`content[{at}]` of {message} is {quoted(part)}; a part is `type: text` with its `text`, "
        "or `type: image`, and its picture stands in `images`.",
    )


def _without_nothing(value: Any) -> Any:
    """`value` without entries that are null, at any depth.

    In Parquet every row has every field that any row has, and templates ask only whether one is
    there.
    """
    if isinstance(value, dict):
        return {key: _without_nothing(inner) for key, inner in value.items() if inner is not None}
    return [_without_nothing(inner) for inner in value] if isinstance(value, list) else value
