"""Layers that read another layer's KV cache, as the smaller Gemma 4 models have them.

We test these aspects:
- measured scales are refused for them, because vLLM decodes a shared cache with other scales than
  it was written with; scales of 1.0, a 16-bit cache, and models without such layers are planned
"""

from pathlib import Path
from typing import Any

import pytest

from halftone.spec.names import Reason
from tests.builders import tiny_config, write_checkpoint
from tests.commands import plan_directory
from tests.quantizing import recipe

CALIBRATED = {"kvCache": {"format": "FP8", "scales": "Calibrated"}}


def refusal(folder: Path, shared: int, **cache: Any) -> Any:
    config = tiny_config("gemma4_unified", num_kv_shared_layers=shared)
    write_checkpoint(folder / "source", config)
    return plan_directory(folder / "source", recipe(cache, Mlp="NVFP4")).plan.refusal


def test_measured_scales_of_a_shared_cache_are_refused(tmp_path: Path) -> None:
    found = refusal(tmp_path, 3, **CALIBRATED)

    assert (found.reason, found.subject) == (Reason.NotSupported, "quantization.kvCache.scales")
    assert "`num_kv_shared_layers` of `config.json` is 3" in found.message
    assert "set `quantization.kvCache.scales` to Unit" in found.message


@pytest.mark.parametrize(
    ("shared", "cache"),
    [(0, CALIBRATED), (3, {"kvCache": {"format": "FP8", "scales": "Unit"}}), (3, {})],
)
def test_others_are_planned(shared: int, cache: dict[str, Any], tmp_path: Path) -> None:
    assert refusal(tmp_path, shared, **cache) is None
