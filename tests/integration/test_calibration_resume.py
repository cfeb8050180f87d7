"""Kill a calibration at any moment and run it again: the statistics are those of a quiet run.

Each case is some processes on one output directory, all but the last killed. Moments are counted
inside: every change of the directory, and every sample that went through a layer.

We test these aspects:
- killed at seeded moments, in CI, and at every moment, by hand: the same bytes, nothing that looks
  like statistics before they are whole, and nothing left over afterwards
- a layer that was measured is not measured again
- what lies there of other data is begun anew, and of another plan is refused
- a damaged journal, or a value that is missing, proves nothing
"""

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.builders import write_checkpoint
from tests.builders.datasets import chat_rows, text_rows, write_images, write_rows
from tests.environments import ask

pytestmark = [pytest.mark.quantize_env, pytest.mark.timeout(60)]

Answer = list[dict[str, Any]]

# A quiet run of this model and these data has so many moments, and a few more.
MOMENTS = 110
PARTIAL = ".statistics.partial"


class Work:
    """A source, its rows, and outputs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        write_checkpoint(folder / "source", "qwen3_5", multi_token_prediction=False)
        pictures = write_images(folder / "pictures", 2)
        write_rows(folder / "rows.jsonl", [*text_rows(3), *chat_rows(2, images=pictures)])
        write_rows(folder / "other.jsonl", [*text_rows(3, seed=1), *chat_rows(2, images=pictures)])

    def case(
        self, name: str, kills: list[int], rows: str = "rows.jsonl", role: str = "Mlp"
    ) -> dict[str, Any]:
        """A question to the peer."""
        return {
            "source": str(self.folder / "source"),
            "output": str(self.folder / "out" / name),
            "kills": kills,
            "quantization": {
                "precision": [{"role": role, "format": "NVFP4"}],
                "kvCache": {"format": "FP8", "scales": "Calibrated"},
                "calibration": {
                    "dataset": {"path": str(self.folder / rows)},
                    "samples": 2,
                    "modalities": ["Text", "Image"],
                },
            },
        }

    def ask(self, cases: list[dict[str, Any]], timeout_s: int) -> list[Answer]:
        """Every case, by processes of one peer."""
        (self.folder / "out").mkdir(exist_ok=True)
        found: list[Answer] = ask(
            "quantize", "calibration_kills.py", cases, work=self.folder, timeout_s=timeout_s
        )
        return found
