"""How fast the kernels are, alone: weights in memory, no file, on one thread and on two.

Prints a table for people and one JSON line; `python -m benchmarks` calls it too. A rate of one
thread is taken from its processor time, so that other work does not count; that of two is the
wall clock's. Tiles are the engine's size and larger together than the second-level cache.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.measuring import Result
from halftone.checkpoint import decoding
from halftone.plan.resources import TILE_BYTES
from halftone.quantize import kernels
from tests.builders.numbers import float32_to_bf16

COLUMNS = 4096
ROWS = TILE_BYTES // (2 * COLUMNS)
TILES = 8
ROUNDS = 5


class Buffers(NamedTuple):
    """A tile of BF16 weights and room for every result."""

    tile: NDArray[np.uint16]
    packed: NDArray[np.uint8]
    group_scale: NDArray[np.uint8]
    codes: NDArray[np.uint8]
    row_scale: NDArray[np.uint16]
    block_scale: NDArray[np.uint16]
    wide: NDArray[np.float32]
    narrow: NDArray[np.uint16]


class Rate(NamedTuple):
    """Millions of weights a second, and the relative error where the kernel reports one."""

    name: str
    one_thread: float
    two_threads: float
    first_call_s: float
    relative_error: float | None


def buffers(seed: int) -> Buffers:
    """Gaussian weights."""
    draw = np.random.default_rng(seed)
    wide = draw.standard_normal((ROWS, COLUMNS), dtype=np.float32) * np.float32(0.02)
    return Buffers(
        float32_to_bf16(wide),
        np.zeros((ROWS, COLUMNS // 2), np.uint8),
        np.zeros((ROWS, COLUMNS // 16), np.uint8),
        np.zeros((ROWS, COLUMNS), np.uint8),
        np.zeros(ROWS, np.uint16),
        np.zeros((-(-ROWS // 128), COLUMNS // 128), np.uint16),
        wide,
        np.zeros((ROWS, COLUMNS), np.uint16),
    )


def cases(global_scale: np.float32) -> dict[str, Callable[[Buffers], Any]]:
    """Every kernel, as a function of one tile's buffers."""

    def nvfp4(search: int) -> Callable[[Buffers], Any]:
        return lambda b: kernels.quantize_nvfp4(
            b.tile, global_scale, search, b.packed, b.group_scale
        )

    return {
        "amax": lambda b: kernels.amax(b.tile),
        "nvfp4 MinMax": nvfp4(kernels.MIN_MAX),
        "nvfp4 MeanSquaredError": nvfp4(kernels.MEAN_SQUARED_ERROR),
        "nvfp4 Exhaustive": nvfp4(kernels.EXHAUSTIVE),
        "fp8 channel": lambda b: kernels.quantize_fp8_channel(b.tile, b.codes, b.row_scale),
        "fp8 block": lambda b: kernels.quantize_fp8_block(b.tile, b.codes, b.block_scale, False),
        "fp8 block, power of two": lambda b: kernels.quantize_fp8_block(
            b.tile, b.codes, b.block_scale, True
        ),
        "decode nvfp4": lambda b: decoding.decode_nvfp4(
            b.packed, b.group_scale, float(global_scale), b.wide
        ),
        "decode fp8 to BF16": lambda b: decoding.decode_fp8_tensor_bf16(b.codes, 0.5, b.narrow),
    }


def measure(name: str, case: Callable[[Buffers], Any], tiles: Sequence[Buffers]) -> Rate:
    """The best of some rounds."""
    weights = sum(one.tile.size for one in tiles)
    begun = time.perf_counter()
    result = case(tiles[0])
    first = time.perf_counter() - begun
    alone = together = float("inf")
    with ThreadPoolExecutor(2) as pool:
        for _ in range(ROUNDS):
            begun = time.thread_time()
            for one in tiles:
                case(one)
            alone = min(alone, time.thread_time() - begun)
            begun = time.perf_counter()
            list(pool.map(case, tiles))
            together = min(together, time.perf_counter() - begun)
    error = (result[1] / result[0]) ** 0.5 if isinstance(result, tuple) else None
    return Rate(name, weights / alone / 1e6, weights / together / 1e6, first, error)


def table(rates: Sequence[Rate]) -> str:
    """The rates for people; GB/s count BF16 weights, two bytes each."""
    lines = [f"{'kernel':26}{'1 thread':>22}{'2 threads':>22}{'first call':>12}{'error':>9}"]
    for rate in rates:
        one, two = (
            f"{value:7.0f} M/s {value / 500:5.2f} GB/s"
            for value in (rate.one_thread, rate.two_threads)
        )
        error = "" if rate.relative_error is None else f"{rate.relative_error:.5f}"
        lines.append(f"{rate.name:26}{one:>22}{two:>22}{rate.first_call_s:>10.2f} s{error:>9}")
    return "\n".join(lines)


def rows(rates: Mapping[str, Rate]) -> list[Result]:
    """What the issue asks of kernels, and what was measured."""
    speed = rates["nvfp4 MinMax"].one_thread / 500
    search = rates["nvfp4 MeanSquaredError"].two_threads
    measured = {name: rate._asdict() for name, rate in rates.items()}
    wanted = [
        ("kernel NVFP4 MinMax, one core, BF16 in", ">= 2.0 GB/s", f"{speed:.2f} GB/s", speed >= 2),
        (
            "kernel NVFP4 MeanSquaredError, two cores",
            ">= 60 M weights/s",
            f"{search:.0f} M weights/s",
            search >= 60,
        ),
    ]
    for name, low, high in (
        ("nvfp4 MinMax", 0.093, 0.097),
        ("nvfp4 MeanSquaredError", 0.0, 0.089),
        ("nvfp4 Exhaustive", 0.0, 0.082),
    ):
        error = rates[name].relative_error or 0.0
        target = f"{low} to {high}" if low else f"<= {high}"
        met = low <= error <= high
        wanted.append((f"relative error, Gaussian, {name}", target, f"{error:.4f}", met))
    searched, plain = (rates[f"nvfp4 {name}"].relative_error for name in ("Exhaustive", "MinMax"))
    ratio = (searched or 0.0) / (plain or 1.0)
    against = "relative error, Gaussian, Exhaustive against MinMax"
    wanted.append((against, "<= 0.86 times", f"{ratio:.3f} times", 0 < ratio <= 0.86))
    return [Result(*row, {"rates": measured}) for row in wanted]


def main(_scratch: Path | None = None) -> list[Result]:
    """Measure every kernel; prints the table and one JSON line, returns the rows with a target."""
    tiles = [buffers(seed) for seed in range(TILES)]
    global_scale = kernels.nvfp4_global_scale(max(kernels.amax(one.tile) for one in tiles))
    rates = {name: measure(name, case, tiles) for name, case in cases(global_scale).items()}
    print(table(list(rates.values())))
    print(json.dumps({"benchmark": "kernels", "rates": [r._asdict() for r in rates.values()]}))
    return rows(rates)


if __name__ == "__main__":
    main()
