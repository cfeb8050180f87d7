"""The source's own model card: the few fields that a derived model's card carries over.

It is text that anyone wrote, so a field that is not of the form that the Hub asks for is left out.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from halftone.spec.model_cards import MOST_CARD_BYTES, front_matter, stated_licences

_IDENTIFIER: Final = re.compile(r"^[\w.+-]{1,100}$", re.ASCII)
_REPOSITORY: Final = re.compile(r"^[\w.-]{1,96}/[\w.-]{1,96}$", re.ASCII)
_LANGUAGE: Final = re.compile(r"^[a-zA-Z]{2,3}(-[a-zA-Z]{2,8})?$|^(code|multilingual)$")
_LINK: Final = re.compile(r"^(https?://[^\s<>\"']+|[\w./-]+)$", re.ASCII)


@dataclass(frozen=True)
class SourceCard:
    """What the source's card says; an absent or unusable field is None or empty."""

    licences: tuple[str, ...] = ()
    licence_name: str | None = None
    licence_link: str | None = None
    languages: tuple[str, ...] = ()
    pipeline_tag: str | None = None
    base_models: tuple[str, ...] = ()


def read_source_card(text: str | None) -> SourceCard:
    """The fields of the card `text`; an empty SourceCard without one, or without metadata."""
    fields = front_matter((text or "")[:MOST_CARD_BYTES])
    return SourceCard(
        licences=stated_licences(fields),
        licence_name=_one(fields, "license_name", _IDENTIFIER),
        licence_link=_one(fields, "license_link", _LINK),
        languages=_all(fields, "language", _LANGUAGE),
        pipeline_tag=_one(fields, "pipeline_tag", _IDENTIFIER),
        base_models=_all(fields, "base_model", _REPOSITORY),
    )


def _all(fields: Mapping[Any, Any], name: str, form: re.Pattern[str]) -> tuple[str, ...]:
    """A field that may be one value or a list of them."""
    value = fields.get(name)
    values = value if isinstance(value, list) else [value]
    fitting = (v for v in values if isinstance(v, str) and form.fullmatch(v))
    return tuple(dict.fromkeys(fitting))


def _one(fields: Mapping[Any, Any], name: str, form: re.Pattern[str]) -> str | None:
    return next(iter(_all(fields, name, form)), None)
