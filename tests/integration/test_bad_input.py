"""Everything that can be wrong with what a user gives: one sentence, exit code 2, nothing written.

We test these aspects, through the real command line:
- files: truncated, malformed, hostile, missing, pickled
- weights: NaN and infinities, zeros, shapes and dtypes that a format cannot take
- sources that are quantized already, and architectures that nobody knows
- recipes, outputs and sources that do not go together
"""

import json
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.builders import (
    Tensor,
    as_float32,
    fill,
    keep_only_a_pickle,
    read_checkpoint,
    read_file,
    read_header,
    set_value,
    shard_of,
    tiny_config,
    truncate_shard,
    write_checkpoint,
    write_low_bit,
    write_safetensors,
)
from tests.commands import Outcome, files_of, halftone, quantize_directory, write_recipe

SHARD = "model-00001-of-00003.safetensors"
INDEX = "model.safetensors.index.json"
Q_PROJ = "model.layers.0.self_attn.q_proj.weight"
DOWN_PROJ = "model.layers.1.mlp.down_proj.weight"
EMBEDDING = "model.embed_tokens.weight"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "source", "qwen3")


def refused(
    source: Path | str, tmp_path: Path, recipe: str | Path = "nvfp4a16", *options: str
) -> str:
    """The sentence with which `plan` and `quantize` refuse; both must, and nothing is written."""
    before = files_of(tmp_path)
    planned = halftone("plan", source, "--recipe", recipe, "--json")
    sentence = refused_by_quantize(source, tmp_path, recipe, *options)

    assert (planned.code, planned.err) == (2, f"halftone: {sentence}\n")
    document = json.loads(planned.out)
    assert document["refusal"]["message"] == sentence
    assert document["output"] is None
    assert files_of(tmp_path) == before
    return sentence


def refused_by_quantize(
    source: Path | str, tmp_path: Path, recipe: str | Path = "nvfp4a16", *options: str
) -> str:
    """The sentence with which `quantize` refuses, alone where only the weights can show it."""
    before = files_of(tmp_path)
    ended = halftone("quantize", source, tmp_path / "output", "--recipe", recipe, *options)
    assert ended.out == ""
    assert files_of(tmp_path) == before
    assert not list(tmp_path.glob(".*"))
    return sentence_of(ended)


def sentence_of(ended: Outcome) -> str:
    """The one sentence that a refused command says."""
    assert ended.code == 2
    assert ended.err.startswith("halftone: ")
    assert ended.err.endswith((".\n", ")\n"))
    assert ended.err.count("\n") == 1
    return ended.err.removeprefix("halftone: ").removesuffix("\n")


def write_head(path: Path, document: dict[str, Any], data: bytes = b"", length: int = -1) -> None:
    """A shard with this header, whatever it says."""
    text = json.dumps(document).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length < 0 else length) + text + data)


def change_header(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Rewrite a shard's header, its data untouched."""
    entries, start = read_header(path)
    data = path.read_bytes()[start:]
    change(entries)
    write_head(path, entries, data)


def change_index(source: Path, change: Callable[[dict[str, str]], None]) -> None:
    document = json.loads((source / INDEX).read_text())
    change(document["weight_map"])
    (source / INDEX).write_text(json.dumps(document))


def change_config(source: Path, **changes: Any) -> None:
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(config | changes))


# Files


def test_a_truncated_shard_is_refused(source: Path, tmp_path: Path) -> None:
    path = truncate_shard(source, DOWN_PROJ, 5)

    sentence = refused(source, tmp_path)

    assert f"`{path.name}`" in sentence
    assert "the file is truncated: fetch it again" in sentence


def test_a_header_longer_than_its_file_is_refused(source: Path, tmp_path: Path) -> None:
    write_head(source / SHARD, {}, length=50_000)

    assert refused(source, tmp_path).startswith(
        f"`{SHARD}` claims a header of 50000 bytes but has only 10 bytes in all"
    )


def test_a_header_of_more_than_100_mb_is_refused(source: Path, tmp_path: Path) -> None:
    write_head(source / SHARD, {}, length=100_000_001)
    os.truncate(source / SHARD, 200_000_000)

    sentence = halftone("quantize", source, tmp_path / "output", "--recipe", "nvfp4a16").err

    assert f"`{SHARD}` claims a header of 100000001 bytes" in sentence
    assert "safetensors allows 100000000" in sentence
    assert not (tmp_path / "output").exists()


def test_overlapping_tensors_are_refused(source: Path, tmp_path: Path) -> None:
    entry = {"dtype": "BF16", "shape": [4]}
    write_head(
        source / SHARD,
        {"a": entry | {"data_offsets": [0, 8]}, "b": entry | {"data_offsets": [4, 12]}},
        bytes(12),
    )

    assert f"Tensor `b` of `{SHARD}` begins at byte" in (sentence := refused(source, tmp_path))
    assert "overlaps `a`" in sentence


@pytest.mark.parametrize("offsets", [[0, 10**9], [-8, 0], [8, 0]])
def test_offsets_outside_the_file_are_refused(
    offsets: list[int], source: Path, tmp_path: Path
) -> None:
    change_header(source / SHARD, lambda head: head[Q_PROJ].update(data_offsets=offsets))

    assert f"ensor `{Q_PROJ}`" in refused(source, tmp_path)


def test_an_unknown_dtype_is_refused(source: Path, tmp_path: Path) -> None:
    change_header(source / SHARD, lambda head: head[Q_PROJ].update(dtype="BF17"))

    sentence = refused(source, tmp_path)

    assert f"Tensor '{Q_PROJ}' of `{SHARD}` has the unknown dtype 'BF17'" in sentence
    assert "known are" in sentence


def test_an_index_that_names_a_missing_shard_is_refused(source: Path, tmp_path: Path) -> None:
    (source / SHARD).unlink()

    assert f"into '{SHARD}', a shard that is missing; fetch it" in refused(source, tmp_path)


@pytest.mark.parametrize("name", ["../secret.safetensors", "/etc/passwd", "a/../../b.safetensors"])
def test_an_index_that_leaves_its_directory_is_refused(
    name: str, source: Path, tmp_path: Path
) -> None:
    shutil.copy(source / SHARD, tmp_path / "secret.safetensors")
    change_index(source, lambda placed: placed.update({Q_PROJ: name}))

    sentence = refused(source, tmp_path)

    assert f"`{INDEX}` puts '{Q_PROJ}' into '{name}'" in sentence
    assert "do not use this checkpoint unless you know who wrote it" in sentence


def test_a_tensor_in_two_shards_is_refused(source: Path, tmp_path: Path) -> None:
    other = source / "model-00002-of-00003.safetensors"
    write_safetensors(other, read_file(other) | {Q_PROJ: read_file(source / SHARD)[Q_PROJ]})

    sentence = refused(source, tmp_path)

    assert f"Tensor `{Q_PROJ}` is both in `{SHARD}` and in `{other.name}`" in sentence


def test_a_link_that_leaves_the_directory_is_refused_before_work_begins(
    source: Path, tmp_path: Path
) -> None:
    (tmp_path / "private").write_text("private")
    (source / "tokenizer.json").unlink()
    (source / "tokenizer.json").symlink_to(tmp_path / "private")

    sentence = refused_by_quantize(source, tmp_path)

    assert "`tokenizer.json`" in sentence
    assert "is a symbolic link that leaves the directory" in sentence


def test_pickled_weights_are_refused_unopened(source: Path, tmp_path: Path) -> None:
    keep_only_a_pickle(source)

    sentence = refused(source, tmp_path)

    assert "holds pickled weights only (`pytorch_model.bin`)" in sentence
    assert "convert it to safetensors" in sentence


def test_a_source_that_is_not_there_is_refused(tmp_path: Path) -> None:
    assert refused(tmp_path / "absent", tmp_path).startswith("There is no `")


def test_a_source_without_a_configuration_is_refused(source: Path, tmp_path: Path) -> None:
    (source / "config.json").unlink()

    assert "has no `config.json`" in refused(source, tmp_path)


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"model_type": NaN}', '{"a": 1, "a": 2}', "\udcff"]
)
def test_a_configuration_that_is_no_object_is_refused(
    text: str, source: Path, tmp_path: Path
) -> None:
    (source / "config.json").write_text(text, errors="surrogateescape")

    assert "`config.json`" in refused(source, tmp_path)


@pytest.mark.parametrize(
    "changes",
    [
        {"model_type": ["qwen3"]},
        {"model_type": None},
        {"model_type": "qwen3", "text_config": 7, "quantization_config": "fp8"},
        {"model_type": "qwen3", "quantization_config": {"weight_block_size": ["a", {}]}},
        {"model_type": "qwen3", "text_config": {"mtp_num_hidden_layers": "many"}},
    ],
)
def test_odd_values_in_a_configuration_never_end_in_a_traceback(
    changes: dict[str, Any], source: Path, tmp_path: Path
) -> None:
    change_config(source, **changes)

    for verb in (
        ("plan", source, "--recipe", "nvfp4a16", "--gpu", "B200", "--json"),
        ("quantize", source, tmp_path / "output", "--recipe", "nvfp4a16"),
    ):
        ended = halftone(*verb)
        assert ended.code in {0, 2}
        assert ended.code == 0 or sentence_of(ended)


@pytest.mark.parametrize("uri", ["ftp://host/model", "s3://", "hf://a/b/c", "s3://UPPER/x"])
def test_an_address_that_is_none_is_refused(uri: str, tmp_path: Path) -> None:
    assert uri.split("://", maxsplit=1)[0] in refused(uri, tmp_path)


# Weights


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


# Sources


@pytest.mark.parametrize(
    ("scheme", "what"),
    [
        ("Nvfp4CompressedTensors", ".weight_packed` holds U8 codes"),
        ("Nvfp4ModelOpt", ".weight_scale_2` holds F32 codes"),
        ("Int4CompressedTensors", ".weight_packed` holds I32 codes"),
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
    recipe = write_recipe(
        tmp_path / "recipe.yaml", preset="nvfp4a16", genericArchitecture="Allow"
    )

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


# Recipes


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("precision: [{role: Brain, format: NVFP4A16}]", ["precision.0.role", "'Attention'"]),
        ("precision: [{role: Mlp, format: NVFP5}]", ["precision.0.format", "'NVFP4A16'"]),
        ("precision: [{role: Vision, format: NVFP4A16}]", ["'Vision' is always kept", "Mlp"]),
        ("precision: [{role: Router, format: NVFP4A16}]", ["'Router' is always kept", "Mlp"]),
        ("precision: [{role: Mlp}]", ["precision.0.format", "required"]),
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
        ("{preset: nvfp4a16, checkpointFormat: ModelOpt}", ["checkpointFormat"]),
        ("- a\n- list", ["must hold a mapping"]),
        ("", ["must hold a mapping"]),
        ("a: [", ["is not YAML", "in line 1"]),
        ("[" * 3000, ["is not YAML"]),
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


# Outputs, and sources that change


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

    assert f"'{tmp_path / 'output' / 'model.safetensors'}' is missing or no longer has" in sentence
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
