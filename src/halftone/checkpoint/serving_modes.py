"""How a family is served in a mode: the rows of `serving_modes.yaml`, and which of them fit.

The endpoint makes vLLM's arguments of them and a model card its command lines; both ask here. What
a row `needs` is judged by its reader, who knows the checkpoint. Pure: it must not look at a device.
"""

from collections.abc import Iterable, Mapping
from enum import StrEnum
from functools import cache
from importlib.resources import files
from typing import Any, Final, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field

from halftone.spec.formats import Format
from halftone.spec.serving import ServingMode

_TABLE: Final = "serving_modes.yaml"
# Parts of a `config.json` that describe what sees and hears.
_TOWERS: Final = ("vision_config", "audio_config")
# Files without one of which a server cannot prepare an image.
PROCESSOR_FILES: Final = ("preprocessor_config.json", "processor_config.json")


class Need(StrEnum):
    """What must be there for a row, beside what selects it."""

    Processor = "processor"  # a file that says how images are prepared
    ChatTemplate = "chatTemplate"
    Head = "head"  # a multi-token-prediction head, in files and configuration
    Context = "context"  # a context as long as the row's `max_model_len`
    Vocabulary = "vocabulary"  # a draft that counts tokens as the model does
    PlainPositions = "plainPositions"  # a draft without sections in its rotary embedding


class ModeRow(BaseModel):
    """One row; a selector that is None fits everything, `drafts` None fits no draft."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    mode: ServingMode
    families: tuple[str, ...] | None = None
    formats: tuple[Format, ...] | None = None
    towers: bool | None = None
    drafts: tuple[str, ...] | Literal["any"] | None = None
    needs: tuple[Need, ...] = ()
    arguments: dict[str, Any]
    sources: tuple[str, ...]


class ModeKey(BaseModel):
    """What selects a row: a checkpoint, and the `model_type` of its draft if it has one."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    family: str | None
    formats: frozenset[Format] = Field(default_factory=frozenset)
    towers: bool
    draft: str | None = None


class ConflictingModes(ValueError):
    """Two modes want different values of one argument."""


@cache
def mode_rows() -> tuple[ModeRow, ...]:
    """Every row, in the table's order."""
    table = yaml.safe_load(files("halftone.checkpoint").joinpath(_TABLE).read_text("utf-8"))
    return tuple(ModeRow.model_validate(row) for row in table["rows"])


def find_row(mode: ServingMode, key: ModeKey) -> ModeRow | None:
    """The first row of `mode` that fits; None where the table does not know how."""
    return next((row for row in mode_rows() if row.mode is mode and _fits(row, key)), None)


def merged(rows: Iterable[ModeRow]) -> dict[str, Any]:
    """The arguments of all `rows`; raises ConflictingModes where two disagree."""
    arguments: dict[str, Any] = {}
    given: dict[str, ServingMode] = {}
    for row in rows:
        for name, value in row.arguments.items():
            if name in arguments and arguments[name] != value:
                raise ConflictingModes(
                    f"`modes` has '{given[name]}' and '{row.mode}', which give `{name}` different "
                    f"values, {arguments[name]!r} and {value!r}; serve them as two endpoints."
                )
            arguments[name] = value
            given[name] = row.mode
    return arguments


def has_towers(config: Mapping[str, Any]) -> bool:
    """Whether the model of this `config.json` has parts that see or hear."""
    return any(isinstance(config.get(part), Mapping) for part in _TOWERS)


def _fits(row: ModeRow, key: ModeKey) -> bool:
    return (
        (row.families is None or key.family in row.families)
        and (row.formats is None or not key.formats.isdisjoint(row.formats))
        and (row.towers is None or row.towers is key.towers)
        and _takes(row, key.draft)
    )


def _takes(row: ModeRow, draft: str | None) -> bool:
    if row.mode is not ServingMode.Speculative:
        return True
    if draft is None or row.drafts is None:
        return draft is None and row.drafts is None
    return row.drafts == "any" or draft in row.drafts
