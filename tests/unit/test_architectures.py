"""Every tensor of every family has one role, and every group that a server fuses has one name."""

import re
from collections import Counter, defaultdict
from typing import Literal

import pytest

from halftone.checkpoint.architectures import ARCHITECTURES, GENERIC, find
from halftone.checkpoint.architectures.table import ServedScale
from halftone.checkpoint.quantization_config import quantization_config
from halftone.spec.recipes import load_recipe
from halftone.spec.roles import Role
from halftone.validate.inventory import layer_of
from tests.builders import TINY, shapes, tiny_config


def groups_of(model: str) -> dict[str, list[str]]:
    config = tiny_config(model)
    table = find(config)
    assert table is not None
    groups: defaultdict[str, list[str]] = defaultdict(list)
    for name in shapes(config):
        group = table.place(name).group
        if group is not None:
            groups[group].append(name.rpartition(".")[0].rpartition(".")[2])
    return groups


@pytest.mark.parametrize("digit", ["\N{SUPERSCRIPT TWO}", "\N{ARABIC-INDIC DIGIT THREE}"])
def test_only_plain_digits_number_a_layer(digit: str) -> None:
    table = find(tiny_config("llama"))
    assert table is not None
    assert not table.place(f"model.layers.{digit}.self_attn.q_proj.weight").listed
    assert layer_of(f"model.layers.{digit}.self_attn.q_proj") is None
    assert layer_of("model.layers.12.self_attn.q_proj") == ("model.", 12)


@pytest.mark.parametrize(
    ("model", "experts"),
    [
        *((model, "PerExpert") for model in TINY),
        *((model, "Fused") for model in ("qwen3_5_moe", "qwen3_moe", "mixtral")),
    ],
)
def test_every_tensor_is_listed(model: str, experts: Literal["PerExpert", "Fused"]) -> None:
    config = tiny_config(model)
    table = find(config)
    assert table is not None
    layout = shapes(config, experts=experts)
    assert [name for name in layout if not table.place(name).listed] == []


@pytest.mark.parametrize(
    ("model", "group", "members"),
    [
        ("qwen3", "model.layers.0.self_attn.qkv_proj", ["q_proj", "k_proj", "v_proj"]),
        ("qwen3_5", "model.language_model.layers.0.linear_attn.in_proj_qkvz", 2),
        ("qwen3_5", "model.language_model.layers.0.linear_attn.in_proj_ba", 2),
        ("qwen3_5", "model.language_model.layers.0.mlp.gate_up_proj", ["gate_proj", "up_proj"]),
        ("qwen3_5_text", "model.layers.3.self_attn.qkv_proj", 3),
        ("qwen3_5_moe", "model.language_model.layers.0.mlp.experts.7.gate_up_proj", 2),
        ("qwen3_5_moe", "model.language_model.layers.0.mlp.shared_expert.gate_up_proj", 2),
        ("qwen3_5_moe", "mtp.layers.0.mlp.experts.0.gate_up_proj", 2),
        ("gemma4_unified", "model.language_model.layers.0.self_attn.qkv_proj", 3),
        ("mixtral", "model.layers.0.block_sparse_moe.experts.0.w13", ["w1", "w3"]),
    ],
)
def test_fused_groups_have_the_members_that_a_server_merges(
    model: str, group: str, members: list[str] | int
) -> None:
    found = groups_of(model)[group]
    if isinstance(members, int):
        assert len(found) == members
    else:
        assert sorted(found) == sorted(members)


def test_layers_without_v_proj_fuse_q_and_k_alone() -> None:
    group = groups_of("gemma4_unified")["model.language_model.layers.2.self_attn.qkv_proj"]
    assert sorted(group) == ["k_proj", "q_proj"]


@pytest.mark.parametrize(
    ("model", "tensor", "role"),
    [
        ("qwen3_5_moe", "model.language_model.layers.0.mlp.gate.weight", Role.Router),
        ("qwen3_5_moe", "model.language_model.layers.0.mlp.shared_expert_gate.weight", Role.Router),
        ("qwen3_5_moe", "model.language_model.layers.0.mlp.experts.gate_up_proj", Role.Experts),
        (
            "qwen3_5",
            "model.language_model.layers.0.linear_attn.in_proj_a.weight",
            Role.LinearAttentionGate,
        ),
        ("qwen3_5", "model.language_model.layers.0.linear_attn.A_log", Role.Other),
        ("qwen3_5", "model.language_model.layers.0.linear_attn.conv1d.weight", Role.Other),
        ("qwen3_5", "model.language_model.layers.0.linear_attn.norm.weight", Role.Norm),
        ("qwen3_5", "model.visual.blocks.0.norm1.weight", Role.Vision),
        ("qwen3_5", "model.visual.merger.linear_fc1.weight", Role.Projector),
        ("qwen3_5", "mtp.layers.0.self_attn.q_proj.weight", Role.MultiTokenPrediction),
        ("qwen3_5", "lm_head.weight", Role.LmHead),
        ("gemma4_unified", "model.embed_audio.embedding_projection.weight", Role.Audio),
        ("gemma4_unified", "model.embed_vision.embedding_projection.weight", Role.Projector),
        ("gemma4_unified", "model.vision_embedder.patch_dense.weight", Role.Vision),
        ("llama", "model.embed_tokens.weight", Role.Embedding),
        ("mixtral", "model.layers.0.block_sparse_moe.gate.weight", Role.Router),
    ],
)
def test_roles_of_names_that_are_easy_to_mistake(model: str, tensor: str, role: Role) -> None:
    table = find(tiny_config(model))
    assert table is not None
    assert table.place(tensor).role is role


def test_experts_are_served_with_the_gates_scale_and_linear_layers_with_the_largest() -> None:
    table = find(tiny_config("qwen3_5_moe"))
    assert table is not None
    served = {row.path: row.served for row in table.rows if row.fused}
    assert served["layers.*.mlp.experts.*.gate_proj"] is ServedScale.First
    assert served["layers.*.mlp.shared_expert.gate_proj"] is ServedScale.Largest


def test_layers_outside_the_language_model_are_not_taken_for_its_own() -> None:
    table = find(tiny_config("llama"))
    assert table is not None
    assert table.place("layers.0.self_attn.q_proj.weight").role is Role.Other
    assert not table.place("layers.0.self_attn.q_proj.weight").listed
    assert table.place("lm_head.weight").role is Role.LmHead


@pytest.mark.parametrize("model", TINY)
def test_expressions_match_exactly_what_the_table_places(model: str) -> None:
    config = tiny_config(model)
    table = find(config)
    assert table is not None
    recipe = load_recipe("nvfp4a16")
    block = quantization_config(table, recipe, Role)
    (group,) = block["config_groups"].values()
    wanted = {line.role for line in recipe.precision}
    for name in shapes(config):
        place = table.place(name)
        quantized = place.role in wanted and place.parameter == "weight"
        module = name.removesuffix(".weight")
        targeted = any(re.match(t.removeprefix("re:"), module) for t in group["targets"])
        ignored = any(
            re.match(i.removeprefix("re:"), module) if i.startswith("re:") else i == module
            for i in block["ignore"]
        )
        assert targeted == quantized, name
        assert not (quantized and ignored), name


def test_no_two_tables_claim_one_model_type() -> None:
    counts = Counter(model for table in ARCHITECTURES for model in table.model_types)
    assert [model for model, count in counts.items() if count > 1] == []


@pytest.mark.parametrize("model", ["llama", "qwen3_moe"])
def test_the_generic_table_agrees_where_a_family_is_plain(model: str) -> None:
    config = tiny_config(model)
    table = find(config)
    assert table is not None
    for name in shapes(config):
        own, generic = table.place(name), GENERIC.place(name)
        assert (generic.role, generic.group) == (own.role, own.group), name
