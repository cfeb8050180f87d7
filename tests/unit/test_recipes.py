"""Recipes: what ships, and how a file and a preset become one recipe with nothing left open."""

from pathlib import Path

import pytest

from halftone.spec.errors import RefusedInput
from halftone.spec.formats import FORMATS, CheckpointFormat, Format
from halftone.spec.job import (
    BlockScale,
    KvCacheScales,
    MultiTokenPrediction,
    Quantization,
    Recipe,
    ScaleSearch,
)
from halftone.spec.names import Reason
from halftone.spec.recipes import load_recipe, presets, resolve
from halftone.spec.roles import Role

NVFP4 = Format.NVFP4A16
_DEFAULT = CheckpointFormat.CompressedTensors
MLP = {"role": "Mlp", "format": "NVFP4A16"}
DENSE_AND_EXPERTS = {Role.Attention, Role.Mlp, Role.Experts}
ALL_FOUR = DENSE_AND_EXPERTS | {Role.SharedExperts}

# The promised recipes: which roles get which format.
PROMISED: dict[str, dict[Role, Format]] = {
    "fp8-block": dict.fromkeys(ALL_FOUR, Format.FP8_BLOCK),
    "fp8-block-a16": dict.fromkeys(ALL_FOUR, Format.FP8_BLOCK_A16),
    "fp8-dynamic": dict.fromkeys(DENSE_AND_EXPERTS, Format.FP8_DYNAMIC),
    "nvfp4-language": dict.fromkeys(ALL_FOUR | {Role.LinearAttention}, Format.NVFP4),
    "nvfp4-language-fp8-linear-attention": dict.fromkeys(ALL_FOUR, Format.NVFP4)
    | {Role.LinearAttention: Format.FP8_DYNAMIC},
    "nvfp4-mlp": {Role.Mlp: Format.NVFP4},
    "nvfp4a16": dict.fromkeys(ALL_FOUR, NVFP4),
    "nvfp4a16-fp8-linear-attention": dict.fromkeys(ALL_FOUR, NVFP4)
    | {Role.LinearAttention: Format.FP8_DYNAMIC},
    "nvfp4a16-mlp": {Role.Mlp: NVFP4},
}


def test_the_data_of_a_recipe_file_lie_beside_it(tmp_path: Path) -> None:
    recipe = tmp_path / "mine.yaml"
    data = "calibration: {dataset: {path: rows/data.jsonl}, samples: 8}\n"
    recipe.write_text("preset: nvfp4-mlp\n" + data)

    calibration = load_recipe(str(recipe)).calibration

    assert calibration is not None
    assert calibration.dataset.path == str(tmp_path / "rows" / "data.jsonl")
    assert load_recipe("nvfp4-mlp").calibration is None


@pytest.mark.parametrize(
    ("block", "told"),
    [
        ("dataset: {}", "exactly one of `path`, `huggingFace` and `s3` must be set"),
        ("dataset: {path: a, s3: {uri: 's3://b/c'}}", "exactly one of"),
        ("dataset: {path: a}, samples: 0", "calibration.samples"),
        ("dataset: {path: a}, modalities: [Text, Text]", "names one of them twice"),
        ("dataset: {path: a}, modalities: [Sound]", "calibration.modalities.0"),
        ("dataset: {path: a}, rows: 7", "there is no such field"),
    ],
)
def test_a_wrong_calibration_block_is_named(block: str, told: str, tmp_path: Path) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(f"preset: nvfp4-mlp\ncalibration: {{{block}}}\n")

    with pytest.raises(RefusedInput, match="calibration") as refused:
        load_recipe(str(recipe))

    assert told in refused.value.message


def test_exactly_the_promised_recipes_ship() -> None:
    assert list(presets()) == sorted(PROMISED)


@pytest.mark.parametrize("name", PROMISED)
def test_a_preset_gives_its_roles_their_formats(name: str) -> None:
    recipe = load_recipe(name)

    assert recipe.name == name
    assert {line.role: line.format for line in recipe.precision} == PROMISED[name]
    assert presets()[name].description.endswith(".")


def test_which_recipes_need_calibration_and_which_layout_they_write() -> None:
    recipes = {name: load_recipe(name) for name in presets()}
    measured = {
        name
        for name, recipe in recipes.items()
        if any(FORMATS[line.format].needs_calibration for line in recipe.precision)
    }
    assert measured == {
        "nvfp4-mlp",
        "nvfp4-language",
        "nvfp4-language-fp8-linear-attention",
    }
    caches = {name: recipe.kvCache.scales for name, recipe in recipes.items() if recipe.kvCache}
    assert caches == {
        "fp8-block-a16": KvCacheScales.Calibrated,
        "nvfp4-language": KvCacheScales.Unit,
        "nvfp4-language-fp8-linear-attention": KvCacheScales.Unit,
        "nvfp4-mlp": KvCacheScales.Calibrated,
    }
    layouts = {name for name, r in recipes.items() if r.checkpointFormat is not _DEFAULT}
    assert layouts == {"nvfp4-mlp", "nvfp4-language"}


def test_defaults_are_filled_in() -> None:
    recipe = load_recipe("nvfp4a16")

    assert recipe == Recipe(name="nvfp4a16", precision=recipe.precision)
    assert recipe.scaleSearch is ScaleSearch.MinMax
    assert recipe.blockScale is BlockScale.PowerOfTwo
    assert recipe.multiTokenPrediction is MultiTokenPrediction.Keep


def test_a_field_beside_a_preset_overrides_its_own() -> None:
    chosen = Quantization(preset="nvfp4-mlp", scaleSearch=ScaleSearch.MinMax)

    recipe = resolve(chosen, "mine")

    assert load_recipe("nvfp4-mlp").scaleSearch is ScaleSearch.MeanSquaredError
    assert recipe == load_recipe("nvfp4-mlp").model_copy(update={"scaleSearch": ScaleSearch.MinMax})


def test_null_beside_a_preset_clears_its_field() -> None:
    chosen = Quantization.model_validate({"preset": "nvfp4-mlp", "kvCache": None})

    assert load_recipe("nvfp4-mlp").kvCache is not None
    assert resolve(chosen, "mine").kvCache is None


@pytest.mark.parametrize("beside", [{"preset": "nvfp4-mlp"}, {"precision": [MLP]}])
def test_null_for_a_field_that_every_recipe_has_is_refused(beside: dict[str, object]) -> None:
    chosen = Quantization.model_validate(beside | {"scaleSearch": None})

    with pytest.raises(RefusedInput, match=r"`quantization\.scaleSearch` is null") as refused:
        resolve(chosen, "mine")

    assert refused.value.reason is Reason.InvalidJob


def test_null_for_the_other_of_preset_and_precision_says_nothing() -> None:
    chosen = Quantization.model_validate({"preset": None, "precision": [MLP]})

    assert resolve(chosen, "mine").format_of(Role.Mlp) is NVFP4


def test_a_file_and_a_whole_job_give_the_same_recipe(tmp_path: Path) -> None:
    block = "{precision: [{role: Mlp, format: NVFP4A16}], blockScale: Free}"
    (tmp_path / "mine.yaml").write_text(block)
    (tmp_path / "job").mkdir()
    (tmp_path / "job" / "mine.yaml").write_text(
        "kind: QuantizationJob\nmetadata: {name: any}\nspec:\n"
        f"  source: {{directory: {{path: a}}}}\n  quantization: {block}\n"
    )

    recipe = load_recipe(str(tmp_path / "mine.yaml"))

    assert recipe == load_recipe(str(tmp_path / "job" / "mine.yaml"))
    assert (recipe.name, recipe.blockScale) == ("mine", BlockScale.Free)


def test_a_preset_wins_over_a_file_of_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "nvfp4a16").write_text("precision: [{role: Mlp, format: FP8_DYNAMIC}]")
    monkeypatch.chdir(tmp_path)

    assert load_recipe("nvfp4a16").format_of(Role.Mlp) is NVFP4
