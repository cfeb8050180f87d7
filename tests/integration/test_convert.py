"""`halftone convert`: the other layout, with the same codes and the same meaning.

Each model is quantized into both layouts by the engine, from the same statistics, so a conversion
has an answer to be held against: every tensor and both configurations.

We test these aspects:
- converting gives what the engine writes in that layout, either way, and so does going there and
  back; weights are worth the same numbers in both
- companions come along; documents, and the card of a published artifact, do not
- strangers' checkpoints: lists of names and class targets as llm-compressor writes them, scales
  that BF16 cannot hold, multipliers that no divisor has, roles whose layers differ
- a checkpoint on the Hub is converted as one on disk is, in few requests
- vLLM answers the same from both layouts
"""

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from halftone.cli.opening import opened_checkpoint
from halftone.quantize.conversion.converting import convert as carry_out
from halftone.spec.formats import CheckpointFormat
from tests.builders import (
    Tensor,
    as_float32,
    encode,
    read_checkpoint,
    write_checkpoint,
    write_safetensors,
)
from tests.commands import files_of, halftone, quantize_directory
from tests.doubles.hub import HubDouble
from tests.environments import ask
from tests.inspecting import edit_config, spoiled
from tests.quantizing import recipe
from tests.twins import nvfp4_values

Stored = dict[str, Tensor]
LAYOUTS = ("CompressedTensors", "ModelOpt")
MEASURED = {"kvCache": {"format": "FP8", "scales": "Calibrated"}}
UNIT = {"kvCache": {"format": "FP8", "scales": "Unit"}}


@dataclass(frozen=True)
class Model:
    """A model with a format for each role."""

    name: str
    source: str
    formats: dict[str, str]
    fields: dict[str, Any] = field(default_factory=dict)
    shard_bytes: int = 4_000_000_000


MODELS = [
    Model("nvfp4", "qwen3", {"Attention": "NVFP4", "Mlp": "NVFP4"}, MEASURED),
    Model("mixed", "qwen3", {"Attention": "FP8", "Mlp": "NVFP4"}, MEASURED),
    Model("channels", "llama", {"Attention": "FP8_DYNAMIC"}),
    Model("blocks", "llama", {"Mlp": "FP8_BLOCK"}, UNIT),
    Model("experts", "qwen3_moe", {"Attention": "FP8_DYNAMIC", "Experts": "NVFP4"}, MEASURED),
    Model("gemma", "gemma4_unified", {"Mlp": "NVFP4A16"}, MEASURED),
    Model("hybrid", "qwen3_5_moe", {"Attention": "NVFP4A16", "Experts": "NVFP4A16"}, {}, 500_000),
]
BOTH_WAYS = [(m.name, a, b) for m in MODELS for a, b in (LAYOUTS, LAYOUTS[::-1])]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Path]:
    """Every model in both layouts, by name and layout."""
    root = tmp_path_factory.mktemp("convert")
    found = {}
    for model in MODELS:
        source = write_checkpoint(root / f"{model.name}-source", model.source)
        for layout in LAYOUTS:
            chosen = recipe(model.fields | {"checkpointFormat": layout}, **model.formats)
            place = root / f"{model.name}-{layout}"
            quantize_directory(source, place, chosen, max_shard_bytes=model.shard_bytes)
            found[model.name, layout] = place
    return found


def convert(source: Path, target: Path, to: str) -> dict[str, Any]:
    """Convert through the command line; what it says of it, as JSON."""
    done = halftone("convert", source, target, "--to", to, "--json")
    assert done.code == 0, done.err
    said: dict[str, Any] = json.loads(done.out)
    return said


def said_by(directory: Path) -> dict[str, Any]:
    """All configuration files."""
    names = ("config.json", "hf_quant_config.json")
    return {name: json.loads((directory / name).read_text()) for name in names
            if (directory / name).exists()}  # fmt: skip


@pytest.mark.parametrize(("model", "before", "after"), BOTH_WAYS)
def test_a_converted_checkpoint_is_what_the_engine_writes_in_that_layout(
    made: dict[tuple[str, str], Path], tmp_path: Path, model: str, before: str, after: str
) -> None:
    said = convert(made[model, before], tmp_path / "out", after)

    expected = files_of(made[model, after])
    del expected["checkpoint.json"]
    assert files_of(tmp_path / "out") == expected
    assert (said["from"], said["to"], said["nearestScales"]) == (before, after, [])
    assert said["changedTensors"] > 0
    assert halftone("inspect", tmp_path / "out").code == 0


@pytest.mark.parametrize("model", [model.name for model in MODELS])
def test_there_and_back_gives_every_file_again(
    made: dict[tuple[str, str], Path], tmp_path: Path, model: str
) -> None:
    ours = made[model, "CompressedTensors"]
    convert(ours, tmp_path / "there", "ModelOpt")
    convert(tmp_path / "there", tmp_path / "back", "CompressedTensors")

    expected = files_of(ours)
    del expected["checkpoint.json"]
    assert files_of(tmp_path / "back") == expected


@pytest.mark.parametrize("model", ["nvfp4", "experts", "gemma"])
def test_weights_are_worth_the_same_in_both_layouts(
    made: dict[tuple[str, str], Path], tmp_path: Path, model: str
) -> None:
    ours = made[model, "CompressedTensors"]
    convert(ours, tmp_path / "out", "ModelOpt")
    before, after = read_checkpoint(ours), read_checkpoint(tmp_path / "out")
    packed = [n.removesuffix(".weight_packed") for n in before if n.endswith(".weight_packed")]
    assert packed
    for module in packed:
        assert np.array_equal(nvfp4_values(before, module), nvfp4_values(after, module))


def test_companions_come_along_and_documents_do_not(
    made: dict[tuple[str, str], Path], tmp_path: Path
) -> None:
    ours = tmp_path / "ours"
    shutil.copytree(made["channels", "CompressedTensors"], ours)
    said = convert(ours, tmp_path / "work", "ModelOpt")
    assert said["leftBehind"] == ["checkpoint.json"]
    kept = {"LICENSE", "README.md", "tokenizer.json", "tokenizer_config.json"}
    assert {n: (tmp_path / "work" / n).read_bytes() for n in kept} == {
        n: (ours / n).read_bytes() for n in kept
    }

    (ours / "provenance.json").write_text("{}")  # now it is an artifact, and its card tells so
    (ours / "model.sig").write_text("{}")
    for name in ("calibration/statistics.safetensors", "evidence/pages/1.json", ".git/config"):
        (ours / name).parent.mkdir(parents=True)
        (ours / name).write_text("{}")
    (ours / "recipe.yaml").write_text("default_stage: {}")
    said = convert(ours, tmp_path / "artifact", "ModelOpt")

    told = ["README.md", "calibration/", "checkpoint.json", "evidence/", "model.sig"]
    told += ["provenance.json", "recipe.yaml"]
    assert said["leftBehind"] == told
    here = {path.name for path in (tmp_path / "artifact").iterdir()}
    assert not {*told, "calibration", "evidence", ".git"} & here
    assert (tmp_path / "artifact" / "LICENSE").exists()


def test_it_says_that_the_result_is_unproven(
    made: dict[tuple[str, str], Path], tmp_path: Path
) -> None:
    done = halftone("convert", made["nvfp4", "ModelOpt"], tmp_path / "out", "--to", LAYOUTS[0])

    assert done.code == 0
    assert f"unproven; look at it with: halftone inspect {tmp_path / 'out'}" in done.out


# Strangers' checkpoints ---------------------------------------------------------------------------


def test_class_targets_and_lists_of_names_are_understood(
    made: dict[tuple[str, str], Path], tmp_path: Path
) -> None:
    """As llm-compressor's `oneshot` writes them."""
    theirs = tmp_path / "theirs"
    shutil.copytree(made["experts", "CompressedTensors"], theirs)
    gates = [f"model.layers.{layer}.mlp.gate" for layer in range(2)]

    def as_oneshot_does(config: dict[str, Any]) -> None:
        block = config["quantization_config"]
        block |= {"ignore": [*gates, "lm_head"], "version": "0.19.0", "transform_config": {}}
        attention, experts = block["config_groups"].values()
        attention["targets"] = [r"re:.*self_attn\.(q|k|v|o)_proj$"]
        experts["targets"] = ["Linear"]

    edit_config(theirs, as_oneshot_does)

    convert(theirs, tmp_path / "out", "ModelOpt")

    assert read_checkpoint(tmp_path / "out") == read_checkpoint(made["experts", "ModelOpt"])
    assert said_by(tmp_path / "out") == said_by(made["experts", "ModelOpt"])


def test_modelopts_own_file_alone_says_how_it_is_quantized(
    made: dict[tuple[str, str], Path], tmp_path: Path
) -> None:
    """As its older exports do: `config.json` says nothing, and servers read the other file."""
    theirs = tmp_path / "theirs"
    shutil.copytree(made["nvfp4", "ModelOpt"], theirs)
    edit_config(theirs, lambda config: config.pop("quantization_config"))

    convert(theirs, tmp_path / "out", "CompressedTensors")

    expected = files_of(made["nvfp4", "CompressedTensors"])
    del expected["checkpoint.json"]
    assert files_of(tmp_path / "out") == expected


def test_numbers_that_bf16_cannot_hold_stay_float32(
    made: dict[tuple[str, str], Path], tmp_path: Path
) -> None:
    scale = "model.layers.0.self_attn.q_proj.weight_scale"

    def measure(stored: Stored) -> None:
        stored[scale] = encode(as_float32(stored[scale]) * np.float32(1.001), "F32")

    theirs = spoiled(made["channels", "ModelOpt"], tmp_path / "theirs", measure)
    convert(theirs, tmp_path / "out", "CompressedTensors")

    before, after = read_checkpoint(theirs)[scale], read_checkpoint(tmp_path / "out")
    assert after[scale] == Tensor("F32", (before.shape[0], 1), before.data)
    others = [n for n in after if n.endswith("weight_scale") and n != scale]
    assert {after[name].dtype for name in others} == {"BF16"}
    assert halftone("inspect", tmp_path / "out").code == 0


def test_a_multiplier_without_a_divisor_gets_the_nearest_and_is_named(
    made: dict[tuple[str, str], Path], tmp_path: Path
) -> None:
    module = "model.language_model.layers.0.mlp.down_proj"
    # Just below a power of two float32 numbers are twice as dense as inverses of float32 numbers.
    multiplier = np.nextafter(np.float32(2.0**-10), np.float32(0))

    def retouch(stored: Stored) -> None:
        stored[f"{module}.weight_scale_2"] = Tensor("F32", (), multiplier.tobytes())

    theirs = spoiled(made["gemma", "ModelOpt"], tmp_path / "theirs", retouch)
    said = convert(theirs, tmp_path / "out", "CompressedTensors")

    name = f"{module}.weight_global_scale"
    assert said["nearestScales"] == [name]
    divisor = as_float32(read_checkpoint(tmp_path / "out")[name])[0]
    assert abs(float(np.float32(1) / divisor) - float(multiplier)) <= np.spacing(multiplier)


def test_a_role_whose_layers_differ_is_told_by_names(tmp_path: Path) -> None:
    """In Gemma's full-attention layers, of which one is kept, a server asks for a `v_proj` too."""
    source = write_checkpoint(tmp_path / "source", "gemma4_unified")
    ours = tmp_path / "ours"
    quantize_directory(source, ours, recipe(UNIT, Attention="NVFP4A16", Mlp="NVFP4A16"))
    kept = "model.language_model.layers.2.self_attn"
    restore(ours, source, kept)

    def as_modelopt_does(config: dict[str, Any]) -> None:
        block = config["quantization_config"]
        block["ignore"] += [f"{kept}.{part}_proj" for part in "qkvo"]

    edit_config(ours, as_modelopt_does)
    convert(ours, tmp_path / "there", "ModelOpt")
    convert(tmp_path / "there", tmp_path / "back", "CompressedTensors")

    excluded = said_by(tmp_path / "there")["hf_quant_config.json"]["quantization"]
    assert f"{kept}*" in excluded["exclude_modules"]
    block = said_by(tmp_path / "back")["config.json"]["quantization_config"]
    assert f"{kept}.v_proj" in block["ignore"]
    assert (
        "model.language_model.layers.5.self_attn.v_proj"
        in block["config_groups"]["group_0"]["targets"]
    )
    assert read_checkpoint(tmp_path / "back") == read_checkpoint(ours)
    for directory in (ours, tmp_path / "there", tmp_path / "back"):
        assert halftone("inspect", directory).code == 0, directory.name


def restore(quantized: Path, source: Path, parent: str) -> None:
    """Put the source's weights back for all modules below `parent`."""
    stored, plain = read_checkpoint(quantized), read_checkpoint(source)
    stored = {
        name: tensor
        for name, tensor in stored.items()
        if not name.startswith(f"{parent}.") or name in plain
    }
    stored |= {name: tensor for name, tensor in plain.items() if name.startswith(f"{parent}.")}
    write_safetensors(quantized / "model.safetensors", stored)


def test_a_remote_checkpoint_is_read_in_few_requests(
    made: dict[tuple[str, str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some hundred scales, each of which is looked at before and read again for the output."""
    with HubDouble(made["experts", "ModelOpt"]) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        with opened_checkpoint(hub.uri) as checkpoint:
            before = checkpoint.source.traffic.requests
            to = CheckpointFormat.CompressedTensors
            done = carry_out(checkpoint, tmp_path / "out", to)
            asked = checkpoint.source.traffic.requests - before

    expected = files_of(made["experts", "CompressedTensors"])
    del expected["checkpoint.json"]
    assert files_of(tmp_path / "out") == expected
    # The companions, ModelOpt's configuration, the scales, and the shard, once each.
    assert asked == len(done.files) - 2 + 3


# vLLM ---------------------------------------------------------------------------------------------


UNEQUAL = "ModelOpt's, with wider keys"


@pytest.fixture(scope="module")
def answers(
    made: dict[tuple[str, str], Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, list[dict[str, Any]]]:
    """vLLM's answers from a checkpoint and from the converted one; all in one process."""
    work = tmp_path_factory.mktemp("served")
    prompts = [[37 * step % 490 + 9 for step in range(40)]]
    common = {"prompts": prompts, "activations": {}, "cache": {}, "modal": False, "mended": False}
    pairs = {
        "mixed": made["mixed", "CompressedTensors"],
        UNEQUAL: spoiled(made["nvfp4", "ModelOpt"], work / "theirs", _with_wider_keys),
    }
    cases = []
    for name, place in pairs.items():
        convert(place, work / name, "CompressedTensors" if name == UNEQUAL else "ModelOpt")
        cases += [{"directory": str(directory)} | common for directory in (place, work / name)]
    found = iter(ask("serve", "engine_linear.py", cases, work=work, timeout_s=400))
    return {name: [next(found), next(found)] for name in pairs}


def _with_wider_keys(stored: Stored) -> None:
    for layer in range(2):
        name = f"model.layers.{layer}.self_attn.k_proj.input_scale"
        stored[name] = encode(as_float32(stored[name]) * np.float32(3.7), "F32")


@pytest.mark.serve_env
@pytest.mark.parametrize("model", ["mixed", UNEQUAL])
def test_vllm_answers_the_same_from_both_layouts(
    answers: dict[str, list[dict[str, Any]]], model: str
) -> None:
    """Of unequal ranges too: of ModelOpt's it keeps the widest, which becomes that of all."""
    ours, converted = answers[model]

    assert (ours["error"], converted["error"]) == (None, None)
    assert ours["kernels"] == converted["kernels"] != []
    assert ours["generated"] == converted["generated"]
    assert ours["logProbabilities"] == converted["logProbabilities"]
    for answer in (ours, converted):
        said = " ".join(answer["log"])
        assert "global scale is different" not in said
        assert "scaling factor 1.0" not in said
    unequal = "the global input scale differs across"
    assert (unequal in " ".join(ours["log"])) is (model == UNEQUAL)
    assert "input" not in " ".join(line for line in converted["log"] if "differ" in line)
