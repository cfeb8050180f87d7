"""A plan warns of what today's vLLM cannot load, although the format can store it."""

from pathlib import Path

import pytest

from halftone.spec.documents import Notice
from halftone.spec.names import WarningReason
from tests.builders import Config, tiny_config, write_checkpoint
from tests.commands import plan_directory


def server_warnings(directory: Path, model: str | Config, recipe: str) -> list[Notice]:
    plan = plan_directory(write_checkpoint(directory, model), recipe).plan
    assert plan.refusal is None
    return [w for w in plan.warnings if w.reason is WarningReason.ServerCannotLoad]


def test_weight_only_fp8_blocks_are_warned_of_once_for_experts_and_once_for_others(
    tmp_path: Path,
) -> None:
    config = tiny_config(
        "qwen3_5_moe", moe_intermediate_size=128, shared_expert_intermediate_size=128
    )
    warnings = server_warnings(tmp_path / "a16", config, "fp8-block-a16")
    experts = next(notice for notice in warnings if ".mlp.experts.0." in notice.subject)
    (other,) = (notice for notice in warnings if notice is not experts)
    assert "give Experts the format FP8_BLOCK." in experts.message
    assert "AssertionError" in other.message
    assert other.message.endswith("the format FP8_DYNAMIC.")
    assert server_warnings(tmp_path / "block", config, "fp8-block") == []


@pytest.mark.parametrize("model", ["qwen3", "qwen3_5_moe"])
def test_blocks_that_do_not_come_out_even_in_a_merged_matrix_are_warned_of(
    tmp_path: Path, model: str
) -> None:
    config = tiny_config(model, num_key_value_heads=1)  # k and v have 64 rows
    (notice,) = server_warnings(tmp_path / model, config, "fp8-block")
    assert "64 rows" in notice.message
    assert notice.subject in notice.message


@pytest.mark.parametrize("recipe", ["nvfp4a16", "fp8-dynamic"])
def test_formats_without_blocks_are_not_warned_of(tmp_path: Path, recipe: str) -> None:
    config = tiny_config("qwen3", num_key_value_heads=1)
    assert server_warnings(tmp_path / recipe, config, recipe) == []
