"""The error that each format makes in the weights, unit by unit, as a server will see them.

Called by `halftone.quantize.sweep.sweeping`. Each tile is read twice at most: for the largest
magnitude of its unit, and again for all formats together. A thread holds one tile at a time.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from math import sqrt
from typing import NamedTuple

from halftone.checkpoint.index import Checkpoint
from halftone.quantize import kernels
from halftone.quantize.sweep.rounding import WeightRounder, weights_of
from halftone.quantize.sweep.sampling import Unit
from halftone.quantize.tiles import Tile, TileReader, require_finite, tiles_of
from halftone.spec.dtypes import Dtype
from halftone.spec.formats import Format
from halftone.spec.job import Recipe
from halftone.spec.roles import Role


class WeightError(NamedTuple):
    """Sums of squares over the weights of a unit and over their errors in one format."""

    weight: float
    error: float

    @property
    def squared(self) -> float:
        """||W - W'||² / ||W||²; weights that are all zero, and stay so, have none."""
        return self.error / self.weight if self.weight else 0.0


UnitErrors = dict[Format, WeightError]


def measure(
    checkpoint: Checkpoint,
    recipe: Recipe,
    units: Sequence[Unit],
    formats: Mapping[Role, Iterable[Format]],
    workers: int,
    advance: Callable[[int], None],
) -> dict[str, UnitErrors]:
    """The errors of each of `units`, by its name, in the formats of its role.

    `advance` is told of bytes of source as they are done, from any thread. Raises
    RefusedInput(NonFiniteWeight) for NaN and infinities.
    """
    reader, rounder = TileReader(checkpoint.source), WeightRounder(recipe)
    # Formats whose weights are another's are not measured twice.
    distinct = {role: tuple(dict.fromkeys(map(weights_of, some))) for role, some in formats.items()}
    with ThreadPoolExecutor(workers, thread_name_prefix="weights") as pool:
        futures = [
            pool.submit(_measure, reader, rounder, unit, distinct[unit.role], advance)
            for unit in units
        ]
        try:
            found = [future.result() for future in futures]
        finally:
            for future in futures:
                future.cancel()
            wait(futures)
    return {
        unit.name: {fmt: errors[weights_of(fmt)] for fmt in formats[unit.role]}
        for unit, errors in zip(units, found, strict=True)
    }


def relative(errors: Iterable[WeightError]) -> float:
    """||W - W'|| / ||W|| over several units, as `quantize` states it of a role."""
    some = list(errors)
    weight = sum(one.weight for one in some)
    return sqrt(sum(one.error for one in some) / weight) if weight else 0.0


def block_tiles(unit: Unit) -> list[Tile]:
    """The tiles of a unit, each beginning where blocks of 128 rows do: any format can take them."""
    return [
        tile
        for member in unit.members
        for tile in tiles_of(member._replace(format=Format.FP8_BLOCK))
    ]


def largest_magnitude(reader: TileReader, tiles: Iterable[Tile]) -> float:
    """The largest magnitude among the weights of some tiles; refuses one that is not finite."""
    maximum = 0.0
    for tile in tiles:
        maximum = max(maximum, require_finite(kernels.amax(reader.read(tile)), tile.tensor))
    return maximum


def is_bfloat16(unit: Unit) -> bool:
    """Whether every member is BF16, on which the rounding of NVFP4's global scale depends."""
    return all(member.dtype is Dtype.BF16 for member in unit.members)


def _measure(
    reader: TileReader,
    rounder: WeightRounder,
    unit: Unit,
    formats: Sequence[Format],
    advance: Callable[[int], None],
) -> UnitErrors:
    tiles = block_tiles(unit)
    maximum = largest_magnitude(reader, tiles)
    sums = dict.fromkeys(formats, WeightError(0.0, 0.0))
    for tile in tiles:
        weights = reader.read(tile)
        for fmt in formats:
            weight, error = rounder.round(fmt, weights, maximum, is_bfloat16(unit))
            sums[fmt] = WeightError(sums[fmt].weight + weight, sums[fmt].error + error)
        advance(tile.source_bytes)
    reader.forget(unit.members)
    return sums
