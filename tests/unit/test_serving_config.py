"""What a server makes of a quantization block, name by name.

The same rules are held against vLLM's own classes in `integration/test_inspect_peers.py`; here
stand the cases that people meet.
"""

from typing import Any

import pytest

from halftone.checkpoint.architectures import find
from halftone.checkpoint.serving_config import expert_parts, merged_parts, read_rules, runtime_name
from halftone.checkpoint.serving_rules import (
    Activations,
    ModuleKind,
    QuantMethod,
    Scheme,
    ServedModule,
    WeightLayout,
    WillNotLoad,
)

NVFP4A16 = Scheme(WeightLayout.Nvfp4, Activations.Kept)
NVFP4 = Scheme(WeightLayout.Nvfp4, Activations.Static)
LAYER = "language_model.model.layers.2"
QKV = ServedModule(f"{LAYER}.self_attn.qkv_proj", ModuleKind.Linear, ("q_proj", "k_proj", "v_proj"))
DOWN = ServedModule(f"{LAYER}.mlp.down_proj", ModuleKind.Linear)
EXPERTS = ServedModule(
    f"{LAYER}.mlp.experts", ModuleKind.RoutedExperts, ("gate_proj", "up_proj", "down_proj")
)
HEAD = ServedModule("language_model.lm_head", ModuleKind.LmHead)


def compressed_tensors(targets: list[str], ignore: list[str], **inputs: Any) -> dict[str, Any]:
    weights = {"num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16}
    group = {"targets": targets, "weights": weights, "input_activations": inputs or None}
    block = {"quant_method": "compressed-tensors", "config_groups": {"0": group}, "ignore": ignore}
    return {"quantization_config": block}


def modelopt(algorithm: str, ignore: list[str], **more: Any) -> dict[str, Any]:
    block = {"quant_method": "modelopt", "quant_algo": algorithm, "ignore": ignore} | more
    return {"quantization_config": block}


def scheme(config: dict[str, Any], module: ServedModule) -> Scheme | None:
    return read_rules(config, None, multimodal=True).scheme_of(module)


def test_names_on_disk_become_those_of_a_multimodal_server() -> None:
    assert runtime_name("model.language_model.layers.0.mlp", True) == (
        "language_model.model.layers.0.mlp"
    )
    assert runtime_name("model.visual.merger", True) == "visual.merger"
    assert runtime_name("lm_head", True) == "language_model.lm_head"
    assert runtime_name("mtp.fc", True) == "mtp.fc"
    assert runtime_name("model.layers.0.mlp", False) == "model.layers.0.mlp"


def test_merged_layers_and_experts_come_from_the_architecture_table() -> None:
    table = find({"model_type": "mixtral"})
    assert table is not None
    rows = {row.path: row for row in table.rows}
    assert merged_parts(table) == {"qkv_proj": ("q_proj", "k_proj", "v_proj")}
    assert expert_parts(table, rows["layers.*.block_sparse_moe.experts.*.w2"]) == ("w1", "w3", "w2")
    hybrid = find({"model_type": "qwen3_5"})
    assert hybrid is not None
    assert merged_parts(hybrid)["in_proj_qkvz"] == ("in_proj_qkv", "in_proj_z")


def test_linear_targets_every_linear_layer_and_experts_but_no_head() -> None:
    config = compressed_tensors(["Linear"], [])
    assert scheme(config, QKV) == NVFP4A16
    assert scheme(config, EXPERTS) == NVFP4A16
    assert scheme(config, HEAD) is None


def test_an_enumerated_ignore_list_without_v_does_not_load() -> None:
    """Gemma 4's full-attention layers have no `v_proj`, so nobody enumerates it."""
    names = [f"model.language_model.layers.2.self_attn.{part}" for part in ("q_proj", "k_proj")]
    with pytest.raises(WillNotLoad, match=r"not 'language_model.*layers\.2\.self_attn\.v_proj'"):
        scheme(compressed_tensors(["Linear"], names), QKV)
    assert scheme(compressed_tensors(["Linear"], ["re:.*self_attn.*"]), QKV) is None


def test_an_ignore_that_names_the_merged_layer_is_enough() -> None:
    config = compressed_tensors(["Linear"], [r"re:.*qkv_proj$"])
    assert scheme(config, QKV) is None
    assert scheme(config, DOWN) == NVFP4A16


def test_a_merged_layer_is_targeted_only_when_all_parts_are() -> None:
    assert scheme(compressed_tensors([r"re:.*(q|k)_proj$"], []), QKV) is None
    assert scheme(compressed_tensors([r"re:.*(q|k|v)_proj$"], []), QKV) == NVFP4A16


def test_expressions_are_anchored_at_the_start_only() -> None:
    assert scheme(compressed_tensors(["re:self_attn"], []), QKV) is None
    assert scheme(compressed_tensors([r"re:language_model\.model\.layers"], []), DOWN) == NVFP4A16


def test_experts_with_two_schemes_do_not_load() -> None:
    with pytest.raises(WillNotLoad, match="different schemes"):
        scheme(compressed_tensors(["Linear"], [r"re:.*experts\.\d+\.down_proj"]), EXPERTS)


def test_activations_in_four_bits_need_a_stored_scale() -> None:
    assert scheme(compressed_tensors(["Linear"], [], dynamic="local"), DOWN) == NVFP4


def test_a_broken_expression_is_a_finding_and_no_crash() -> None:
    with pytest.raises(WillNotLoad, match=r"'.unclosed' is not a regular expression"):
        scheme(compressed_tensors(["Linear"], ["re:(unclosed"]), DOWN)


def test_names_that_were_prepared_get_the_same_answers() -> None:
    listed = ["lm_head", r"re:.*(q|k|v)_proj$", "language_model.lm_head", r"re:.*\.mlp\..*"]
    config = compressed_tensors(["Linear", r"re:.*down_proj"], listed)
    rules = read_rules(config, None, multimodal=True)
    rules.prepare([QKV, DOWN, EXPERTS, HEAD])
    for module in (QKV, DOWN, EXPERTS, HEAD):
        assert rules.scheme_of(module) == scheme(config, module) is None


@pytest.mark.parametrize(
    ("ignore", "expected"),
    [
        (["model.language_model.layers.2*"], None),
        (["*self_attn*"], None),
        (["lm_head"], NVFP4),
        ([], NVFP4),
    ],
)
def test_modelopt_excludes_by_wildcards(ignore: list[str], expected: Scheme | None) -> None:
    assert scheme(modelopt("NVFP4", ignore), QKV) == expected


def test_modelopt_mixed_precision_answers_layer_by_layer() -> None:
    layers = {
        "model.language_model.layers.2.mlp.down_proj": {"quant_algo": "W4A16_NVFP4"},
        "model.language_model.layers.2.self_attn.q_proj": {"quant_algo": "FP8"},
        "model.language_model.layers.2.self_attn.k_proj": {"quant_algo": "NVFP4"},
    }
    config = modelopt("MIXED_PRECISION", [], quantized_layers=layers)
    assert scheme(config, DOWN) == NVFP4A16
    assert scheme(config, EXPERTS) == NVFP4A16  # that of the first entry beside them, as vLLM does
    with pytest.raises(WillNotLoad, match="different algorithms, FP8, NVFP4"):
        scheme(config, QKV)


@pytest.mark.parametrize("algorithm", ["FP8_PER_CHANNEL_PER_TOKEN", "fp8_pb_wo"])
def test_modelopts_experts_know_one_fp8_scale_a_matrix_only(algorithm: str) -> None:
    """As vLLM 0.32: its experts in FP8 are those with measured activations, or none at all."""
    per_tensor = Scheme(WeightLayout.Fp8Tensor, Activations.Static)
    assert scheme(modelopt(algorithm, []), EXPERTS) == per_tensor
    assert scheme(modelopt(algorithm, []), DOWN) != per_tensor
    layers = {"model.language_model.layers.2.mlp.experts": {"quant_algo": algorithm}}
    with pytest.raises(WillNotLoad, match="does not load routed experts"):
        scheme(modelopt("MIXED_PRECISION", [], quantized_layers=layers), EXPERTS)


def test_modelopts_own_file_counts_where_config_json_is_silent() -> None:
    own = {"quantization": {"quant_algo": "FP8", "exclude_modules": ["*self_attn*"]}}
    rules = read_rules({}, own, multimodal=True)
    assert rules.method is QuantMethod.ModelOpt
    assert rules.scheme_of(QKV) is None
    assert rules.scheme_of(DOWN) == Scheme(WeightLayout.Fp8Tensor, Activations.Static)
    assert read_rules({}, None, multimodal=True).method is QuantMethod.Absent


def test_an_unknown_modelopt_algorithm_is_refused() -> None:
    with pytest.raises(WillNotLoad, match="'W3A16'"):
        read_rules(modelopt("W3A16", []), None, multimodal=True)


def test_block_fp8_lists_exact_names() -> None:
    block = {
        "quant_method": "fp8",
        "weight_block_size": [128, 128],
        "modules_to_not_convert": ["model.language_model.layers.2.mlp.down_proj"],
    }
    config = {"text_config": {"quantization_config": block}}
    assert scheme(config, DOWN) is None
    assert scheme(config, EXPERTS) == Scheme(WeightLayout.Fp8Block, Activations.Dynamic)
    assert scheme(config, HEAD) is None


def test_nothing_is_concluded_from_a_method_that_is_not_known() -> None:
    rules = read_rules({"quantization_config": {"quant_method": "gptq"}}, None, multimodal=False)
    assert rules.method is QuantMethod.Unknown
