"""Whether a server would load what is there: ignore lists, schemes, and what it cannot merge."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from halftone.spec.errors import RefusedInput
from halftone.spec.job import Recipe
from halftone.spec.names import DefectKind, RemarkReason
from halftone.validate.inspection import inspect_uri
from tests.builders import read_checkpoint as read_tensors
from tests.inspecting import LAYERS, Made, drop, edit_config, found, spoiled
from tests.quantizing import recipe

pytestmark = pytest.mark.timeout(120)  # the first test of a fresh machine compiles kernels


@pytest.mark.parametrize(
    ("model", "chosen", "tensor"),
    [
        ("mixtral", "fp8-block-a16", "model.layers.0.block_sparse_moe.experts.0.w1.weight"),
        ("qwen3_5_moe", "fp8-block", f"{LAYERS}.0.mlp.experts.0.gate_proj.weight"),
        (
            "qwen3_5",  # queries and keys of 64 rows, in one matrix of 256
            recipe(LinearAttention="FP8_BLOCK"),
            f"{LAYERS}.2.linear_attn.in_proj_qkv.weight",
        ),
    ],
)
def test_what_todays_server_cannot_load_is_a_defect(
    made: Made, model: str, chosen: str | Recipe, tensor: str
) -> None:
    _, checkpoint = made(model, chosen)
    assert (DefectKind.ServerCannotLoad, tensor) in found(inspect_uri(str(checkpoint)))


def test_an_enumerated_ignore_list_of_gemma_will_not_load(made: Made, tmp_path: Path) -> None:
    _, checkpoint = made("gemma4_unified", "nvfp4a16-mlp")
    shutil.copytree(checkpoint, tmp_path / "x")
    kept = sorted(n.removesuffix(".weight") for n in read_tensors(checkpoint) if "self_attn" in n)

    def change(config: dict[str, Any]) -> None:
        block = config["quantization_config"]
        block["config_groups"]["group_0"]["targets"] = ["Linear"]
        block["ignore"] = ["lm_head", r"re:.*vision.*", r"re:.*audio.*", *kept]

    edit_config(tmp_path / "x", change)
    inspection = inspect_uri(str(tmp_path / "x"))
    assert {kind for kind, _ in found(inspection)} == {DefectKind.IgnoreListWillNotLoad}
    layers = [tensor.partition(".self_attn.")[0] for _, tensor in found(inspection)]
    assert layers == [f"{LAYERS}.2", f"{LAYERS}.5"]  # of the tiny model: those without v_proj
    assert "v_proj" in inspection.defects[0].message


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda block: block["ignore"].append("re:.*mlp.*"), "expects plain weights"),
        (lambda block: block["config_groups"]["group_0"]["targets"].append("Linear"), "scales"),
    ],
)
def test_codes_and_configuration_must_agree(
    made: Made, tmp_path: Path, change: Callable[[dict[str, Any]], None], what: str
) -> None:
    _, checkpoint = made("qwen3", "nvfp4a16-mlp")
    shutil.copytree(checkpoint, tmp_path / "x")

    def edit(config: dict[str, Any]) -> None:
        block = config["quantization_config"]
        block["ignore"] = ["lm_head"]
        change(block)

    edit_config(tmp_path / "x", edit)
    inspection = inspect_uri(str(tmp_path / "x"))
    assert {kind for kind, _ in found(inspection)} == {DefectKind.IgnoreListWillNotLoad}
    assert all(what in defect.message for defect in inspection.defects)


def test_codes_without_any_configuration_are_one_defect(made: Made, tmp_path: Path) -> None:
    _, checkpoint = made("qwen3", "nvfp4a16")
    shutil.copytree(checkpoint, tmp_path / "x")
    edit_config(tmp_path / "x", lambda config: config.pop("quantization_config"))
    assert found(inspect_uri(str(tmp_path / "x"))) == [
        (DefectKind.IgnoreListWillNotLoad, "config.json")
    ]


def test_four_bit_activations_need_their_scales(made: Made, tmp_path: Path) -> None:
    _, checkpoint = made("qwen3", "nvfp4a16-mlp")
    shutil.copytree(checkpoint, tmp_path / "x")

    def edit(config: dict[str, Any]) -> None:
        group = config["quantization_config"]["config_groups"]["group_0"]
        group["input_activations"] = group["weights"] | {"dynamic": "local"}

    edit_config(tmp_path / "x", edit)
    inspection = inspect_uri(str(tmp_path / "x"))
    assert {kind for kind, _ in found(inspection)} == {DefectKind.MissingTensor}
    assert len(inspection.defects) == 6  # gate, up and down of two layers


def test_an_unknown_architecture_is_inspected_and_said(made: Made, tmp_path: Path) -> None:
    source, checkpoint = made("qwen3", "nvfp4a16")
    shutil.copytree(checkpoint, tmp_path / "x")
    edit_config(tmp_path / "x", lambda config: config.update(model_type="brand_new"))
    inspection = inspect_uri(str(tmp_path / "x"), str(source))
    assert inspection.architecture == "generic"
    assert [w.reason for w in inspection.warnings] == [RemarkReason.GenericArchitecture]
    assert inspection.defects == ()


@pytest.mark.parametrize(
    "gone",
    [
        f"{LAYERS}.0.input_layernorm.weight",
        f"{LAYERS}.0.linear_attn.A_log",
        "model.visual.merger.norm.weight",
    ],
)
def test_what_the_source_has_and_the_checkpoint_lost_is_missed(
    made: Made, tmp_path: Path, gone: str
) -> None:
    source, checkpoint = made("qwen3_5", "nvfp4a16")
    copy = spoiled(checkpoint, tmp_path / "x", lambda tensors: drop(tensors, gone))
    name = gone.replace("model.language_model.", "model.")
    assert (DefectKind.MissingTensor, name) in found(inspect_uri(str(copy), str(source)))


def test_a_model_without_its_final_norm_is_found_without_a_source(
    made: Made, tmp_path: Path
) -> None:
    _, checkpoint = made("qwen3_5", "nvfp4a16")
    gone = "model.language_model.norm.weight"
    copy = spoiled(checkpoint, tmp_path / "x", lambda tensors: drop(tensors, gone))
    assert found(inspect_uri(str(copy))) == [(DefectKind.MissingTensor, "norm.weight")]


def test_a_source_of_another_model_is_refused(made: Made) -> None:
    _, checkpoint = made("qwen3", "nvfp4a16-mlp")
    other, _ = made("qwen3_moe", "nvfp4a16")
    with pytest.raises(RefusedInput, match="has none of the quantized matrices"):
        inspect_uri(str(checkpoint), str(other))
