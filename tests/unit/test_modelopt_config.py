"""ModelOpt's configuration from the formats of matrices, against what its export really writes.

We test these aspects:
- lists of kept modules are those of nvidia-modelopt 0.47's export for the same models
- a wildcard takes in no quantized module, also where layer 1 is kept and layer 10 is not
- all parts that a server merges are listed, also those that are not on disk
- several formats name every module, the experts of a layer as one; experts that differ are refused
"""

from collections.abc import Callable

import pytest

from halftone.checkpoint.architectures import find
from halftone.checkpoint.architectures.table import Architecture
from halftone.checkpoint.modelopt_config import excluded_modules, modelopt_block, modelopt_config
from halftone.spec.errors import RefusedInput
from halftone.spec.formats import Format
from tests.builders import Config, shapes, tiny_config

Formats = dict[str, Format | None]
Chosen = Callable[[str], Format | None]


def _formats(
    config: Config, chosen: Callable[[str], Format | None]
) -> tuple[Architecture, Formats]:
    """Every matrix of `config` with the format that `chosen` gives to its module's name."""
    table = find(config)
    assert table is not None
    modules = [
        name.removesuffix(".weight")
        for name, shape in shapes(config).items()
        if len(shape) > 1 and name.endswith(".weight")
    ]
    return table, {name: chosen(name) for name in modules}


def _nvfp4(*fragments: str) -> Chosen:
    return lambda name: Format.NVFP4 if any(part in name for part in fragments) else None


def _layers(*leaves: str) -> list[str]:
    return [f"model.layers.{layer}.{leaf}" for layer in range(3) for leaf in leaves]


GATES = ("linear_attn.conv1d", "linear_attn.in_proj_a", "linear_attn.in_proj_b")
ROUTERS = ("mlp.gate", "mlp.shared_expert_gate")
BIG = ("self_attn", "in_proj_qkv", "in_proj_z", "out_proj", "mlp.", "experts")


@pytest.mark.parametrize(
    ("model", "quantized", "kept"),
    [
        ("llama", ("_proj",), []),
        ("llama", ("mlp",), ["model.layers.0.self_attn*", "model.layers.1.self_attn*"]),
        ("qwen3_moe", ("_proj",), ["model.layers.0.mlp.gate", "model.layers.1.mlp.gate"]),
        ("qwen3_5_text", ("mlp",), [*_layers("linear_attn*"), "model.layers.3.self_attn*", "mtp*"]),
        ("qwen3_5_text", BIG, [*_layers(*GATES), "mtp*"]),
        (
            "qwen3_5_moe_text",
            BIG,
            [*_layers(*GATES, *ROUTERS), *(f"model.layers.3.{gate}" for gate in ROUTERS), "mtp*"],
        ),
    ],
)
def test_what_is_kept_is_listed_as_modelopts_export_does(
    model: str, quantized: tuple[str, ...], kept: list[str]
) -> None:
    def chosen(name: str) -> Format | None:
        plain = not name.startswith("mtp.") and not name.endswith(("gate", *GATES))
        return _nvfp4(*quantized)(name) if plain else None

    table, formats = _formats(tiny_config(model), chosen)

    # Its own export has no `mtp.`: transformers does not load a prediction head.
    assert excluded_modules(table, formats) == sorted(["lm_head", "model.embed_tokens", *kept])


def test_a_wildcard_takes_in_no_quantized_module() -> None:
    config = tiny_config("llama", num_hidden_layers=12)
    table, formats = _formats(
        config, lambda name: None if ".layers.1." in name else _nvfp4("_proj")(name)
    )

    assert excluded_modules(table, formats) == ["lm_head", "model.embed_tokens", "model.layers.1.*"]


def test_parts_that_are_not_on_disk_are_listed_with_what_a_server_merges_them_with() -> None:
    table, formats = _formats(tiny_config("gemma4_unified_text"), _nvfp4("mlp", "o_proj"))
    assert "model.layers.2.self_attn.v_proj" not in formats

    kept = excluded_modules(table, formats)

    assert {f"model.layers.2.self_attn.{part}_proj" for part in "qkv"} <= set(kept)
    assert "lm_head" in kept  # tied, and not on disk either


def test_several_formats_name_every_module_and_experts_once() -> None:
    def chosen(name: str) -> Format | None:
        return Format.FP8 if "self_attn" in name else _nvfp4("experts")(name)

    table, formats = _formats(tiny_config("qwen3_moe"), chosen)

    document = modelopt_config(table, formats, fp8_cache=True)
    layers = document["quantization"]["quantized_layers"]
    block = modelopt_block(document)

    assert "exclude_modules" not in document["quantization"]
    assert layers["model.layers.1.self_attn.k_proj"] == {"quant_algo": "FP8"}
    assert layers["model.layers.1.mlp.experts"] == {"quant_algo": "NVFP4", "group_size": 16}
    assert len(layers) == 2 * 5
    assert block["quantized_layers"] == layers
    assert block["config_groups"]["group_1"]["targets"] == [
        f"model.layers.{layer}.mlp.experts" for layer in range(2)
    ]


def test_experts_of_one_layer_in_two_formats_are_refused() -> None:
    def chosen(name: str) -> Format | None:
        if "experts" not in name:
            return None
        return Format.FP8 if "down_proj" in name else Format.NVFP4

    table, formats = _formats(tiny_config("qwen3_moe"), chosen)

    with pytest.raises(RefusedInput, match=r"other experts of `model\.layers\.0\.mlp\.experts`"):
        modelopt_config(table, formats, fp8_cache=False)
