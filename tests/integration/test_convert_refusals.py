"""What `halftone convert` refuses: with one sentence, and without leaving anything behind.

We test these aspects:
- methods, schemes, caches and companions that have no words in both layouts
- tensors that do not fit what the configuration says, scales that are no positive numbers, and
  scales of a cache that no layer is known to have
- formats that a server loads in one layout only, told in a user's words
- a source in full precision, or in that layout already; an output that is in the way
- `kill -9` at any point shows nothing at the output's name, and the next run begins anew
"""

import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.builders import (
    Tensor,
    read_checkpoint,
    tiny_config,
    write_checkpoint,
    write_safetensors,
)
from tests.commands import files_of, go_on, halftone, kill, quantize_directory, start_and_stop
from tests.inspecting import drop, edit_config, number
from tests.quantizing import recipe

Stored = dict[str, Tensor]
LAYOUTS = ("CompressedTensors", "ModelOpt")


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model in W4A4, with a measured cache, in both layouts."""
    root = tmp_path_factory.mktemp("refused")
    source = write_checkpoint(root / "source", "qwen3")
    for layout in LAYOUTS:
        cache = {"format": "FP8", "scales": "Calibrated"}
        fields = {"kvCache": cache, "checkpointFormat": layout}
        chosen = recipe(fields, Attention="NVFP4", Mlp="NVFP4")
        quantize_directory(source, root / layout, chosen)
    return root


def _block(change: dict[str, Any]) -> Callable[[Path], None]:
    return lambda directory: edit_config(
        directory, lambda config: config["quantization_config"].update(change)
    )


def _weights(change: dict[str, Any]) -> Callable[[Path], None]:
    def changed(config: dict[str, Any]) -> None:
        for group in config["quantization_config"]["config_groups"].values():
            group["weights"].update(change)

    return lambda directory: edit_config(directory, changed)


def _tensors(change: Callable[[Stored], None]) -> Callable[[Path], None]:
    def changed(directory: Path) -> None:
        stored = read_checkpoint(directory)
        change(stored)
        write_safetensors(directory / "model.safetensors", stored)

    return changed


def _set(name: str, tensor: Tensor) -> Callable[[Path], None]:
    return _tensors(lambda stored: stored.update({name: tensor}))


def _rename(stored: Stored, before: str, after: str) -> None:
    stored[after] = stored.pop(before)


MODULE = "model.layers.1.mlp.down_proj"
ATTENTION = "model.layers.1.self_attn"
REFUSED: dict[str, tuple[Callable[[Path], None], str]] = {
    "another method": (_block({"quant_method": "awq"}), "`quant_method` 'awq' is neither"),
    "rotated": (_block({"transform_config": {"config_groups": {"u": {}}}}), "`transform_config`"),
    "cache of integers": (
        _block({"kv_cache_scheme": {"num_bits": 8, "type": "int"}}),
        "`kv_cache_scheme` asks for a KV cache that is not FP8",
    ),
    "a cache of heads": (
        _block({"kv_cache_scheme": {"num_bits": 8, "type": "float", "strategy": "attn_head"}}),
        "is not FP8 with one scale for each layer's keys and values",
    ),
    "integers": (_weights({"type": "int"}), "none of the formats that are converted"),
    "not described": (_block({"ignore": [r"re:.*down_proj$"]}), "is stored in codes, but the conf"),
    "a zero divisor": (
        _set(f"{MODULE}.weight_global_scale", number(0.0)),
        f"`{MODULE}.weight_global_scale` is 0.0, and a global scale must be a positive",
    ),
    "a NaN": (_set(f"{MODULE}.input_global_scale", number(float("nan"))), "is nan, and a global"),
    "a cache scale of 0": (
        _set(f"{ATTENTION}.k_scale", number(0.0)),
        f"`{ATTENTION}.k_scale` is 0.0, and a scale must be a positive number",
    ),
    "a NaN for values": (_set(f"{ATTENTION}.v_scale", number(float("nan"))), "v_scale` is nan,"),
    "below 0": (_set(f"{ATTENTION}.v_scale", number(-0.5)), "is -0.5, and a scale must be a pos"),
    "a cache elsewhere": (
        _tensors(lambda s: _rename(s, f"{ATTENTION}.k_scale", f"{ATTENTION}.attn.k_scale")),
        f"the checkpoint has no `{ATTENTION}.attn.k_proj.weight`",
    ),
    "a companion missing": (
        _tensors(lambda stored: drop(stored, f"{MODULE}.input_global_scale")),
        f"`{MODULE}.input_global_scale` is missing or is not what NVFP4 stores",
    ),
    "a companion too many": (
        _set(f"{MODULE}.weight_zero_point", number(0.0)),
        f"`{MODULE}.weight_zero_point` (F32) is no part of NVFP4",
    ),
    "scales of queries": (_set(f"{ATTENTION}.q_scale", number(1.0)), "q_scale` (F32) is no part"),
    "scales of heads": (
        _set(f"{ATTENTION}.k_scale", Tensor("F32", (2,), bytes(8))),
        f"`{ATTENTION}.k_scale` is F32 [2], and a layer's keys and values have one scale each",
    ),
    "one name twice": (
        _set(f"{ATTENTION}.k_proj.k_scale", number(1.0)),
        f"would both become `{ATTENTION}.k_proj.k_scale`",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_converted_is_refused_and_leaves_nothing(
    ours: Path, tmp_path: Path, name: str
) -> None:
    spoil, sentence = REFUSED[name]
    shutil.copytree(ours / LAYOUTS[0], tmp_path / "source")
    spoil(tmp_path / "source")

    assert sentence in refused(tmp_path / "source", tmp_path / "out", "ModelOpt")


def refused(source: Path, target: Path, to: str) -> str:
    """The sentence of a refusal that left nothing beside the source."""
    before = sorted(path.name for path in target.parent.iterdir())
    done = halftone("convert", source, target, "--to", to)
    assert (done.code, done.out) == (2, "")
    assert sorted(path.name for path in target.parent.iterdir()) == before
    sentence = done.err.splitlines()[-1]
    assert sentence.startswith("halftone: ")
    assert sentence.endswith(".")
    return sentence


def test_weight_only_blocks_have_no_words_in_modelopts_layout(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "source", "llama")
    quantize_directory(source, tmp_path / "ours", recipe({}, Mlp="FP8_BLOCK_A16"))

    sentence = refused(tmp_path / "ours", tmp_path / "out", "ModelOpt")

    assert "is FP8_BLOCK_A16, which ModelOpt's layout has no words for" in sentence


EXPERT = "model.layers.0.mlp.experts.0.down_proj"
TO_MODELOPT: dict[str, tuple[str, dict[str, Any], dict[str, str], str]] = {
    "experts by rows": (
        "qwen3_moe",
        {},
        {"Experts": "FP8_DYNAMIC"},
        f"`{EXPERT}` is FP8_DYNAMIC, and ModelOpt's configuration cannot say so: a server would "
        "take it for FP8; leave the checkpoint in its own layout.",
    ),
    "experts in blocks": (
        "qwen3_moe",
        {"moe_intermediate_size": 128},
        {"Experts": "FP8_BLOCK"},
        f"`{EXPERT}` is FP8_BLOCK, and ModelOpt's configuration cannot say so: a server would "
        "take it for FP8; leave the checkpoint in its own layout.",
    ),
    "experts by rows among others": (
        "qwen3_moe",
        {},
        {"Attention": "NVFP4A16", "Experts": "FP8_DYNAMIC"},
        f"`{EXPERT}` is FP8_DYNAMIC, and ModelOpt's configuration cannot say so: `quantized_layers`"
        " gives 'model.layers.0.mlp.experts' FP8_PER_CHANNEL_PER_TOKEN, and a server does not load",
    ),
    "experts in blocks among others": (
        "qwen3_moe",
        {"moe_intermediate_size": 128},
        {"Attention": "NVFP4A16", "Experts": "FP8_BLOCK"},
        "`quantized_layers` gives 'model.layers.0.mlp.experts' FP8_PB_WO, and a server does not",
    ),
    "odd blocks": (
        "llama",
        {"intermediate_size": 192},
        {"Mlp": "FP8_BLOCK"},
        "would not load in ModelOpt's layout: it has 192 columns",
    ),
}


@pytest.mark.parametrize("name", TO_MODELOPT)
def test_what_a_server_loads_in_one_layout_only_is_refused(tmp_path: Path, name: str) -> None:
    model, fields, formats, sentence = TO_MODELOPT[name]
    source = write_checkpoint(tmp_path / "source", tiny_config(model, **fields))
    quantize_directory(source, tmp_path / "ours", recipe({}, **formats))

    assert sentence in refused(tmp_path / "ours", tmp_path / "out", "ModelOpt")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_checkpoint_in_that_layout_already_is_refused(
    ours: Path, tmp_path: Path, layout: str
) -> None:
    assert f"is in {layout}'s layout already" in refused(ours / layout, tmp_path / "out", layout)


def test_a_source_in_full_precision_is_refused(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "source", "llama")

    sentence = refused(source, tmp_path / "out", "ModelOpt")

    assert "`config.json` has no quantization block" in sentence


def test_an_output_with_anything_in_it_is_refused(ours: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")

    sentence = refused(ours / LAYOUTS[1], tmp_path / "out", "CompressedTensors")

    assert "is not empty; choose another directory" in sentence
    assert files_of(tmp_path / "out") == {"notes.txt": b"mine"}


STAGED = r"/\.out\.converting/checkpoint"
MOMENTS = [
    pytest.param(rf"open .*{STAGED}/model-00001", id="before the first shard"),
    pytest.param(rf"open .*{STAGED}/model-00003", id="after two shards"),
    pytest.param(rf"open .*{STAGED}/config\.json", id="after all shards"),
    pytest.param(rf"os\.rename .*{STAGED}", id="before it is shown"),
]


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_killed_conversion_shows_nothing_and_the_next_one_works(
    sharded: tuple[Path, Path], tmp_path: Path, moment: str
) -> None:
    source, expected = sharded
    command = ("convert", source, tmp_path / "out", "--to", "CompressedTensors")
    kill(start_and_stop(1, moment, *command))
    assert [path.name for path in tmp_path.iterdir()] == [".out.converting"]

    done = halftone(*command)

    assert done.code == 0, done.err
    assert files_of(tmp_path / "out") == files_of(expected)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_conversion_that_is_told_to_end_leaves_nothing(
    sharded: tuple[Path, Path], tmp_path: Path, number: signal.Signals
) -> None:
    source, _ = sharded
    output = tmp_path / "deep" / "out"
    moment = r"open .*/\.out\.converting/checkpoint/model-00002"
    process = start_and_stop(1, moment, "convert", source, output, "--to", "CompressedTensors")
    process.send_signal(number)
    _, err = go_on(process)

    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A checkpoint in several shards, and what an undisturbed conversion makes of it."""
    root = tmp_path_factory.mktemp("sharded")
    source = write_checkpoint(root / "source", "llama")
    chosen = recipe({"checkpointFormat": "ModelOpt"}, Attention="NVFP4A16", Mlp="NVFP4A16")
    ours = quantize_directory(source, root / "ours", chosen, max_shard_bytes=100_000).directory
    assert len(list(ours.glob("*.safetensors"))) > 3
    done = halftone("convert", ours, root / "expected", "--to", "CompressedTensors")
    assert done.code == 0, done.err
    return ours, root / "expected"
