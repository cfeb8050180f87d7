"""A verified checkpoint on this machine's disk: what `weights` gives and all else here reads."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from halftone.spec.capacity import CapacityCard
from halftone.spec.documents import Plan
from halftone.spec.reports import Report


@dataclass(frozen=True)
class ServedModel:
    """The directory `path` holds what vLLM loads; every byte of it was verified.

    `digest` is the checkpoint's, and names it in the cache. `config` is its `config.json`. `plan`
    and `report` are None for a checkpoint that Halftone did not publish. `cards` are its capacity
    cards, each as trusted as the rest.
    """

    path: Path
    uri: str
    digest: str
    config: Mapping[str, Any]
    plan: Plan | None
    report: Report | None
    cards: tuple[CapacityCard, ...] = ()
