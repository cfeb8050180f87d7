"""A plan warns of what today's vLLM cannot load, although the format can store it."""

from pathlib import Path

import pytest

from halftone.spec.documents import Notice
from halftone.spec.job import Recipe
from halftone.spec.names import WarningReason
from tests.builders import Config, tiny_config, write_checkpoint
from tests.commands import plan_directory
from tests.quantizing import recipe


def server_warnings(directory: Path, model: str | Config, chosen: str | Recipe) -> list[Notice]:
    plan = plan_directory(write_checkpoint(directory, model), chosen).plan
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


@pytest.mark.parametrize("layout", ["CompressedTensors", "ModelOpt"])
@pytest.mark.parametrize(
    ("heads", "told"),
    [
        ({"linear_num_key_heads": 1, "linear_num_value_heads": 2}, "it has 64 + 64 + 128 rows"),
        ({"linear_num_key_heads": 2, "linear_num_value_heads": 2}, None),
        # The values' heads are odd, and 4 of them are not.
        (
            {
                "linear_num_key_heads": 2,
                "linear_num_value_heads": 4,
                "linear_value_head_dim": 96,
            },
            None,
        ),
    ],
)
def test_queries_keys_and_values_of_a_delta_net_come_out_even_one_by_one(
    tmp_path: Path, heads: Config, told: str | None, layout: str
) -> None:
    """All three lie in one matrix, which vLLM takes apart before it merges them."""
    chosen = recipe({"checkpointFormat": layout}, LinearAttention="FP8_BLOCK")

    warnings = server_warnings(tmp_path / "source", tiny_config("qwen3_5", **heads), chosen)

    sentences = [notice.message for notice in warnings if "in_proj_qkv" in notice.subject]
    assert len(sentences) == (told is not None)
    assert all(f"will not load: {told}, and vLLM 0.32 merges it" in s for s in sentences)


@pytest.mark.parametrize("preset", ["nvfp4a16", "fp8-dynamic"])
def test_formats_without_blocks_are_not_warned_of(tmp_path: Path, preset: str) -> None:
    config = tiny_config("qwen3", num_key_value_heads=1)
    assert server_warnings(tmp_path / preset, config, preset) == []
