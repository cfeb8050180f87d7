"""Weights and models that cannot be quantized as they are.

We test these aspects, through the real command line:
- NaN and infinities, zeros, shapes and dtypes that a format cannot take
- sources that are quantized already
- architectures that nobody knows, licences that are not there
"""

import json
from pathlib import Path

import pytest

from tests.builders import (
    Tensor,
    as_float32,
    fill,
    read_checkpoint,
    read_file,
    set_value,
    shard_of,
    tiny_config,
    write_checkpoint,
    write_low_bit,
    write_safetensors,
)
from tests.commands import halftone, quantize_directory, write_recipe
from tests.refusals import change_config, refused, refused_by_quantize

DOWN_PROJ = "model.layers.1.mlp.down_proj.weight"
EMBEDDING = "model.embed_tokens.weight"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "source", "qwen3")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("preset", ["nvfp4a16", "fp8-dynamic", "fp8-block"])
@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
def test_a_weight_that_is_no_number_is_named(
    value: float, preset: str, dtype: str, tmp_path: Path
) -> None:
    source = write_checkpoint(tmp_path / "source", "qwen3", dtype=dtype)
    set_value(source, DOWN_PROJ, value, position=1000)

    assert refused_by_quantize(source, tmp_path, preset) == (
        f"`{DOWN_PROJ}` holds NaN or infinite weights; repair the source, or ask its publisher "
        "for one that trained to the end."
    )


def test_nan_in_one_stacked_expert_is_named_with_its_expert(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "source", "qwen3_5_moe_text", experts="Fused")
    stacked = "model.layers.1.mlp.experts.gate_up_proj"
    shape = read_checkpoint(source)[stacked].shape
    set_value(source, stacked, float("nan"), position=3 * shape[1] * shape[2])

    sentence = refused_by_quantize(source, tmp_path)

    assert sentence.startswith("`model.layers.1.mlp.experts.3.gate_proj.weight` holds NaN")


def test_a_stack_of_experts_that_the_configuration_does_not_have_is_refused(
    tmp_path: Path,
) -> None:
    source = write_checkpoint(tmp_path / "source", "mixtral", experts="Fused")
    made = quantize_directory(source, tmp_path / "made", "nvfp4a16").directory
    change_config(source, num_local_experts=9)

    sentence = refused(source, tmp_path)

    assert sentence.endswith(
        "stacks 8 experts, but `num_local_experts` of `config.json` is 9; fetch both of one "
        "revision."
    )
    compared = halftone("inspect", made, "--source", source)
    assert (compared.code, compared.err) == (2, f"halftone: {sentence}\n")


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
def test_nan_in_a_kept_tensor_is_named(dtype: str, tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "source", "qwen3", dtype=dtype)
    set_value(source, EMBEDDING, float("nan"), position=77)

    assert f"`{EMBEDDING}` holds NaN" in refused_by_quantize(source, tmp_path)


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
def test_infinities_in_kept_tensors_are_carried_over(dtype: str, tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "source", "qwen3", dtype=dtype)
    set_value(source, EMBEDDING, float("-inf"))

    made = quantize_directory(source, tmp_path / "output")

    before, after = read_checkpoint(source), read_checkpoint(made.directory)
    assert after[EMBEDDING] == before[EMBEDDING]
    assert as_float32(after[EMBEDDING]).reshape(-1)[-1] == float("-inf")


@pytest.mark.parametrize("preset", ["nvfp4a16", "fp8-dynamic", "fp8-block"])
def test_a_matrix_of_zeros_gives_zeros(preset: str, source: Path, tmp_path: Path) -> None:
    fill(source, DOWN_PROJ, 0.0)

    made = quantize_directory(source, tmp_path / "output", preset)

    stored = read_checkpoint(made.directory)
    module = DOWN_PROJ.removesuffix("weight")
    weight = stored.get(f"{module}weight_packed", stored.get(f"{module}weight"))
    assert weight is not None
    assert set(weight.data) == {0}
    [group] = [group for group in made.document.groups if group.members == (DOWN_PROJ,)]
    assert float(group.relativeError) == 0
    scale = stored[f"{module}weight_scale"]
    assert (as_float32(scale) > 0).all()


def test_a_last_dimension_that_sixteen_does_not_divide_is_refused(tmp_path: Path) -> None:
    config = tiny_config("qwen3", intermediate_size=200)
    source = write_checkpoint(tmp_path / "source", config)

    sentence = refused(source, tmp_path)

    assert "down_proj.weight` has 200 columns, but NVFP4A16 needs a multiple of 16" in sentence
    assert "give its role FP8_DYNAMIC or leave it out of the recipe" in sentence
    for preset in ("fp8-dynamic", "fp8-block"):
        assert quantize_directory(source, tmp_path / preset, preset).document.roles


def test_a_weight_that_is_no_matrix_is_refused(source: Path, tmp_path: Path) -> None:
    path = shard_of(source, DOWN_PROJ)
    tensors = read_file(path)
    flat = Tensor("BF16", (len(tensors[DOWN_PROJ].data) // 2,), tensors[DOWN_PROJ].data)
    write_safetensors(path, tensors | {DOWN_PROJ: flat})

    assert f"`{DOWN_PROJ}` has shape [32768], but NVFP4A16" in refused(source, tmp_path)


def test_an_integer_weight_is_refused(source: Path, tmp_path: Path) -> None:
    path = shard_of(source, DOWN_PROJ)
    tensors = read_file(path)
    codes = Tensor("U8", (128, 512), tensors[DOWN_PROJ].data)
    write_safetensors(path, tensors | {DOWN_PROJ: codes})

    assert f"`{DOWN_PROJ}` is stored as U8" in refused(source, tmp_path)


@pytest.mark.parametrize(
    ("scheme", "what"),
    [
        ("Nvfp4CompressedTensors", ".weight_packed` (U8) shows"),
        ("Nvfp4ModelOpt", ".weight_scale_2` (F32) shows"),
        ("Int4CompressedTensors", ".weight_packed` (I32) shows"),
        ("Awq", "`config.json` says that the source is quantized with awq"),
        ("Gptq", "`config.json` says that the source is quantized with gptq"),
    ],
)
def test_a_source_in_four_bits_is_refused(scheme: str, what: str, tmp_path: Path) -> None:
    source = write_low_bit(tmp_path / "source", "qwen3", scheme)  # type: ignore[arg-type]

    sentence = refused(source, tmp_path)

    assert what in sentence
    assert "Give the full-precision repository that it was made from" in sentence


@pytest.mark.parametrize("scheme", ["Awq", "Gptq"])
def test_integers_are_recognized_without_their_configuration(scheme: str, tmp_path: Path) -> None:
    source = write_low_bit(tmp_path / "source", "qwen3", scheme)  # type: ignore[arg-type]
    change_config(source, quantization_config=None)

    assert "the source is already quantized" in refused(source, tmp_path).lower()


def test_our_own_output_is_refused_as_a_source(source: Path, tmp_path: Path) -> None:
    quantize_directory(source, tmp_path / "first")

    assert "already quantized" in refused(tmp_path / "first", tmp_path)


def test_an_unknown_architecture_is_refused_unless_allowed(source: Path, tmp_path: Path) -> None:
    change_config(source, model_type="brand_new")
    recipe = write_recipe(tmp_path / "recipe.yaml", preset="nvfp4a16", genericArchitecture="Allow")

    sentence = refused(source, tmp_path)

    assert "`model_type` 'brand_new' in `config.json` has no architecture table" in sentence
    assert "known are qwen3_5" in sentence
    assert "Set `genericArchitecture: Allow`" in sentence
    allowed = halftone("plan", source, "--recipe", recipe, "--json")
    assert allowed.code == 0
    reasons = {notice["reason"] for notice in json.loads(allowed.out)["warnings"]}
    assert "GenericArchitecture" in reasons
    ended = halftone("quantize", source, tmp_path / "output", "--recipe", recipe)
    assert ended.code == 0
    stored = read_checkpoint(tmp_path / "output")
    assert DOWN_PROJ.replace("weight", "weight_packed") in stored


def test_a_source_without_a_licence_is_a_warning(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "source", "qwen3", licence=None)

    planned = halftone("plan", source, "--recipe", "nvfp4a16")
    as_json = json.loads(halftone("plan", source, "--recipe", "nvfp4a16", "--json").out)

    assert planned.code == 0
    assert "warning The source has neither a licence file" in " ".join(planned.out.split())
    assert "LicenceMissing" in {notice["reason"] for notice in as_json["warnings"]}
    assert halftone("quantize", source, tmp_path / "output", "--recipe", "nvfp4a16").code == 0
