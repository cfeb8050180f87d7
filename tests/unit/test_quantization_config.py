"""The `quantization_config` that is written, and what it replaces."""

from halftone.checkpoint.architectures import find
from halftone.checkpoint.quantization_config import quantized_model_config
from halftone.spec.job import MultiTokenPrediction
from halftone.spec.recipes import load_recipe
from halftone.spec.roles import Role
from tests.builders import tiny_config
from tests.quantizing import recipe


def test_no_quantization_block_of_the_source_survives_anywhere() -> None:
    config = tiny_config("qwen3_5")
    old = {"quant_method": "fp8"}
    config |= {"quantization_config": old, "compression_config": old}
    config["text_config"] = config["text_config"] | {"quantization_config": old}
    table = find(config)
    assert table is not None

    written = quantized_model_config(config, table, load_recipe("nvfp4a16"), Role)

    assert written["quantization_config"]["quant_method"] == "compressed-tensors"
    assert "compression_config" not in written
    assert "quantization_config" not in written["text_config"]
    assert config["quantization_config"] is old


def test_a_dropped_prediction_head_is_no_longer_promised() -> None:
    config = tiny_config("qwen3_5")
    table = find(config)
    assert table is not None
    dropping = load_recipe("nvfp4a16").model_copy(
        update={"multiTokenPrediction": MultiTokenPrediction.Drop}
    )

    written = quantized_model_config(config, table, dropping, Role)

    assert config["text_config"]["mtp_num_hidden_layers"] == 1
    assert written["text_config"]["mtp_num_hidden_layers"] == 0


def test_formats_of_one_layout_share_a_group_and_others_are_mixed() -> None:
    table = find(tiny_config("qwen3_5"))
    assert table is not None
    one = quantized_model_config({}, table, load_recipe("nvfp4a16"), Role)["quantization_config"]
    two = quantized_model_config({}, table, load_recipe("nvfp4a16-fp8-linear-attention"), Role)
    assert (one["format"], len(one["config_groups"])) == ("nvfp4-pack-quantized", 1)
    mixed = two["quantization_config"]
    assert (mixed["format"], len(mixed["config_groups"])) == ("mixed-precision", 2)


def test_a_kv_cache_is_asked_for_only_where_the_recipe_does() -> None:
    table = find(tiny_config("gemma4_unified"))
    assert table is not None
    for name, asked in (("nvfp4a16", False), ("nvfp4-mlp", True)):
        block = quantized_model_config({}, table, load_recipe(name), Role)["quantization_config"]
        assert (block["kv_cache_scheme"] is not None) is asked


def test_static_fp8_has_one_scale_for_weights_and_one_for_activations() -> None:
    table = find(tiny_config("qwen3_5"))
    assert table is not None

    block = quantized_model_config({}, table, recipe(Mlp="FP8"), Role)["quantization_config"]

    group = block["config_groups"]["group_0"]
    assert (block["format"], group["format"]) == ("float-quantized", "float-quantized")
    scheme = {"num_bits": 8, "type": "float", "symmetric": True, "strategy": "tensor"}
    assert group["weights"] == group["input_activations"] == scheme | {"dynamic": False}
