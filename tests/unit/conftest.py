"""What unit tests share: checkpoints that are made once a module."""

from pathlib import Path
from typing import Any

import pytest

from tests.builders import write_checkpoint
from tests.commands import quantize_directory
from tests.inspecting import Made


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """`made(model, recipe)`: source and checkpoint, each made once."""
    known: dict[Any, tuple[Path, Path]] = {}

    def make(model: str, recipe: str, experts: Any = "PerExpert") -> tuple[Path, Path]:
        key = (model, recipe, experts)
        if key not in known:
            folder = tmp_path_factory.mktemp("made")
            source = write_checkpoint(folder / "source", model, experts=experts)
            quantize_directory(source, folder / "out", recipe)
            known[key] = source, folder / "out"
        return known[key]

    return make
