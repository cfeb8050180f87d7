"""Inspection of tiny checkpoints: sound ones, and one spoiled for every kind of defect.

The sound ones are written by our engine; each test spoils a copy in one way and expects exactly
the defects that follow from it. What others write is in `integration/test_inspect_peers.py`.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from halftone.spec.names import DefectKind
from halftone.spec.recipes import load_recipe
from halftone.spec.roles import Role
from halftone.validate.findings import Extent
from halftone.validate.inspection import inspect_uri
from tests.builders import (
    Tensor,
    drop_tensors,
    set_value,
)
from tests.builders import read_checkpoint as read_tensors
from tests.inspecting import LAYERS, Made, drop, found, number, spoiled

pytestmark = pytest.mark.timeout(120)  # the first test of a fresh machine compiles kernels

# Sound ones ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "recipe"),
    [
        ("qwen3_5", "nvfp4a16"),
        ("qwen3_5", "nvfp4a16-fp8-linear-attention"),
        ("gemma4_unified", "nvfp4a16-mlp"),
        ("qwen3", "fp8-block"),
        ("qwen3_moe", "fp8-dynamic"),
        ("llama", "fp8-block-a16"),
    ],
)
def test_what_we_write_has_no_defects(made: Made, model: str, recipe: str) -> None:
    source, checkpoint = made(model, recipe)
    inspection = inspect_uri(str(checkpoint), str(source))
    assert inspection.defects == ()
    assert inspection.warnings == ()
    wanted = {line.role: str(line.format) for line in load_recipe(recipe).precision}
    for line in inspection.roles:
        assert line.format == wanted.get(line.role, line.format)
        assert line.relativeError == line.relativeErrorServing
    for group in inspection.groups:
        assert len(set(group.globalScales)) <= 1
        assert group.relativeErrorServing is not None
        assert group.relativeErrorServing < (0.12 if "NVFP4" in group.format else 0.03)
    assert inspection.read.weights.extent is Extent.Complete


def test_experts_stacked_in_the_source_are_compared_one_by_one(made: Made) -> None:
    source, checkpoint = made("qwen3_5_moe", "nvfp4a16", "Fused")
    inspection = inspect_uri(str(checkpoint), str(source))
    assert inspection.defects == ()
    experts = next(line for line in inspection.roles if line.role is Role.Experts)
    assert experts.relativeErrorServing == pytest.approx(0.095, abs=0.002)
    assert experts.tensors == 4 * 8 * 3  # four layers of eight experts of three matrices


def test_an_experts_own_error_does_not_depend_on_the_sources_layout(made: Made) -> None:
    errors = []
    for layout in ("Fused", "PerExpert"):
        source, checkpoint = made("qwen3_5_moe", "nvfp4a16", layout)
        errors.append([g.relativeError for g in inspect_uri(str(checkpoint), str(source)).groups])
    assert errors[0] == errors[1]


def test_roles_account_for_every_byte(made: Made) -> None:
    _, checkpoint = made("qwen3_5", "nvfp4a16")
    inspection = inspect_uri(str(checkpoint))
    stored = read_tensors(checkpoint)
    assert sum(line.bytes for line in inspection.roles) == sum(len(t.data) for t in stored.values())
    assert inspection.bytes == sum(line.bytes for line in inspection.roles)
    assert inspection.tensors == len(stored)


def test_a_full_precision_checkpoint_has_roles_and_no_groups(made: Made) -> None:
    source, _ = made("qwen3_5", "nvfp4a16")
    inspection = inspect_uri(str(source))
    assert (inspection.defects, inspection.groups, inspection.quantMethod) == ((), (), "none")
    assert {line.format for line in inspection.roles} == {"BF16"}
    assert inspection.read.index is Extent.Complete


# One defect each ----------------------------------------------------------------------------------


def test_unequal_global_scales_are_found_and_priced(made: Made, tmp_path: Path) -> None:
    source, checkpoint = made("qwen3_5", "nvfp4a16")
    name = f"{LAYERS}.1.mlp.up_proj.weight_global_scale"

    def change(tensors: dict[str, Tensor]) -> None:
        tensors[name] = number(np.frombuffer(tensors[name].data, np.float32)[0] * 1.25)

    inspection = inspect_uri(str(spoiled(checkpoint, tmp_path / "x", change)), str(source))

    group = f"{LAYERS}.1.mlp.gate_up_proj"
    assert (DefectKind.UnequalGlobalScales, f"{LAYERS}.1.mlp.gate_proj.weight_global_scale") in (
        found(inspection)
    )
    assert {kind for kind, _ in found(inspection)} == {
        DefectKind.UnequalGlobalScales,
        DefectKind.WeightErrorTooLarge,
    }
    line = next(g for g in inspection.groups if g.name == group)
    assert line.globalScales[1] == pytest.approx(1.25 * (line.globalScales[0] or 0))
    assert line.relativeErrorServing is not None
    assert line.relativeErrorServing > 0.15


def test_of_experts_a_server_keeps_the_gates_scale(made: Made, tmp_path: Path) -> None:
    source, checkpoint = made("qwen3_5_moe", "nvfp4a16")
    expert = f"{LAYERS}.0.mlp.experts.2"

    def change(tensors: dict[str, Tensor]) -> None:
        # Half the up projection's codes' worth: its own scale doubles, so it decodes to half.
        name = f"{expert}.up_proj.weight_global_scale"
        tensors[name] = number(np.frombuffer(tensors[name].data, np.float32)[0] * 2)

    inspection = inspect_uri(str(spoiled(checkpoint, tmp_path / "x", change)), str(source))

    line = next(g for g in inspection.groups if g.name == f"{expert}.gate_up_proj")
    # With the gate's scale, which was right for both, the server sees what was meant.
    assert line.relativeErrorServing == pytest.approx(0.095, abs=0.01)
    assert line.relativeError is not None
    assert line.relativeError > 0.3
    assert found(inspection) == [
        (DefectKind.UnequalGlobalScales, f"{expert}.up_proj.weight_global_scale")
    ]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 0.0, -4.0])
def test_a_global_scale_must_be_a_positive_number(made: Made, tmp_path: Path, value: float) -> None:
    _, checkpoint = made("qwen3_5", "nvfp4a16")
    name = f"{LAYERS}.0.mlp.down_proj.weight_global_scale"
    copy = spoiled(
        checkpoint, tmp_path / "x", lambda tensors: tensors.update({name: number(value)})
    )
    assert (DefectKind.NotFinite, name) in found(inspect_uri(str(copy)))


def test_an_infinity_that_a_kept_tensor_holds_is_the_models_business(
    made: Made, tmp_path: Path
) -> None:
    _, checkpoint = made("qwen3_5", "nvfp4a16")
    copy = spoiled(checkpoint, tmp_path / "x", lambda tensors: None)
    set_value(copy, "model.language_model.embed_tokens.weight", float("inf"))
    assert found(inspect_uri(str(copy))) == []


def test_nan_is_found_in_kept_weights_block_scales_and_fp8_codes(
    made: Made, tmp_path: Path
) -> None:
    _, checkpoint = made("qwen3_5", "nvfp4a16-fp8-linear-attention")
    kept = "model.language_model.embed_tokens.weight"
    scales = f"{LAYERS}.0.mlp.up_proj.weight_scale"
    codes = f"{LAYERS}.1.linear_attn.out_proj.weight"

    def change(tensors: dict[str, Tensor]) -> None:
        for name in (scales, codes):
            data = bytearray(tensors[name].data)
            data[5] = 0xFF
            tensors[name] = tensors[name]._replace(data=bytes(data))

    copy = spoiled(checkpoint, tmp_path / "x", change)
    set_value(copy, kept, float("nan"))
    assert set(found(inspect_uri(str(copy)))) == {
        (DefectKind.NotFinite, name) for name in (kept, scales, codes)
    }


@pytest.mark.parametrize("companion", ["weight_scale", "weight_global_scale"])
def test_codes_without_a_scale_are_found(made: Made, tmp_path: Path, companion: str) -> None:
    _, checkpoint = made("qwen3_5", "nvfp4a16")
    name = f"{LAYERS}.2.mlp.down_proj.{companion}"
    copy = spoiled(checkpoint, tmp_path / "x", lambda tensors: drop(tensors, name))
    assert found(inspect_uri(str(copy))) == [(DefectKind.MissingTensor, name)]


def test_a_scale_without_codes_is_found(made: Made, tmp_path: Path) -> None:
    _, checkpoint = made("qwen3", "nvfp4a16")
    shutil.copytree(checkpoint, tmp_path / "x")
    drop_tensors(tmp_path / "x", "layers.0.mlp.down_proj.weight_packed")
    kinds = {kind for kind, _ in found(inspect_uri(str(tmp_path / "x")))}
    assert DefectKind.UnexpectedTensor in kinds


def test_a_scale_of_another_shape_is_found(made: Made, tmp_path: Path) -> None:
    _, checkpoint = made("qwen3", "nvfp4a16")
    name = "model.layers.1.mlp.gate_proj.weight_scale"

    def change(tensors: dict[str, Tensor]) -> None:
        rows, columns = tensors[name].shape
        tensors[name] = tensors[name]._replace(shape=(columns, rows))

    copy = spoiled(checkpoint, tmp_path / "x", change)
    assert found(inspect_uri(str(copy))) == [(DefectKind.UnexpectedLayout, name)]


def test_a_group_of_two_formats_is_found(made: Made, tmp_path: Path) -> None:
    source, checkpoint = made("qwen3", "nvfp4a16")
    name = "model.layers.0.self_attn.k_proj"

    def change(tensors: dict[str, Tensor]) -> None:
        for suffix in ("weight_packed", "weight_scale", "weight_global_scale"):
            del tensors[f"{name}.{suffix}"]
        tensors[f"{name}.weight"] = read_tensors(source)[f"{name}.weight"]

    copy = spoiled(checkpoint, tmp_path / "x", change)
    assert found(inspect_uri(str(copy))) == [(DefectKind.MixedFormatsInGroup, f"{name}.weight")]


@pytest.mark.parametrize(
    ("gone", "missing"),
    [
        ("layers.3.mlp.down_proj", [f"{LAYERS}.3.mlp.down_proj"]),
        ("layers.1.linear_attn.out_proj", [f"{LAYERS}.1.linear_attn.out_proj"]),
        ("layers.3.", [f"{LAYERS}.3"]),
        ("embed_tokens", ["embed_tokens.weight"]),
    ],
)
def test_what_other_layers_have_is_missed(
    made: Made, tmp_path: Path, gone: str, missing: list[str]
) -> None:
    _, checkpoint = made("qwen3_5", "nvfp4a16-mlp")

    def change(tensors: dict[str, Tensor]) -> None:
        for name in [n for n in tensors if gone in n and n.startswith(("model.", "lm_head"))]:
            del tensors[name]

    inspection = inspect_uri(str(spoiled(checkpoint, tmp_path / "x", change)))
    assert found(inspection) == [(DefectKind.MissingTensor, name) for name in missing]


def test_a_promised_head_that_is_not_there_is_missed(made: Made, tmp_path: Path) -> None:
    source, _ = made("qwen3_5", "nvfp4a16")
    shutil.copytree(source, tmp_path / "x")
    drop_tensors(tmp_path / "x", "mtp.")
    inspection = inspect_uri(str(tmp_path / "x"))
    assert [kind for kind, _ in found(inspection)] == [DefectKind.MultiTokenPredictionMissing]
    assert "mtp_num_hidden_layers" in inspection.defects[0].message


def test_the_index_is_held_against_the_shards(made: Made, tmp_path: Path) -> None:
    source, _ = made("qwen3_5", "nvfp4a16")
    shutil.copytree(source, tmp_path / "x")
    path = tmp_path / "x" / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"]["model.ghost.weight"] = index["weight_map"].pop("lm_head.weight")
    path.write_text(json.dumps(index))
    assert found(inspect_uri(str(tmp_path / "x"))) == [
        (DefectKind.MissingTensor, "model.ghost.weight"),
        (DefectKind.UnexpectedTensor, "lm_head.weight"),
    ]
