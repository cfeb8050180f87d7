"""The head of a source's model card, as far as planning and our own card both read it.

It is text that anyone wrote. The plan's licence decides who may publish where, and the card states
it, so both have it from here.
"""

import re
from collections.abc import Mapping
from typing import Any, Final

from halftone.spec.yaml_text import NotYamlError, parse_yaml

# As much of a card as is read.
MOST_CARD_BYTES: Final = 65_536
# What an identifier may consist of; anything else in its place is no licence.
_IDENTIFIER: Final = re.compile(r"[a-z0-9][\w.+-]{0,99}", re.ASCII | re.IGNORECASE)
_FRONT: Final = re.compile(r"\A\ufeff?---[ \t]*\r?\n(.*?)^---[ \t]*\r?$", re.DOTALL | re.MULTILINE)
# The Hub's word for a licence that has none.
_UNNAMED: Final = "other"


def front_matter(card: str) -> dict[Any, Any]:
    """The fields between the lines of dashes; empty without any, and where they are no YAML."""
    found = _FRONT.match(card)
    try:
        fields = parse_yaml(found[1]) if found else None
    except NotYamlError:
        return {}
    return fields if isinstance(fields, dict) else {}


def stated_licences(fields: Mapping[Any, Any]) -> tuple[str, ...]:
    """The identifiers under `license`, each once.

    Where a list holds something else beside them, `other` stands for it: nobody has read that one.
    """
    stated = fields.get("license")
    listed = stated if isinstance(stated, list) else [stated]
    names = [name for name in listed if isinstance(name, str) and _IDENTIFIER.fullmatch(name)]
    if names and len(names) < len(listed):
        names.append(_UNNAMED)
    return tuple(dict.fromkeys(names))
