"""Sources that are FP8 already: read, dequantized on the way in, and quantized like any other.

The builder's own dequantization, in NumPy, is what everything is held against.
"""

import json
from pathlib import Path

import pytest

from halftone.plan.planning import Planned
from halftone.spec.errors import RefusedInput
from halftone.spec.names import Reason, WarningReason
from tests.builders import (
    Config,
    Fp8Source,
    Sharding,
    Tensor,
    as_float32,
    drop_tensors,
    encode,
    read_checkpoint,
    read_file,
    read_header,
    shard_of,
    tiny_config,
    write_checkpoint,
    write_fp8,
    write_safetensors,
    write_tensors,
)
from tests.commands import quantize_directory, wide_config, write_recipe

LAYER = "model.layers.0."


def in_full_precision(directory: Path, config: Config, fp8: Fp8Source) -> Path:
    """The same model as its publisher would have given it in BF16."""
    return write_tensors(directory, config, fp8.dequantized)


def warnings_of(planned: Planned) -> set[WarningReason]:
    return {notice.reason for notice in planned.plan.warnings}


@pytest.mark.parametrize("preset", ["nvfp4a16", "fp8-dynamic", "fp8-block"])
@pytest.mark.parametrize("scheme", ["Block", "Channel"])
def test_quantizing_fp8_is_quantizing_what_it_stands_for(
    scheme: str, preset: str, tmp_path: Path
) -> None:
    config = tiny_config("qwen3_5_moe")
    fp8 = write_fp8(tmp_path / "fp8", config, scheme=scheme)  # type: ignore[arg-type]
    full = in_full_precision(tmp_path / "full", config, fp8)

    first = quantize_directory(fp8.directory, tmp_path / "first", preset)
    second = quantize_directory(full, tmp_path / "second", preset)

    assert WarningReason.SourceDequantized in warnings_of(first.planned)
    assert WarningReason.SourceDequantized not in warnings_of(second.planned)
    assert read_checkpoint(first.directory) == read_checkpoint(second.directory)
    configs = [json.loads((made.directory / "config.json").read_text()) for made in (first, second)]
    assert configs[0] == configs[1]
    assert first.document.groups == second.document.groups


@pytest.mark.parametrize("scheme", ["Block", "Channel"])
@pytest.mark.parametrize("scale_dtype", ["BF16", "F32"])
def test_kept_matrices_are_written_as_what_they_stand_for(
    scheme: str, scale_dtype: str, tmp_path: Path
) -> None:
    fp8 = write_fp8(
        tmp_path / "fp8",
        "qwen3_5",
        scheme=scheme,  # type: ignore[arg-type]
        scale_dtype=scale_dtype,
    )
    recipe = write_recipe(tmp_path / "recipe.yaml", precision={"Attention": "NVFP4A16"})

    made = quantize_directory(fp8.directory, tmp_path / "output", recipe)

    kept = {row.name for row in made.planned.full_document().tensors if row.format is None}
    stored = read_checkpoint(made.directory)
    assert {name: stored[name] for name in kept} == {name: fp8.dequantized[name] for name in kept}
    dequantized = {name for name in kept if read_source(fp8, name).dtype == "F8_E4M3"}
    assert any(".mlp." in name for name in dequantized)
    assert not [name for name in stored if name.endswith("_scale_inv")]


def read_source(fp8: Fp8Source, name: str) -> Tensor:
    return read_file(shard_of(fp8.directory, name))[name]


@pytest.mark.parametrize("scheme", ["Block", "Channel"])
def test_matrices_of_several_tiles_find_their_scales(scheme: str, tmp_path: Path) -> None:
    config = wide_config(layers=1)
    fp8 = write_fp8(tmp_path / "fp8", config, scheme=scheme)  # type: ignore[arg-type]
    full = in_full_precision(tmp_path / "full", config, fp8)
    recipe = write_recipe(tmp_path / "recipe.yaml", precision={"Mlp": "NVFP4A16"})

    first = quantize_directory(fp8.directory, tmp_path / "first", recipe)
    second = quantize_directory(full, tmp_path / "second", recipe)

    assert read_checkpoint(first.directory) == read_checkpoint(second.directory)


@pytest.mark.parametrize("sharding", ["OneFile", "AfterQProj", "OneTensorAFile"])
def test_a_scale_may_lie_in_another_file_than_its_weight(
    sharding: Sharding, tmp_path: Path
) -> None:
    fp8 = write_fp8(tmp_path / "fp8", "qwen3", sharding=sharding)
    usual = write_fp8(tmp_path / "usual", "qwen3")

    made = quantize_directory(fp8.directory, tmp_path / "output")

    expected = quantize_directory(usual.directory, tmp_path / "expected")
    assert made.document.digest == expected.document.digest


def test_one_scale_for_a_whole_tensor_is_understood(tmp_path: Path) -> None:
    config = tiny_config("qwen3")
    fp8 = write_fp8(tmp_path / "fp8", config, scheme="Channel")
    full = {}
    for path in fp8.directory.glob("*.safetensors"):
        tensors = read_file(path)
        for name in [name for name in tensors if name.endswith("_scale")]:
            tensors[name] = Tensor("F32", (), encode(as_float32(tensors[name])[0], "F32").data)
            weight = name.removesuffix("_scale")
            values = as_float32(tensors[weight]) * as_float32(tensors[name])
            full[weight] = encode(values, "BF16")
        write_safetensors(path, tensors)
    source = in_full_precision(
        tmp_path / "full", config, Fp8Source(fp8.directory, fp8.dequantized | full)
    )

    first = quantize_directory(fp8.directory, tmp_path / "first")
    second = quantize_directory(source, tmp_path / "second")

    assert full
    assert read_checkpoint(first.directory) == read_checkpoint(second.directory)


def test_activation_scales_of_the_source_are_left_behind(tmp_path: Path) -> None:
    fp8 = write_fp8(tmp_path / "fp8", "qwen3", sharding="OneFile")
    path = fp8.directory / "model.safetensors"
    tensors = read_file(path)
    stale = [f"{LAYER}self_attn.q_proj.input_scale", f"{LAYER}self_attn.k_scale"]
    tensors |= {name: Tensor("F32", (), b"\0\0\x80?") for name in stale}
    write_safetensors(path, tensors)

    made = quantize_directory(fp8.directory, tmp_path / "output")

    assert not set(stale) & read_checkpoint(made.directory).keys()


@pytest.mark.parametrize(
    ("tensor", "position", "byte"),
    [
        (f"{LAYER}mlp.up_proj.weight", 70, 0x7F),  # NaN in E4M3
        (f"{LAYER}mlp.up_proj.weight_scale_inv", 1, 0x7F),  # 0x7F… in BF16: no number
        (f"{LAYER}self_attn.o_proj.weight", 0, 0xFF),
    ],
)
@pytest.mark.parametrize("role", ["Mlp", "Attention"])
def test_nan_in_a_weight_or_its_scale_is_refused_by_name(
    tensor: str, position: int, byte: int, role: str, tmp_path: Path
) -> None:
    """Whether the tensor is quantized by the recipe or kept."""
    fp8 = write_fp8(tmp_path / "fp8", "qwen3")
    path = shard_of(fp8.directory, tensor)
    entries, start = read_header(path)
    data = bytearray(path.read_bytes())
    place = start + entries[tensor]["data_offsets"][0] + position
    data[place] = byte
    if tensor.endswith("_scale_inv"):
        data[place - 1] = 0xC0  # 0x7FC0 is NaN
    path.write_bytes(data)
    recipe = write_recipe(tmp_path / "recipe.yaml", precision={role: "NVFP4A16"})

    with pytest.raises(RefusedInput) as refused:
        quantize_directory(fp8.directory, tmp_path / "output", recipe)

    assert refused.value.reason is Reason.NonFiniteWeight
    assert f"`{tensor.removesuffix('_scale_inv')}`" in refused.value.message
    assert not list(tmp_path.glob("*output*"))
    assert not list(tmp_path.glob(".*output*"))


def test_an_fp8_weight_without_its_scale_is_refused(tmp_path: Path) -> None:
    fp8 = write_fp8(tmp_path / "fp8", "qwen3")
    [name] = drop_tensors(fp8.directory, "layers.1.mlp.down_proj.weight_scale_inv")

    with pytest.raises(RefusedInput) as refused:
        quantize_directory(fp8.directory, tmp_path / "output")

    assert refused.value.reason is Reason.MalformedCheckpoint
    assert f"`{name.removesuffix('_scale_inv')}` is F8_E4M3 but has no" in refused.value.message


def test_a_scale_of_another_shape_is_refused(tmp_path: Path) -> None:
    fp8 = write_fp8(tmp_path / "fp8", "qwen3", sharding="OneFile")
    path = fp8.directory / "model.safetensors"
    name = f"{LAYER}mlp.up_proj.weight_scale_inv"
    write_safetensors(path, read_file(path) | {name: Tensor("BF16", (3, 1), b"\x80?" * 3)})

    with pytest.raises(RefusedInput) as refused:
        quantize_directory(fp8.directory, tmp_path / "output")

    assert f"`{name}` is BF16 [3, 1], which does not scale" in refused.value.message


def test_a_scale_beside_a_weight_in_full_precision_is_refused(tmp_path: Path) -> None:
    """Kept, it would have the name of the scale that is written, and a reader would find one."""
    source = write_checkpoint(tmp_path / "source", "qwen3", sharding="OneFile")
    path = source / "model.safetensors"
    name = f"{LAYER}mlp.up_proj.weight_scale"
    write_safetensors(path, read_file(path) | {name: Tensor("F32", (1,), b"\0\0\x80?")})

    with pytest.raises(RefusedInput) as refused:
        quantize_directory(source, tmp_path / "output", "fp8-dynamic")

    assert refused.value.subject == name
    assert "a name that the output needs" in refused.value.message
