"""Checkpoints to inspect: sound ones made once a module, and copies spoiled in one way.

The fixture `made` itself is in `tests/unit/conftest.py`.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from halftone.spec.names import DefectKind
from halftone.validate.findings import Inspection
from tests.builders import Tensor, write_safetensors
from tests.builders import read_checkpoint as read_tensors

LAYERS = "model.language_model.layers"
Made = Callable[..., tuple[Path, Path]]


def spoiled(checkpoint: Path, target: Path, change: Callable[[dict[str, Tensor]], None]) -> Path:
    """A copy of a checkpoint of one shard whose tensors went through `change`."""
    shutil.copytree(checkpoint, target)
    tensors = read_tensors(target)
    change(tensors)
    write_safetensors(target / "model.safetensors", tensors)
    return target


def edit_config(directory: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = directory / "config.json"
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))


def found(inspection: Inspection) -> list[tuple[DefectKind, str]]:
    return [(defect.kind, defect.tensor) for defect in inspection.defects]


def number(value: float) -> Tensor:
    return Tensor("F32", (1,), np.float32(value).tobytes())


def drop(tensors: dict[str, Tensor], name: str) -> None:
    del tensors[name]
