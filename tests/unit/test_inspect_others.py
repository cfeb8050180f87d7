"""Checkpoints as others write them, and sources that a checkpoint was not made of.

ModelOpt and DeepSeek's FP8 are made from ours or from the builders with NumPy alone, by the names
and conventions of their formats.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from halftone.spec.names import DefectKind
from halftone.spec.roles import Role
from halftone.validate.inspection import inspect_uri
from tests.builders import (
    Tensor,
    set_value,
    tiny_config,
    write_checkpoint,
    write_fp8,
    write_safetensors,
)
from tests.builders import read_checkpoint as read_tensors
from tests.commands import quantize_directory

pytestmark = pytest.mark.timeout(120)  # the first test of a fresh machine compiles kernels

UP = "model.layers.0.mlp.up_proj"


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A dense source, and what we make of it."""
    folder = tmp_path_factory.mktemp("pair")
    source = write_checkpoint(folder / "source", "qwen3")
    return source, quantize_directory(source, folder / "out", "nvfp4a16-mlp").directory


def with_config(directory: Path, block: dict[str, Any] | None) -> None:
    path = directory / "config.json"
    config = json.loads(path.read_text())
    config.pop("quantization_config", None)
    if block is not None:
        config["quantization_config"] = block
    path.write_text(json.dumps(config))


def as_modelopt(checkpoint: Path, target: Path) -> Path:
    """The same weights under ModelOpt's names; its global scale multiplies."""
    shutil.copytree(checkpoint, target)
    tensors = {}
    for name, tensor in read_tensors(checkpoint).items():
        module, _, parameter = name.rpartition(".")
        if parameter == "weight_packed":
            tensors[f"{module}.weight"] = tensor
        elif parameter == "weight_global_scale":
            value = 1 / np.frombuffer(tensor.data, np.float32)
            tensors[f"{module}.weight_scale_2"] = Tensor("F32", (), value.tobytes())
        else:
            tensors[name] = tensor
    write_safetensors(target / "model.safetensors", tensors)
    with_config(target, None)
    own = {"quant_algo": "W4A16_NVFP4", "exclude_modules": ["lm_head", "*self_attn*"]}
    document = {"producer": {"name": "modelopt"}, "quantization": own}
    (target / "hf_quant_config.json").write_text(json.dumps(document))
    return target


def test_modelopts_checkpoint_is_read_like_ours(pair: tuple[Path, Path], tmp_path: Path) -> None:
    source, checkpoint = pair
    ours = inspect_uri(str(checkpoint), str(source))
    theirs = inspect_uri(str(as_modelopt(checkpoint, tmp_path / "x")), str(source))
    assert theirs.defects == ()
    assert theirs.quantMethod == "modelopt"
    assert [(g.name, g.format) for g in theirs.groups] == [(g.name, g.format) for g in ours.groups]
    for their, our in zip(theirs.groups, ours.groups, strict=True):
        assert their.relativeErrorServing == pytest.approx(our.relativeErrorServing, abs=1e-6)


def test_of_modelopts_multipliers_a_server_keeps_the_largest(
    pair: tuple[Path, Path], tmp_path: Path
) -> None:
    source, checkpoint = pair
    copy = as_modelopt(checkpoint, tmp_path / "x")
    tensors = read_tensors(copy)
    name = f"{UP}.weight_scale_2"
    value = np.frombuffer(tensors[name].data, np.float32) / 2
    tensors[name] = tensors[name]._replace(data=value.astype(np.float32).tobytes())
    write_safetensors(copy / "model.safetensors", tensors)

    inspection = inspect_uri(str(copy), str(source))

    # The gate's is right for both and the larger one: alone `up` would decode to half.
    group = next(g for g in inspection.groups if g.name == "model.layers.0.mlp.gate_up_proj")
    assert group.relativeErrorServing == pytest.approx(0.095, abs=0.005)
    assert group.relativeError is not None
    assert group.relativeError > 0.3
    assert [d.kind for d in inspection.defects] == [DefectKind.UnequalGlobalScales]


def test_modelopts_partly_excluded_group_will_not_load(
    pair: tuple[Path, Path], tmp_path: Path
) -> None:
    _, checkpoint = pair
    copy = as_modelopt(checkpoint, tmp_path / "x")
    (copy / "hf_quant_config.json").unlink()
    names = [f"model.layers.{n}.self_attn.{p}_proj" for n in (0, 1) for p in "qko"]
    block = {"quant_method": "modelopt", "quant_algo": "W4A16_NVFP4", "ignore": names}
    with_config(copy, block | {"ignore": ["lm_head", *names]})
    inspection = inspect_uri(str(copy))
    assert {d.kind for d in inspection.defects} == {DefectKind.IgnoreListWillNotLoad}
    assert len(inspection.defects) == 2  # the attention of two layers, whose v is not listed


@pytest.mark.parametrize("scheme", ["Block", "Channel"])
def test_an_fp8_source_is_compared_after_dequantizing(tmp_path: Path, scheme: Any) -> None:
    source = write_fp8(tmp_path / "source", "qwen3", scheme=scheme)
    checkpoint = quantize_directory(source.directory, tmp_path / "out", "nvfp4a16-mlp").directory
    inspection = inspect_uri(str(checkpoint), str(source.directory))
    assert inspection.defects == ()
    roles = {line.role: line for line in inspection.roles}
    # FP8 with coarse values is easier on four bits than Gaussian weights are, never harder.
    assert 0.05 < (roles[Role.Mlp].relativeErrorServing or 0) < 0.1
    assert roles[Role.Attention].relativeErrorServing == 0.0  # kept: dequantized to BF16, exactly


def test_a_block_fp8_release_is_recognised(tmp_path: Path) -> None:
    source = write_fp8(tmp_path / "source", "qwen3", scheme="Block")
    inspection = inspect_uri(str(source.directory))
    assert inspection.defects == ()
    assert inspection.quantMethod == "fp8"
    formats = {line.role: line.format for line in inspection.roles}
    assert formats[Role.Mlp] == formats[Role.Attention] == "FP8_BLOCK"
    assert formats[Role.Embedding] == "BF16"


# With a source ------------------------------------------------------------------------------------


def test_a_kept_weight_that_is_not_the_sources_is_found(
    pair: tuple[Path, Path], tmp_path: Path
) -> None:
    source, checkpoint = pair
    shutil.copytree(checkpoint, tmp_path / "x")
    set_value(tmp_path / "x", "model.embed_tokens.weight", 100.0)
    inspection = inspect_uri(str(tmp_path / "x"), str(source))
    assert [(d.kind, d.tensor) for d in inspection.defects] == [
        (DefectKind.WeightErrorTooLarge, "model.embed_tokens.weight")
    ]


def test_a_kept_weight_may_be_as_large_as_its_dtype_allows(
    pair: tuple[Path, Path], tmp_path: Path
) -> None:
    """Clipping limits of towers are; their squares are beyond float32."""
    copies = [Path(shutil.copytree(one, tmp_path / str(n))) for n, one in enumerate(pair)]
    for copy in copies:
        set_value(copy, "model.embed_tokens.weight", 3.3e38)
    assert inspect_uri(str(copies[1]), str(copies[0])).defects == ()
    set_value(copies[1], "model.embed_tokens.weight", -3.3e38)
    [defect] = inspect_uri(str(copies[1]), str(copies[0])).defects
    assert (defect.kind, defect.tensor) == (
        DefectKind.WeightErrorTooLarge,
        "model.embed_tokens.weight",
    )
    assert "is 2.0000 (relative) away" in defect.message


def test_another_models_weights_are_found(pair: tuple[Path, Path], tmp_path: Path) -> None:
    _, checkpoint = pair
    other = write_checkpoint(tmp_path / "other", "qwen3", seed=7)
    inspection = inspect_uri(str(checkpoint), str(other))
    assert {d.kind for d in inspection.defects} == {DefectKind.WeightErrorTooLarge}
    assert len(inspection.defects) >= len(inspection.groups)


def test_a_source_of_another_shape_is_said_so(pair: tuple[Path, Path], tmp_path: Path) -> None:
    _, checkpoint = pair
    config = tiny_config("qwen3", intermediate_size=512)
    other = write_checkpoint(tmp_path / "other", config)
    inspection = inspect_uri(str(checkpoint), str(other))
    assert {d.kind for d in inspection.defects} >= {DefectKind.UnexpectedLayout}


@pytest.mark.parametrize(
    "block",
    [
        {"quant_method": "compressed-tensors", "config_groups": {"a": []}},
        {"quant_method": "compressed-tensors", "config_groups": [], "ignore": "lm_head"},
        {"quant_method": "modelopt", "quant_algo": ["NVFP4"]},
        {"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION", "quantized_layers": ["x"]},
        {"quant_method": "fp8", "modules_to_not_convert": {"a": 1}},
    ],
)
def test_a_quantization_block_of_another_shape_is_a_defect_and_no_crash(
    pair: tuple[Path, Path], tmp_path: Path, block: dict[str, Any]
) -> None:
    shutil.copytree(pair[1], tmp_path / "x")
    with_config(tmp_path / "x", block)
    assert inspect_uri(str(tmp_path / "x")).defects


@pytest.mark.parametrize(
    ("suffix", "dtype", "shape"),
    [
        ("weight_scale", "BF16", None),  # the right shape, twice the bytes
        ("weight_scale", "F8_E4M3", (4,)),
        ("weight_packed", "U8", (0, 64)),
        ("weight_global_scale", "F32", (3,)),
    ],
)
def test_what_cannot_be_decoded_is_a_defect_and_not_compared(
    pair: tuple[Path, Path], tmp_path: Path, suffix: str, dtype: str, shape: tuple[int, ...] | None
) -> None:
    source, checkpoint = pair
    shutil.copytree(checkpoint, tmp_path / "x")
    tensors = read_tensors(checkpoint)
    shape = shape or tensors[f"{UP}.{suffix}"].shape
    width = {"BF16": 2, "F8_E4M3": 1, "U8": 1, "F32": 4}[dtype]
    data = bytes(width * int(np.prod(shape)))
    tensors[f"{UP}.{suffix}"] = Tensor(dtype, shape, data)
    write_safetensors(tmp_path / "x" / "model.safetensors", tensors)
    inspection = inspect_uri(str(tmp_path / "x"), str(source))
    assert DefectKind.UnexpectedLayout in {d.kind for d in inspection.defects}
