"""Our bytes against llm-compressor's, and our dequantizer against compressed-tensors'.

The peer runs as a process of its own environment and calls the library's own functions on the
same file. BF16 sources must give equal bytes in every format; F32 sources in NVFP4. What the
library computes otherwise for F16 and F32 sources is said in `halftone.quantize`'s modules.
"""

from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray

from halftone.checkpoint import decoding
from halftone.quantize import kernels
from tests.builders.files import Tensor, encode, read_file, write_safetensors
from tests.builders.matrices import every_bf16, hard_matrices
from tests.builders.numbers import Floats, bf16_to_float32, float32_to_bf16
from tests.environments import run

pytestmark = pytest.mark.quantize_env

Weights = NDArray[np.uint16] | NDArray[np.float32]
Stored = dict[str, Tensor]

SEARCHES = (kernels.MEAN_SQUARED_ERROR, kernels.EXHAUSTIVE)


def matrices() -> dict[str, Floats]:
    """Every matrix that is compared, with odd shapes among them."""
    odd = {
        f"odd{rows}x{columns}": hard_matrices(rows, columns, seed=rows)["uneven"]
        for rows, columns in ((16, 16), (129, 1040), (300, 128))
    }
    return hard_matrices() | odd | {"every": every_bf16(), "one-row": every_bf16()[100:101]}


@dataclass(frozen=True)
class Decoded:
    """Tensors as we store them, and what we decode each matrix to."""

    stored: Stored
    values: dict[str, NDArray[np.uint16]]


def searched(search: int) -> Decoded:
    """Every matrix in NVFP4, with scales that were searched."""
    made = Decoded({}, {})
    for name, values in matrices().items():
        tile = float32_to_bf16(values)
        rows, columns = tile.shape
        packed = np.empty((rows, columns // 2), np.uint8)
        scale = np.empty((rows, columns // 16), np.uint8)
        global_scale = kernels.nvfp4_global_scale(kernels.amax(tile))
        kernels.quantize_nvfp4(tile, global_scale, search, packed, scale)
        made.stored[f"{name}.weight_packed"] = Tensor("U8", packed.shape, packed.tobytes())
        made.stored[f"{name}.weight_scale"] = Tensor("F8_E4M3", scale.shape, scale.tobytes())
        made.stored[f"{name}.weight_global_scale"] = encode(np.array([global_scale]), "F32")
        made.values[name] = np.empty((rows, columns), np.uint16)
        decoding.decode_nvfp4(packed, scale, float(global_scale), made.values[name])
    return made


def in_power_of_two_blocks() -> Decoded:
    """Every matrix in FP8 with blocks whose scales are powers of two."""
    made = Decoded({}, {})
    for name, values in matrices().items():
        tile = float32_to_bf16(values)
        rows, columns = tile.shape
        codes = np.empty((rows, columns), np.uint8)
        scale = np.empty((-(-rows // 128), -(-columns // 128)), np.uint16)
        kernels.quantize_fp8_block(tile, codes, scale, power_of_two=True)
        made.stored[f"{name}.weight"] = Tensor("F8_E4M3", codes.shape, codes.tobytes())
        made.stored[f"{name}.weight_scale"] = Tensor("BF16", scale.shape, scale.tobytes())
        made.values[name] = np.empty((rows, columns), np.uint16)
        decoding.decode_fp8_block_bf16(codes, bf16_to_float32(scale), 128, 128, made.values[name])
    return made


def small_halves() -> Floats:
    """A matrix whose global scale overflows F16."""
    return hard_matrices()["gaussian"] * np.float32(1 / 16)


def block_source() -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Codes of a source in FP8, (300, 400), and the inverse scales of its blocks, (3, 4)."""
    draw = np.random.default_rng(0)
    codes = draw.integers(0, 256, (300, 400)).astype(np.uint8)
    codes[(codes & 0x7F) == 0x7F] = 0
    return codes, np.exp2(draw.uniform(-20, 4, (3, 4))).astype(np.float32)


def block_tensors(scale_dtype: str) -> Stored:
    """That source as a checkpoint stores it."""
    codes, scale = block_source()
    return {
        "a.weight": Tensor("F8_E4M3", codes.shape, codes.tobytes()),
        "a.weight_scale_inv": encode(scale, scale_dtype),
    }


def questions() -> dict[str, tuple[str, Stored]]:
    """Scheme and tensors of whatever the library is asked."""

    def encoded(dtype: str) -> Stored:
        return {name: encode(values, dtype) for name, values in matrices().items()}

    return {
        "NVFP4A16-BF16": ("NVFP4A16", encoded("BF16")),
        "NVFP4A16-F32": ("NVFP4A16", encoded("F32")),
        "NVFP4A16-F16": ("NVFP4A16", {"a": encode(small_halves(), "F16")}),
        "FP8_DYNAMIC": ("FP8_DYNAMIC", encoded("BF16")),
        "FP8_BLOCK": ("FP8_BLOCK", encoded("BF16")),
        **{
            f"searched-{search}": ("decompress-NVFP4A16", searched(search).stored)
            for search in SEARCHES
        },
        "power-of-two": ("decompress-FP8_BLOCK", in_power_of_two_blocks().stored),
        "block-F32": ("block-dequantize", block_tensors("F32")),
        "block-BF16": ("block-dequantize", block_tensors("BF16")),
    }


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Stored]:
    """What the library makes of each question; asked in one process."""
    folder = tmp_path_factory.mktemp("library")
    asked, threes = questions(), list[str]()
    for name, (scheme, tensors) in asked.items():
        source = folder / f"{name}.source.safetensors"
        write_safetensors(source, tensors)
        threes += [str(source), scheme, str(folder / f"{name}.safetensors")]
    run("quantize", "compressed_tensors_quantize.py", *threes, timeout_s=280)
    return {name: read_file(folder / f"{name}.safetensors") for name in asked}


def array(tensor: Tensor) -> NDArray[np.generic]:
    """A stored tensor as unsigned bits, or as float32 where it is F32."""
    kinds = {"U8": np.uint8, "F8_E4M3": np.uint8, "BF16": np.uint16, "F32": np.float32}
    return np.frombuffer(tensor.data, kinds[tensor.dtype]).reshape(tensor.shape)


def as_tile(values: Floats, dtype: str) -> Weights:
    """The tile that the engine would make of a source of `dtype`."""
    return float32_to_bf16(values) if dtype == "BF16" else values


def assert_equal(ours: NDArray[np.generic], theirs: Tensor, what: str) -> None:
    """Bit for bit."""
    expected = array(theirs)
    assert ours.shape == expected.shape, what
    assert ours.dtype == expected.dtype, what
    different = int(np.count_nonzero(ours != expected))
    assert different == 0, f"{what}: {different} of {ours.size} differ"


@pytest.mark.parametrize("dtype", ["BF16", "F32"])
def test_nvfp4_bytes_and_values_are_the_librarys(dtype: str, theirs: dict[str, Stored]) -> None:
    stored = theirs[f"NVFP4A16-{dtype}"]
    for name, values in matrices().items():
        tile = as_tile(values, dtype)
        rows, columns = tile.shape
        packed = np.empty((rows, columns // 2), np.uint8)
        scale = np.empty((rows, columns // 16), np.uint8)
        maximum = kernels.amax(tile)
        global_scale = kernels.nvfp4_global_scale(maximum, bfloat16=dtype == "BF16")
        kernels.quantize_nvfp4(tile, global_scale, kernels.MIN_MAX, packed, scale)
        assert_equal(np.array([global_scale]), stored[f"{name}.weight_global_scale"], name)
        assert_equal(scale, stored[f"{name}.weight_scale"], f"{name} scale")
        assert_equal(packed, stored[f"{name}.weight_packed"], f"{name} packed")
        decoded = np.empty((rows, columns), np.uint16)
        decoding.decode_nvfp4(packed, scale, float(global_scale), decoded)
        assert_equal(decoded, stored[f"{name}.decompressed"], f"{name} decompressed")


def test_we_keep_f16_weights_that_the_library_scales_by_one(theirs: dict[str, Stored]) -> None:
    """2688 / amax overflows F16 below an amax of 0.041; the library then stores 1."""
    stored = theirs["NVFP4A16-F16"]
    half = small_halves().astype(np.float16).astype(np.float32)
    decompressed = bf16_to_float32(array(stored["a.decompressed"]).astype(np.uint16))
    rows, columns = half.shape
    packed = np.empty((rows, columns // 2), np.uint8)
    scale = np.empty((rows, columns // 16), np.uint8)
    global_scale = kernels.nvfp4_global_scale(kernels.amax(half), bfloat16=False)
    ours = kernels.quantize_nvfp4(half, global_scale, kernels.MIN_MAX, packed, scale)
    assert array(stored["a.weight_global_scale"]).tolist() == [1.0]
    assert np.linalg.norm(half - decompressed) > 0.3 * np.linalg.norm(half)  # ours: 0.095
    assert (ours[1] / ours[0]) ** 0.5 < 0.1


@pytest.mark.parametrize("scheme", ["FP8_DYNAMIC", "FP8_BLOCK"])
def test_fp8_bytes_and_values_are_the_librarys(scheme: str, theirs: dict[str, Stored]) -> None:
    stored = theirs[scheme]
    for name, values in matrices().items():
        tile = as_tile(values, "BF16")
        rows, columns = tile.shape
        codes = np.empty((rows, columns), np.uint8)
        decoded = np.empty((rows, columns), np.uint16)
        if scheme == "FP8_DYNAMIC":
            scale = np.empty((rows, 1), np.uint16)
            kernels.quantize_fp8_channel(tile, codes, scale.reshape(-1))
            decoding.decode_fp8_channel_bf16(codes, bf16_to_float32(scale), decoded)
        else:
            scale = np.empty((-(-rows // 128), -(-columns // 128)), np.uint16)
            kernels.quantize_fp8_block(tile, codes, scale, power_of_two=False)
            decoding.decode_fp8_block_bf16(codes, bf16_to_float32(scale), 128, 128, decoded)
        assert_equal(scale, stored[f"{name}.weight_scale"], f"{name} scale")
        assert_equal(codes, stored[f"{name}.weight"], f"{name} codes")
        assert_equal(decoded, stored[f"{name}.decompressed"], f"{name} decompressed")


@pytest.mark.parametrize("search", SEARCHES)
def test_searched_scales_decompress_to_our_values(search: int, theirs: dict[str, Stored]) -> None:
    for name, decoded in searched(search).values.items():
        assert_equal(decoded, theirs[f"searched-{search}"][f"{name}.decompressed"], name)


def test_power_of_two_blocks_decompress_to_our_values(theirs: dict[str, Stored]) -> None:
    for name, decoded in in_power_of_two_blocks().values.items():
        assert_equal(decoded, theirs["power-of-two"][f"{name}.decompressed"], name)


@pytest.mark.parametrize("scale_dtype", ["F32", "BF16"])
def test_a_block_fp8_source_is_dequantized_as_the_library_does(
    scale_dtype: str, theirs: dict[str, Stored]
) -> None:
    codes, scale = block_source()
    if scale_dtype == "BF16":
        scale = bf16_to_float32(float32_to_bf16(scale))
    ours = np.empty(codes.shape, np.uint16)
    decoding.decode_fp8_block_bf16(codes, scale, 128, 128, ours)
    assert_equal(ours, theirs[f"block-{scale_dtype}"]["a.weight"], "dequantized source")
