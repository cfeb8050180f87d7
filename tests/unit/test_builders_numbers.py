"""The builders' BF16 and FP8 arithmetic, held against `ml_dtypes`, and their FP8 sources.

Tests of dequantization and of kernels take these numbers for the truth.
"""

import json
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from tests.builders import Tensor, as_float32, encode, read_checkpoint, shard_of, values, write_fp8
from tests.builders.numbers import (
    Floats,
    bf16_to_float32,
    e4m3_to_float32,
    float32_to_bf16,
    float32_to_e4m3,
)


def test_bf16_rounding_equals_the_reference() -> None:
    bits = np.random.default_rng(0).integers(0, 2**32, 200_000, dtype=np.uint32)
    numbers = bits.view(np.float32)
    numbers = numbers[~np.isnan(numbers)]
    with np.errstate(over="ignore"):
        reference = numbers.astype(ml_dtypes.bfloat16)
    assert np.array_equal(float32_to_bf16(numbers), reference.view(np.uint16))
    assert np.isnan(bf16_to_float32(float32_to_bf16(np.array([np.nan], dtype=np.float32)))).all()


def test_fp8_rounding_equals_the_reference_and_saturates() -> None:
    generator = np.random.default_rng(0)
    numbers = generator.uniform(-448, 448, 100_000).astype(np.float32)
    numbers *= np.exp2(-generator.integers(0, 20, 100_000)).astype(np.float32)
    every = e4m3_to_float32(np.arange(256, dtype=np.uint8))
    finite = every[np.isfinite(every)]
    middles = ((np.sort(finite)[1:] + np.sort(finite)[:-1]) / 2).astype(np.float32)
    for case in (numbers, finite, middles):
        reference = case.astype(ml_dtypes.float8_e4m3fn).view(np.uint8)
        assert np.array_equal(float32_to_e4m3(case), reference)
    assert float32_to_e4m3(np.array([1e9, -np.inf], dtype=np.float32)).tolist() == [0x7E, 0xFE]
    codes = np.arange(256, dtype=np.uint8)
    reference = codes.view(ml_dtypes.float8_e4m3fn).astype(np.float32)
    assert np.array_equal(every, reference, equal_nan=True)


@pytest.mark.parametrize("scale_dtype", ["BF16", "F32"])
@pytest.mark.parametrize("model", ["qwen3_5_moe", "qwen3", "mixtral"])
def test_block_fp8_sources_dequantize_to_what_is_returned(
    tmp_path: Path, model: str, scale_dtype: str
) -> None:
    source = write_fp8(tmp_path, model, scheme="Block", scale_dtype=scale_dtype)
    stored = read_checkpoint(source.directory)
    weights = [name for name, one in stored.items() if one.dtype == "F8_E4M3"]
    assert weights
    for name in weights:
        rows, columns = stored[name].shape
        scale = stored[f"{name}_scale_inv"]
        assert scale.dtype == scale_dtype
        assert scale.shape == (-(-rows // 128), -(-columns // 128))
        ones = np.ones((128, 128), dtype=np.float32)
        spread = np.kron(as_float32(scale), ones)[:rows, :columns]
        _assert_means(source.dequantized[name], as_float32(stored[name]) * spread, name)
    kept = {name: one for name, one in source.dequantized.items() if name not in weights}
    assert {name: stored[name] for name in kept} == kept
    stated = json.loads((source.directory / "config.json").read_text())["quantization_config"]
    assert stated["weight_block_size"] == [128, 128]


def test_channel_fp8_sources_dequantize_to_what_is_returned(tmp_path: Path) -> None:
    source = write_fp8(tmp_path, "qwen3_5", scheme="Channel")
    stored = read_checkpoint(source.directory)
    weights = [name for name, one in stored.items() if one.dtype == "F8_E4M3"]
    assert not any(name.startswith("mtp.") for name in weights)
    for name in weights:
        scale = stored[f"{name}_scale"]
        assert (scale.dtype, scale.shape) == ("BF16", (stored[name].shape[0], 1))
        _assert_means(source.dequantized[name], as_float32(stored[name]) * as_float32(scale), name)


def _assert_means(dequantized: Tensor, product: Floats, name: str) -> None:
    """`dequantized` is `product` in BF16, and near the weight that it came from."""
    assert dequantized == encode(product, "BF16")
    exact = values(name, dequantized.shape)
    assert np.linalg.norm(as_float32(dequantized) - exact) < 0.03 * np.linalg.norm(exact)


def test_a_block_scale_can_lie_in_another_file_than_its_weight(tmp_path: Path) -> None:
    directory = write_fp8(tmp_path, "qwen3", sharding="AfterQProj").directory
    weight = "model.layers.0.self_attn.q_proj.weight"
    assert shard_of(directory, weight) != shard_of(directory, f"{weight}_scale_inv")
