"""Architecture tables: from the names on disk to roles and to the groups that a server fuses.

One module a family. `find(config)` gives the table for a `config.json`.
"""

from typing import Any

from halftone.checkpoint.architectures import gemma4, llama, qwen3, qwen3_5
from halftone.checkpoint.architectures.generic import GENERIC
from halftone.checkpoint.architectures.table import Architecture

ARCHITECTURES: tuple[Architecture, ...] = (
    *qwen3_5.ARCHITECTURES,
    *gemma4.ARCHITECTURES,
    *qwen3.ARCHITECTURES,
    *llama.ARCHITECTURES,
)

_BY_MODEL_TYPE = {mt: table for table in ARCHITECTURES for mt in table.model_types}


def find(config: dict[str, Any]) -> Architecture | None:
    """The table for `config["model_type"]`, or None when no table names it."""
    model_type = config.get("model_type")
    return _BY_MODEL_TYPE.get(model_type) if isinstance(model_type, str) else None


def text_config(config: dict[str, Any]) -> dict[str, Any]:
    """The language model's part of a configuration: `text_config`, or all of it."""
    nested = config.get("text_config")
    return nested if isinstance(nested, dict) else config


__all__ = ["ARCHITECTURES", "GENERIC", "Architecture", "find", "text_config"]
