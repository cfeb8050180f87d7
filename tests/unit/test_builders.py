"""The builders of checkpoints, held against published sizes and the reference libraries.

Every other test trusts them, so what they promise is proven here: exact parameter counts of the
reference bases, headers that the safetensors library accepts, weights that do not depend on the
layout, and damage that spoils nothing else. (`test_builders_numbers.py` has the arithmetic.)
"""

import json
from itertools import pairwise
from math import prod
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

from tests.builders import (
    TINY,
    Sharding,
    as_float32,
    component,
    component_counts,
    drop_tensors,
    encode,
    fill,
    full_size_config,
    keep_only_a_pickle,
    read_checkpoint,
    read_file,
    read_header,
    set_value,
    shapes,
    shard_of,
    tiny_config,
    truncate_shard,
    values,
    write_checkpoint,
    write_low_bit,
    write_sparse,
)
from tests.builders.shapes import ExpertLayout

# {component: (parameters, tensors)} as published configurations give them.
_COUNTS: dict[str, dict[str, tuple[int, int]]] = {
    "27B": {
        "Attention": (1_677_721_600, 64),
        "Mlp": (17_112_760_320, 192),
        "LinearAttention": (5_536_481_280, 144),
        "LinearAttentionSmall": (25_569_792, 288),
        "Embedding": (1_271_398_400, 1),
        "LmHead": (1_271_398_400, 1),
        "VisionAndProjector": (460_730_096, 333),
        "MultiTokenPrediction": (424_699_392, 15),
        "Norms": (668_672, 161),
    },
    "35B-A3B": {
        "Attention": (272_629_760, 40),
        "Experts": (32_212_254_720, 30_720),
        "SharedExperts": (125_829_120, 120),
        "RouterAndGate": (21_053_440, 80),
        "LinearAttention": (1_006_632_960, 90),
        "LinearAttentionSmall": (4_920_960, 180),
        "Embedding": (508_559_360, 1),
        "LmHead": (508_559_360, 1),
        "VisionAndProjector": (446_571_248, 333),
        "MultiTokenPrediction": (844_640_768, 785),
        "Norms": (171_008, 101),
    },
    "Gemma-12B": {
        "Attention": (2_406_481_920, 184),
        "Mlp": (8_493_465_600, 144),
        "Embedding": (1_006_632_960, 1),
        "VisionAndProjector": (52_379_904, 11),
        "Norms": (769_792, 289),
        "LayerScalars": (48, 48),
    },
}
_SPLIT_PAIRS = (
    ("mlp.gate_proj", "mlp.up_proj"),
    ("linear_attn.in_proj_qkv", "linear_attn.in_proj_z"),
)
_TOTALS = {"27B": 27_781_427_952, "35B-A3B": 35_951_822_704, "Gemma-12B": 11_959_730_176}
_SHARDINGS: list[Sharding] = [
    "OneFile",
    "BetweenLayers",
    "AfterQProj",
    "InsideGroups",
    "AllQProjTogether",
    "PartnersAlone",
    "OneTensorAFile",
    200,
]


@pytest.mark.parametrize("name", _COUNTS)
def test_full_size_configurations_have_the_published_parameter_counts(name: str) -> None:
    layout = shapes(full_size_config(name))
    assert component_counts(layout) == _COUNTS[name]
    buffers = sum(prod(shape) for tensor, shape in layout.items() if "layer_scalar" in tensor)
    assert sum(map(prod, layout.values())) - buffers == _TOTALS[name]


def test_fused_and_per_expert_layouts_hold_the_same_parameters() -> None:
    config = full_size_config("35B-A3B")
    fused = component_counts(shapes(config, experts="Fused"))
    assert fused == _COUNTS["35B-A3B"] | {"Experts": (32_212_254_720, 80)}
    assert "mtp.layers.0.mlp.experts.255.up_proj.weight" in shapes(config, experts="Fused")


@pytest.mark.parametrize("experts", ["PerExpert", "Fused"])
@pytest.mark.parametrize("name", _COUNTS)
def test_sparse_checkpoints_have_the_published_bytes_and_take_no_disk(
    tmp_path: Path, name: str, experts: ExpertLayout
) -> None:
    directory = write_sparse(tmp_path, full_size_config(name), experts=experts, layer_scalars=False)
    index = json.loads((directory / "model.safetensors.index.json").read_text())
    held: dict[str, str] = {}
    total = 0
    for path in directory.glob("*.safetensors"):
        entries, start = read_header(path)
        held |= dict.fromkeys(entries, path.name)
        data = max(entry["data_offsets"][1] for entry in entries.values())
        assert path.stat().st_size == start + data <= 5_000_000_000 + start
        assert path.stat().st_blocks * 512 < 2 * start + 65536
        total += data
    assert total == index["metadata"]["total_size"] == 2 * _TOTALS[name]
    assert held == index["weight_map"]


def test_layer_scalars_add_their_96_bytes_to_a_sparse_gemma(tmp_path: Path) -> None:
    directory = write_sparse(tmp_path, full_size_config("Gemma-12B"))
    index = json.loads((directory / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == 2 * _TOTALS["Gemma-12B"] + 96


@pytest.mark.parametrize("experts", ["PerExpert", "Fused"])
@pytest.mark.parametrize("model", TINY)
def test_the_safetensors_library_reads_every_tiny_checkpoint_as_we_do(
    tmp_path: Path, model: str, experts: ExpertLayout
) -> None:
    directory = write_checkpoint(tmp_path, model, experts=experts)
    ours = read_checkpoint(directory)
    assert {name: one.shape for name, one in ours.items()} == shapes(
        tiny_config(model), experts=experts
    )
    for path in directory.glob("*.safetensors"):
        with safe_open(path, framework="numpy") as file:
            assert set(file.keys()) == set(read_header(path)[0])
            for name in ours.keys() & file.keys():
                part = file.get_slice(name)
                assert tuple(part.get_shape()) == ours[name].shape
                assert part.get_dtype() == ours[name].dtype == "BF16"
    assert sum(len(one.data) for one in ours.values()) <= 4.2e6


@pytest.mark.parametrize("sharding", _SHARDINGS)
@pytest.mark.parametrize("model", ["qwen3", "qwen3_5", "qwen3_5_moe", "gemma4_unified"])
def test_weights_are_the_same_whatever_the_sharding(
    tmp_path: Path, model: str, sharding: Sharding
) -> None:
    reference = read_checkpoint(write_checkpoint(tmp_path / "reference", model))
    directory = write_checkpoint(tmp_path / "other", model, sharding=sharding)
    assert read_checkpoint(directory) == reference
    files = {path.name for path in directory.glob("*.safetensors")}
    index = directory / "model.safetensors.index.json"
    if sharding == "OneFile":
        assert files == {"model.safetensors"}
        assert not index.exists()
    else:
        assert set(json.loads(index.read_text())["weight_map"].values()) == files
        assert len(files) == min(200, len(reference)) if sharding == 200 else len(files) > 1


def test_awkward_shardings_are_as_awkward_as_they_say(tmp_path: Path) -> None:
    layer = "model.layers.1.self_attn."
    apart = write_checkpoint(tmp_path / "a", "qwen3", sharding="AllQProjTogether")
    queries = read_file(shard_of(apart, f"{layer}q_proj.weight"))
    assert {name for name in queries if "q_proj" in name} == {
        f"model.layers.{index}.self_attn.q_proj.weight" for index in range(2)
    }
    assert f"{layer}k_proj.weight" not in queries
    alone = write_checkpoint(tmp_path / "b", "qwen3", sharding="PartnersAlone")
    partners = read_file(shard_of(alone, f"{layer}k_proj.weight"))
    assert {name.split(".")[-2] for name in partners} == {"k_proj", "v_proj"}
    after = write_checkpoint(tmp_path / "c", "qwen3", sharding="AfterQProj")
    assert list(read_file(shard_of(after, f"{layer}q_proj.weight")))[-1] == f"{layer}q_proj.weight"
    inside = write_checkpoint(tmp_path / "d", "qwen3_5", sharding="InsideGroups")
    first = "model.language_model.layers.0."
    for pair in _SPLIT_PAIRS:
        left, right = (shard_of(inside, f"{first}{one}.weight") for one in pair)
        assert left != right


def test_weights_are_the_same_whatever_the_expert_layout_and_prefix() -> None:
    per_expert = {
        name: values(name, shape) for name, shape in shapes(tiny_config("qwen3_5_moe")).items()
    }
    fused = values("model.layers.0.mlp.experts.gate_up_proj", (8, 128, 128))
    down = values("model.language_model.layers.0.mlp.experts.down_proj", (8, 128, 64))
    prefix = "model.language_model.layers.0.mlp.experts.5."
    assert np.array_equal(fused[5, :64], per_expert[f"{prefix}gate_proj.weight"])
    assert np.array_equal(fused[5, 64:], per_expert[f"{prefix}up_proj.weight"])
    assert np.array_equal(down[5], per_expert[f"{prefix}down_proj.weight"])
    mixtral = "model.layers.0.block_sparse_moe.experts.5.w3.weight"
    assert np.array_equal(values(mixtral, (64, 128)), fused[5, 64:])


def test_members_of_a_fused_group_have_different_maxima() -> None:
    config = tiny_config("qwen3_5_moe")
    maxima = {name: np.abs(values(name, shape)).max() for name, shape in shapes(config).items()}
    layer = "model.language_model.layers."
    groups = [[f"{layer}3.self_attn.{one}_proj" for one in "qkv"]]
    for pair in (("b", "a"), ("qkv", "z")):
        groups += [[f"{layer}0.linear_attn.in_proj_{one}" for one in pair]]
    groups += [[f"{layer}0.mlp.shared_expert.{one}_proj" for one in ("gate", "up")]]
    groups += [
        [f"{layer}0.mlp.experts.{index}.{one}_proj" for one in ("gate", "up")] for index in range(8)
    ]
    for group in groups:
        found = sorted(float(maxima[f"{member}.weight"]) for member in group)
        assert all(right > 1.05 * left for left, right in pairwise(found)), group


def test_seeds_and_kinds_of_weights_differ() -> None:
    name = "model.layers.0.mlp.gate_proj.weight"
    plain = values(name, (256, 128))
    assert abs(float(plain.std()) * 128**0.5 - 1) < 0.02
    assert not np.array_equal(plain, values(name, (256, 128), seed=1))
    outliers = values(name, (256, 128), kind="Outliers")
    assert np.abs(outliers).max() > 5 * np.abs(plain).max()
    subnormal = encode(values(name, (256, 128), kind="Subnormal"), "BF16")
    smallest = np.abs(as_float32(subnormal))
    assert 0 < smallest[smallest > 0].min() < np.finfo(np.float32).tiny


def test_multi_token_prediction_goes_with_its_promise(tmp_path: Path) -> None:
    directory = write_checkpoint(tmp_path, "qwen3_5", multi_token_prediction=False)
    assert not any(name.startswith("mtp.") for name in read_checkpoint(directory))
    text = json.loads((directory / "config.json").read_text())["text_config"]
    assert not any(key.startswith("mtp") for key in text)


def test_a_checkpoint_without_licence_has_no_trace_of_one(tmp_path: Path) -> None:
    with_one = write_checkpoint(tmp_path / "a", "llama", licence="agpl-3.0")
    assert "license: agpl-3.0" in (with_one / "README.md").read_text()
    assert (with_one / "LICENSE").exists()
    without = write_checkpoint(tmp_path / "b", "llama", licence=None)
    assert "license" not in (without / "README.md").read_text()
    assert not (without / "LICENSE").exists()


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
def test_each_precision_is_written_and_read(tmp_path: Path, dtype: str) -> None:
    directory = write_checkpoint(tmp_path, "qwen3", dtype=dtype)
    name = "model.layers.0.mlp.up_proj.weight"
    stored = read_checkpoint(directory)[name]
    exact = values(name, stored.shape)
    assert stored.dtype == dtype
    assert np.abs(as_float32(stored) - exact).max() <= {"F32": 0, "F16": 3e-4, "BF16": 2e-3}[dtype]
    torch_name = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}[dtype]
    assert json.loads((directory / "config.json").read_text())["dtype"] == torch_name


def test_low_bit_sources_have_the_shapes_of_their_tools(tmp_path: Path) -> None:
    module = "model.layers.0.self_attn.k_proj."
    expected = {
        "Nvfp4CompressedTensors": {
            "weight_packed": ("U8", (128, 64)),
            "weight_scale": ("F8_E4M3", (128, 8)),
            "weight_global_scale": ("F32", (1,)),
        },
        "Nvfp4ModelOpt": {
            "weight": ("U8", (128, 64)),
            "weight_scale": ("F8_E4M3", (128, 8)),
            "weight_scale_2": ("F32", ()),
            "input_scale": ("F32", ()),
        },
        "Int4CompressedTensors": {
            "weight_packed": ("I32", (128, 16)),
            "weight_scale": ("BF16", (128, 4)),
            "weight_shape": ("I64", (2,)),
        },
        "Awq": {
            "qweight": ("I32", (128, 16)),
            "qzeros": ("I32", (4, 16)),
            "scales": ("F16", (4, 128)),
        },
        "Gptq": {
            "qweight": ("I32", (16, 128)),
            "qzeros": ("I32", (4, 16)),
            "scales": ("F16", (4, 128)),
            "g_idx": ("I32", (128,)),
        },
    }
    for scheme, parts in expected.items():
        directory = write_low_bit(tmp_path / scheme, "qwen3", scheme)  # type: ignore[arg-type]
        stored = read_checkpoint(directory)
        found = {
            name.removeprefix(module): (one.dtype, one.shape)
            for name, one in stored.items()
            if name.startswith(module)
        }
        assert found == parts
        assert "quantization_config" in json.loads((directory / "config.json").read_text())


def test_each_damage_does_what_its_name_says(tmp_path: Path) -> None:
    directory = write_checkpoint(tmp_path, "qwen3_5")
    name = "model.language_model.layers.3.self_attn.q_proj.weight"
    before = read_checkpoint(directory)
    set_value(directory, name, float("nan"), position=7)
    spoiled = as_float32(read_checkpoint(directory)[name]).reshape(-1)
    assert np.isnan(spoiled).nonzero()[0].tolist() == [7]
    fill(directory, name)
    after = read_checkpoint(directory)
    assert not as_float32(after[name]).any()
    assert {key for key in before if before[key] != after[key]} == {name}
    assert set(drop_tensors(directory, "mtp.")) == {key for key in before if "mtp." in key}
    assert json.loads((directory / "config.json").read_text())["text_config"][
        "mtp_num_hidden_layers"
    ]
    size = shard_of(directory, name).stat().st_size
    assert truncate_shard(directory, name, missing_bytes=3).stat().st_size == size - 3
    assert keep_only_a_pickle(directory).name == "pytorch_model.bin"
    assert not list(directory.glob("*.safetensors*"))


def test_an_overridden_width_reaches_every_tensor_that_has_it() -> None:
    layout = shapes(tiny_config("qwen3", intermediate_size=200))
    assert layout["model.layers.0.mlp.down_proj.weight"] == (128, 200)
    assert layout["model.layers.1.mlp.up_proj.weight"] == (200, 128)


def test_every_tensor_of_every_family_has_a_component() -> None:
    for model in TINY:
        layout = shapes(tiny_config(model))
        norms = [name for name in layout if component(name) == "Norms"]
        assert all("norm" in name and len(layout[name]) == 1 for name in norms)
