"""Inspection of calibrated checkpoints in both layouts: scales of activations and of the KV cache.

We test these aspects:
- what we write, in every calibrated format and layout, has neither defects nor remarks
- members of a merged layer with input scales of their own are a defect, experts of a layer with
  such are a remark
- scales of the cache are there for every layer that has one and for no other, one number each,
  finite and positive
- bytes of the cache's scales are counted with attention
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from halftone.spec.job import Recipe
from halftone.spec.names import DefectKind, RemarkReason
from halftone.spec.recipes import load_recipe
from halftone.spec.roles import Role
from halftone.validate.findings import Extent, Inspection
from halftone.validate.inspection import inspect_uri
from tests.builders import Tensor, as_float32, encode
from tests.builders import read_checkpoint as read_tensors
from tests.inspecting import LAYERS, Made, drop, edit_config, found, spoiled
from tests.quantizing import recipe

pytestmark = pytest.mark.timeout(120)  # the first test of a fresh machine compiles kernels

Tensors = dict[str, Tensor]

CACHE = {"kvCache": {"format": "FP8", "scales": "Calibrated"}}
MODELOPT = {"checkpointFormat": "ModelOpt"}
GATED = {"LinearAttention": "NVFP4", "LinearAttentionGate": "NVFP4"}
STATIC = {"Attention": "FP8", "Mlp": "FP8"}
LINEAR, STATIC_CT = recipe({}, **GATED), recipe(CACHE, **STATIC)
LANGUAGE = recipe(CACHE, Attention="NVFP4", Experts="NVFP4", SharedExperts="NVFP4")


@pytest.mark.parametrize(
    ("model", "chosen"),
    [
        ("gemma4_unified", load_recipe("nvfp4-mlp")),
        ("qwen3_5", load_recipe("nvfp4-language")),
        ("qwen3_5", load_recipe("nvfp4-language-fp8-linear-attention")),
        ("qwen3_5_moe", LANGUAGE),
        ("qwen3_5_moe", LANGUAGE.model_copy(update=load_recipe("nvfp4-mlp").model_dump(
            include={"checkpointFormat"}))),
        ("llama", load_recipe("fp8-block-a16")),
        ("qwen3_5", LINEAR),
        ("qwen3", STATIC_CT),
        ("qwen3", recipe(CACHE | MODELOPT, **STATIC)),
        ("qwen3", recipe(CACHE | MODELOPT, Attention="FP8_BLOCK", Mlp="NVFP4")),
        ("qwen3", recipe(MODELOPT, Attention="FP8_DYNAMIC", Mlp="FP8")),
    ],
)  # fmt: skip
def test_what_we_write_has_no_defects(made: Made, model: str, chosen: Recipe) -> None:
    source, checkpoint = made(model, chosen)
    inspection = inspect_uri(str(checkpoint), str(source))
    assert inspection.defects == ()
    assert inspection.warnings == ()
    wanted = {line.role: line.format for line in chosen.precision}
    for line in inspection.roles:
        assert line.format == wanted.get(line.role, line.format)
        assert line.relativeError == line.relativeErrorServing
    assert inspection.read.weights.extent is Extent.Complete
    assert inspection.quantMethod == (
        "modelopt" if chosen.checkpointFormat == "ModelOpt" else "compressed-tensors"
    )


def scaled(name: str, factor: float) -> Callable[[Tensors], None]:
    """A change that multiplies one scale."""

    def change(tensors: Tensors) -> None:
        value = as_float32(tensors[name]).reshape(tensors[name].shape)
        tensors[name] = encode(np.asarray(value * np.float32(factor)), tensors[name].dtype)

    return change


def inspected(made: Made, folder: Path, model: str, chosen: Recipe, change: object) -> Inspection:
    """A copy of what we write, after `change`."""
    _, checkpoint = made(model, chosen)
    assert callable(change)
    return inspect_uri(str(spoiled(checkpoint, folder / "x", change)))


# Inputs -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "chosen", "name"),
    [
        ("qwen3_5", LINEAR, f"{LAYERS}.0.linear_attn.in_proj_z.input_global_scale"),
        ("qwen3_5", LINEAR, f"{LAYERS}.1.linear_attn.in_proj_a.input_global_scale"),
        ("qwen3_5", load_recipe("nvfp4-language"), f"{LAYERS}.3.self_attn.v_proj.input_scale"),
        ("qwen3", STATIC_CT, "model.layers.0.self_attn.q_proj.input_scale"),
    ],
)
def test_a_merged_layer_has_one_input_scale(
    made: Made, tmp_path: Path, model: str, chosen: Recipe, name: str
) -> None:
    halved = inspected(made, tmp_path, model, chosen, scaled(name, 0.5))
    assert found(halved) == [(DefectKind.UnequalInputScales, name)]
    assert "off by 50.0%" in halved.defects[0].message


def test_what_a_server_keeps_of_divisors_is_the_narrowest_range(made: Made, tmp_path: Path) -> None:
    parent = f"{LAYERS}.0.linear_attn"
    doubled = scaled(f"{parent}.in_proj_z.input_global_scale", 2)
    inspection = inspected(made, tmp_path, "qwen3_5", LINEAR, doubled)
    # The other member is the one that is served wrongly: it is clipped.
    assert found(inspection) == [
        (DefectKind.UnequalInputScales, f"{parent}.in_proj_qkv.input_global_scale")
    ]


def test_experts_with_input_scales_of_their_own_are_remarked(made: Made, tmp_path: Path) -> None:
    name = f"{LAYERS}.2.mlp.experts.5.down_proj.input_global_scale"
    inspection = inspected(made, tmp_path, "qwen3_5_moe", LANGUAGE, scaled(name, 3))
    assert inspection.defects == ()
    [remark] = inspection.warnings
    assert remark.reason is RemarkReason.UnequalInputScales
    assert remark.subject == f"{LAYERS}.2.mlp.experts.down_proj"
    assert "experts of 1 of 8 layers and projections" in remark.message
    assert "3.00 times" in remark.message


@pytest.mark.parametrize("layout", [{}, MODELOPT])
def test_gate_and_up_of_an_fp8_expert_have_one_input_scale(
    made: Made, tmp_path: Path, layout: dict[str, str]
) -> None:
    """vLLM reads one for both; experts may differ, as in other formats."""
    names = [f"{LAYERS}.1.mlp.experts.2.{part}_proj.input_scale" for part in ("gate", "down")]
    chosen = recipe(layout, Experts="FP8")
    change = scaled(names[0], 0.5)
    assert found(inspected(made, tmp_path, "qwen3_5_moe", chosen, change)) == [
        (DefectKind.UnequalInputScales, names[0])
    ]
    alone = inspected(made, tmp_path / "y", "qwen3_5_moe", chosen, scaled(names[1], 0.5))
    assert alone.defects == ()
    assert [remark.reason for remark in alone.warnings] == [RemarkReason.UnequalInputScales]


def test_an_input_scale_must_be_there_and_be_a_positive_number(made: Made, tmp_path: Path) -> None:
    _, checkpoint = made("qwen3_5", load_recipe("nvfp4-language"))
    gone, zero = (f"{LAYERS}.{n}.mlp.down_proj" for n in (0, 1))

    def change(tensors: Tensors) -> None:
        drop(tensors, f"{gone}.input_scale")
        tensors[f"{zero}.input_scale"] = encode(np.zeros((), np.float32), "F32")

    inspection = inspect_uri(str(spoiled(checkpoint, tmp_path / "x", change)))
    assert set(found(inspection)) == {
        (DefectKind.MissingTensor, f"{gone}.weight"),
        (DefectKind.NotFinite, f"{zero}.input_scale"),
    }


def test_an_expert_without_a_usable_input_scale_is_named(made: Made, tmp_path: Path) -> None:
    """As calibrations write it of an expert that no token reached."""
    name = f"{LAYERS}.2.mlp.experts.5.down_proj.input_global_scale"
    inspection = inspected(made, tmp_path, "qwen3_5_moe", LANGUAGE, scaled(name, 0))
    assert found(inspection) == [(DefectKind.NotFinite, name)]
    assert inspection.warnings == ()


@pytest.mark.parametrize("factors", [(0, -1), (float("inf"), 1), (float("nan"), 1)])
def test_of_a_merged_layer_too_unusable_input_scales_are_named(
    made: Made, tmp_path: Path, factors: tuple[float, float]
) -> None:
    names = [f"model.layers.0.self_attn.{part}_proj.input_scale" for part in ("k", "q", "v")]

    def change(tensors: Tensors) -> None:
        for name, factor in zip(names, (*factors, factors[0]), strict=True):
            scaled(name, factor)(tensors)

    inspection = inspected(made, tmp_path, "qwen3", STATIC_CT, change)
    spoilt = {n for n, f in zip(names, (*factors, factors[0]), strict=True) if f != 1}
    named = {(DefectKind.NotFinite, name) for name in spoilt}
    assert named <= set(found(inspection))
    assert {kind for kind, _ in found(inspection)} == {DefectKind.NotFinite}


# The cache ----------------------------------------------------------------------------------------

KEY = "model.layers.1.self_attn.k_scale"


@pytest.mark.parametrize(
    ("kind", "tensor", "change"),
    [
        (DefectKind.MissingTensor, KEY, lambda tensors: drop(tensors, KEY)),
        (DefectKind.NotFinite, KEY, scaled(KEY, 0)),
        (DefectKind.NotFinite, KEY, scaled(KEY, -1)),
        (DefectKind.NotFinite, KEY, scaled(KEY, float("nan"))),
        (
            DefectKind.UnexpectedLayout,
            KEY,
            lambda tensors: tensors.update({KEY: Tensor("BF16", (2,), bytes(4))}),
        ),
        (
            DefectKind.UnexpectedTensor,
            "model.layers.1.self_attn.k_proj.k_scale",
            lambda tensors: tensors.update(
                {"model.layers.1.self_attn.k_proj.k_scale": tensors[KEY]}
            ),
        ),
        (
            DefectKind.UnexpectedTensor,
            "model.layers.1.mlp.k_scale",
            lambda tensors: tensors.update({"model.layers.1.mlp.k_scale": tensors[KEY]}),
        ),
    ],
)
def test_a_cache_has_its_two_scales_and_nothing_else_has(
    made: Made,
    tmp_path: Path,
    kind: DefectKind,
    tensor: str,
    change: Callable[[Tensors], None],
) -> None:
    inspection = inspected(made, tmp_path, "qwen3", STATIC_CT, change)
    assert set(found(inspection)) == {(kind, tensor)}


def test_scales_of_heads_are_another_way_and_no_defect(made: Made, tmp_path: Path) -> None:
    _, checkpoint = made("qwen3", STATIC_CT)
    wide = Tensor("BF16", (2, 1, 1), b"\x00\x3c\x00\x3c")
    names = [n for n in read_tensors(checkpoint) if n.endswith(("k_scale", "v_scale"))]
    copy = spoiled(checkpoint, tmp_path / "x", lambda t: t.update(dict.fromkeys(names, wide)))
    assert len(found(inspect_uri(str(copy)))) == len(names) == 4
    scheme = {"num_bits": 8, "type": "float", "symmetric": True, "strategy": "attn_head"}
    edit_config(copy, lambda c: c["quantization_config"].update(kv_cache_scheme=scheme))
    assert found(inspect_uri(str(copy))) == []


def test_only_layers_with_keys_have_scales(made: Made) -> None:
    _, checkpoint = made("qwen3_5_moe", LANGUAGE)
    scales = {name for name in read_tensors(checkpoint) if name.endswith(("k_scale", "v_scale"))}
    assert scales == {f"{LAYERS}.3.self_attn.{kind}_scale" for kind in "kv"}


def test_their_bytes_are_counted_with_attention(made: Made) -> None:
    _, checkpoint = made("qwen3", STATIC_CT)
    inspection = inspect_uri(str(checkpoint))
    stored = read_tensors(checkpoint)
    attention = sum(len(t.data) for name, t in stored.items() if ".self_attn." in name)
    norms = sum(len(t.data) for name, t in stored.items() if "self_attn" in name and "norm" in name)
    [line] = [row for row in inspection.roles if row.role is Role.Attention]
    assert line.bytes == attention - norms
    assert sum(row.bytes for row in inspection.roles) == sum(len(t.data) for t in stored.values())
