"""Recipes, outputs and sources that do not go together.

We test these aspects, through the real command line:
- a recipe that is wrong is refused by its field
- an output that is in the way is left as it is
- a source that is not the one that was planned with
"""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.builders import Tensor, read_file, write_checkpoint, write_safetensors
from tests.commands import files_of, halftone, quantize_directory
from tests.refusals import change_index, refused, refused_by_quantize, sentence_of

SHARD = "model-00001-of-00003.safetensors"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "source", "qwen3")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("precision: [{role: Brain, format: NVFP4A16}]", ["precision.0.role", "'Attention'"]),
        ("precision: [{role: Mlp, format: NVFP5}]", ["precision.0.format", "'NVFP4A16'"]),
        ("precision: [{role: Vision, format: NVFP4A16}]", ["'Vision' is always kept", "Mlp"]),
        ("precision: [{role: Router, format: NVFP4A16}]", ["'Router' is always kept", "Mlp"]),
        ("precision: [{role: Mlp}]", ["precision.0.format", "must be given"]),
        ("precision: []", ["quantization.precision", "at least 1"]),
        (
            "presicion: [{role: Mlp, format: NVFP4A16}]",
            ["`quantization.presicion`: there is no such field; there are preset, precision"],
        ),
        (
            "precision: [{role: Mlp, fromat: NVFP4A16, format: NVFP4A16}]",
            ["`quantization.precision.0.fromat`: there is no such field; there are role, format"],
        ),
        (
            "{preset: nvfp4a16, kvCache: {format: FP8, scale: Unit}}",
            ["`quantization.kvCache.scale`: there is no such field; there are format, scales"],
        ),
        (
            "precision: [{role: Mlp, format: NVFP4A16}, {role: Mlp, format: FP8_DYNAMIC}]",
            ["names role 'Mlp' more than once"],
        ),
        (
            "{preset: nvfp4a16, precision: [{role: Mlp, format: NVFP4A16}]}",
            ["exactly one of `preset` and `precision`"],
        ),
        ("scaleSearch: MinMax", ["exactly one of `preset` and `precision`"]),
        ("preset: nvfp3", ["'nvfp3', which is not one of", "nvfp4a16"]),
        ("{preset: nvfp4a16, scaleSearch: Best}", ["scaleSearch", "'MinMax'"]),
        ("{preset: nvfp4a16, kvCache: {format: FP4}}", ["kvCache.format", "'FP8'"]),
        (
            "{preset: fp8-block-a16, checkpointFormat: ModelOpt}",
            ["`quantization.checkpointFormat: ModelOpt` cannot express FP8_BLOCK_A16"],
        ),
        ("- a\n- list", ["must hold a mapping"]),
        ("", ["must hold a mapping"]),
        ("a: [", ["is not YAML", "in line 1"]),
        ("[" * 3000, ["is not YAML"]),
        ("preset: 2026-02-30", ["is not YAML: day is out of range for month; correct it."]),
        ("preset: !!bool perhaps", ["is not YAML: a value is not what its tag says"]),
        ("preset: !!int ''", ["is not YAML: a value is not what its tag says"]),
        ("kind: Pod", ["kind", "'QuantizationJob'"]),
        ("kind: QuantizationJob", ["metadata"]),
    ],
)
def test_a_recipe_that_is_wrong_is_refused_by_its_field(
    text: str, words: list[str], source: Path, tmp_path: Path
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(text)

    sentence = refused(source, tmp_path, recipe)

    assert all(word in sentence for word in words)


def test_a_recipe_that_is_not_there_is_refused_with_those_that_are(
    source: Path, tmp_path: Path
) -> None:
    sentence = refused(source, tmp_path, "nvfp4a17")

    assert sentence.startswith("There is no recipe and no file 'nvfp4a17'; presets are fp8-block")


def test_a_binary_file_is_no_recipe(source: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_bytes(b"\xff\xfe\x00")

    assert "is not YAML" in refused(source, tmp_path, recipe)


def test_a_recipe_with_none_of_the_roles_is_refused(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "source", "mixtral")

    sentence = refused(source, tmp_path, "nvfp4a16-mlp")

    assert "The recipe 'nvfp4a16-mlp' quantizes Mlp, but the model has the roles" in sentence
    assert "Experts" in sentence


@pytest.mark.parametrize("preset", ["nvfp4-mlp", "nvfp4-language"])
def test_a_calibrated_recipe_is_planned_and_not_carried_out(
    preset: str, source: Path, tmp_path: Path
) -> None:
    planned = halftone("plan", source, "--recipe", preset, "--json")

    sentence = refused_by_quantize(source, tmp_path, preset)

    assert planned.code == 0
    document = json.loads(planned.out)
    assert (document["method"], document["refusal"]) == ("Calibrated", None)
    assert f"The recipe '{preset}' needs calibration statistics" in sentence
    assert "choose a data-free recipe such as 'nvfp4a16'" in sentence


def test_an_output_that_is_not_empty_and_not_ours_is_refused(source: Path, tmp_path: Path) -> None:
    (tmp_path / "output").mkdir()
    (tmp_path / "output" / "thesis.txt").write_text("draft 7")

    sentence = refused_by_quantize(source, tmp_path)

    assert sentence == (
        f"'{tmp_path / 'output'}' is not empty and was not written by Halftone; "
        "choose another directory."
    )


def test_an_output_that_is_a_file_is_refused(source: Path, tmp_path: Path) -> None:
    (tmp_path / "output").write_text("draft 7")

    ended = halftone("quantize", source, tmp_path / "output", "--recipe", "nvfp4a16")

    assert ended.code == 2
    assert "is a file" in ended.err
    assert (tmp_path / "output").read_text() == "draft 7"


def test_an_output_of_another_plan_is_refused(source: Path, tmp_path: Path) -> None:
    assert halftone("quantize", source, tmp_path / "output", "--recipe", "fp8-block").code == 0

    sentence = refused_by_quantize(source, tmp_path)

    assert f"'{tmp_path / 'output'}' holds a checkpoint of another plan" in sentence
    assert "choose another directory or remove that one" in sentence


def test_an_output_that_lost_a_file_is_not_taken_for_finished(source: Path, tmp_path: Path) -> None:
    quantize_directory(source, tmp_path / "output")
    os.truncate(tmp_path / "output" / "model.safetensors", 1000)

    sentence = refused_by_quantize(source, tmp_path)

    shard = tmp_path / "output" / "model.safetensors"
    assert f"'{shard}' is missing or is not the file that was written" in sentence
    assert f"remove '{tmp_path / 'output'}'" in sentence


def test_an_output_below_its_source_is_written_once_and_then_found(
    source: Path, tmp_path: Path
) -> None:
    first = halftone("quantize", source, source / "small", "--recipe", "nvfp4a16", "--json")
    second = halftone("quantize", source, source / "small", "--recipe", "nvfp4a16", "--json")

    assert (first.code, second.code) == (0, 0)
    assert json.loads(first.out)["digest"] == json.loads(second.out)["digest"]


def grow(source: Path) -> None:
    """One more tensor: another size and another header."""
    path = source / SHARD
    write_safetensors(path, read_file(path) | {"model.extra.weight": Tensor("BF16", (1,), b"\0\0")})
    change_index(source, lambda placed: placed.update({"model.extra.weight": SHARD}))


def rename_a_tensor(source: Path) -> None:
    """The same size, another header."""
    name = "model.layers.0.self_attn.q_norm.weight"
    other = "model.layers.0.self_attn.q_morn.weight"
    path = source / SHARD
    path.write_bytes(path.read_bytes().replace(name.encode(), other.encode()))
    change_index(source, lambda placed: placed.update({other: placed.pop(name)}))


@pytest.mark.parametrize("change", [grow, rename_a_tensor])
def test_a_source_that_changed_since_the_plan_is_named(
    change: Callable[[Path], None], source: Path, tmp_path: Path
) -> None:
    job = tmp_path / "job.yaml"
    job.write_text(
        "metadata: {name: changing}\nspec:\n  source: {directory: {path: source}}\n"
        "  quantization: {preset: nvfp4a16}\n"
    )
    workdir = tmp_path / "work"
    assert halftone("stage", "plan", "--workdir", workdir, "--job", job).code == 0
    change(source)
    before = files_of(workdir)

    sentence = sentence_of(halftone("stage", "quantize", "--workdir", workdir))

    assert sentence.startswith(f"'{SHARD}' of the source is not the file that was planned with")
    assert "bring that one back, or plan in a new work directory" in sentence
    assert files_of(workdir) == before


def test_a_plan_of_another_source_is_not_carried_out(source: Path, tmp_path: Path) -> None:
    other = write_checkpoint(tmp_path / "other", "llama")
    job = tmp_path / "job.yaml"
    job.write_text(
        "metadata: {name: mixed}\nspec:\n  source: {directory: {path: source}}\n"
        "  quantization: {preset: nvfp4a16}\n"
    )
    workdir = tmp_path / "work"
    assert halftone("stage", "plan", "--workdir", workdir, "--job", job).code == 0
    plan = workdir / "plan.json"
    assert halftone("plan", other, "--recipe", "nvfp4a16", "--output", plan).code == 0

    sentence = sentence_of(halftone("stage", "quantize", "--workdir", workdir))

    assert "of the source is not the file that was planned with" in sentence
    assert not (workdir / "checkpoint").exists()
