"""How far the served weights are from the source's: ||W - W'|| / ||W||, streamed over tiles.

W' is decoded twice: with each tensor's own global scale, and with the one that a server keeps for
the whole fused group. The second is what users get; the first shows what was possible. For FP8 both
are the same: servers requantize per-tensor scales that differ, at a small loss left out here.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from math import sqrt
from typing import Final

from halftone.checkpoint.serving_rules import WeightLayout
from halftone.spec.dtypes import FLOATING
from halftone.spec.errors import RefusedInput
from halftone.spec.files import FileSource
from halftone.spec.names import DefectKind, Reason, RemarkReason
from halftone.spec.roles import Role
from halftone.validate.budget import Budget
from halftone.validate.comparison import Comparison, Pair, Tile, sample_tile, stored_bytes, tiles_of
from halftone.validate.findings import Coverage, Defect, Extent, Remark
from halftone.validate.inventory import COMPANIONS, PACKED, Inventory, Module, scale_fits
from halftone.validate.originals import Originals, canonical
from halftone.validate.scales import (
    Scales,
    Unit,
    in_order_of_interest,
    is_usable,
    served_scale,
)
from halftone.validate.streaming import for_all

# Relative errors (warn above, fail above). Gaussian weights give 0.095 in NVFP4 and 0.026 in FP8;
# real ones have shown 0.082 to 0.11. Kept weights are copies, or rounded once from F32 (0.002).
LIMITS: Final[dict[WeightLayout | None, tuple[float, float]]] = {
    WeightLayout.Nvfp4: (0.11, 0.15),
    WeightLayout.Fp8Channel: (0.035, 0.10),
    WeightLayout.Fp8Block: (0.045, 0.10),
    WeightLayout.Fp8Tensor: (0.045, 0.10),
    None: (0.01, 0.01),
}
# Serving may not be worse than each tensor alone by more than this.
SERVING_RATIO: Final = 1.02


class Kept(Enum):
    """Which tensors in full precision are compared with the source's beside the quantized ones."""

    All = "All"
    Dequantized = "Dequantized"  # those that the source has in FP8; the others are plain copies


@dataclass(slots=True)
class Sums:
    """Sums of squares: the weights, the error of each tensor alone, and the error as served."""

    weight: float = 0.0
    own: float = 0.0
    serving: float = 0.0

    def add(self, weight: float, own: float, serving: float) -> None:
        """Add one tile."""
        self.weight += weight
        self.own += own
        self.serving += serving

    @property
    def relative(self) -> tuple[float, float]:
        """Relative error alone and as served. All-zero weights that stay zero have none."""
        return _relative(self.own, self.weight), _relative(self.serving, self.weight)


@dataclass
class Errors:
    """Sums by unit and by (role, format); `units` has an entry only for what was compared."""

    units: dict[str, Sums] = field(default_factory=lambda: defaultdict(Sums))
    roles: dict[tuple[Role, str], Sums] = field(default_factory=lambda: defaultdict(Sums))
    coverage: Coverage = field(
        default_factory=lambda: Coverage(extent=Extent.NotRead, read=0, total=0)
    )
    defects: list[Defect] = field(default_factory=list)
    remarks: list[Remark] = field(default_factory=list)


def measure(
    source: FileSource,
    inventory: Inventory,
    units: Sequence[Unit],
    scales: Scales,
    originals: Originals,
    budgets: tuple[Budget | None, Budget | None],
    kept: Kept = Kept.All,
    tolerated: float = 0.0,
) -> Errors:
    """Compare every weight with its original, or a sample within `budgets`.

    `budgets` are for the checkpoint and for the source; None for a directory. A sample takes some
    rows of each matrix, and units in order of interest. An error up to `tolerated` is within every
    group's limit, whatever its format; serving may not be worse than each tensor alone even so.
    """
    errors = Errors()
    pairs = list(_quantized_pairs(units, scales, originals, errors))
    wanted = sum(len(unit.members) for unit in units)
    _refuse_another_model(originals, units)
    errors.defects += _lost(inventory, originals)
    if budgets == (None, None):
        pairs += [
            pair
            for pair in _kept_pairs(inventory, originals)
            if kept is Kept.All or pair.original.scale is not None
        ]
        tiles = [tile for pair in pairs for tile in tiles_of(pair)]
    else:
        tiles = list(_sample(units, pairs, budgets))
    comparison = Comparison(source, originals, scales)
    found: list[tuple[float, float, float]] = [(0.0, 0.0, 0.0)] * len(tiles)

    def compare(position: int) -> None:
        found[position] = comparison.tile(tiles[position])

    for_all(range(len(tiles)), compare)
    # Added in order, so that sums do not depend on which thread was faster.
    for tile, sums in zip(tiles, found, strict=True):
        _book(errors, tile.pair, sums)
    compared = len({tile.pair.entry.name for tile in tiles if tile.pair.unit is not None})
    extent = Extent.Complete if compared == wanted else Extent.Sampled
    errors.coverage = Coverage(extent=extent, read=compared, total=wanted)
    _judge(errors, units, pairs, tolerated)
    return errors


def _refuse_another_model(originals: Originals, units: Sequence[Unit]) -> None:
    """A source that has none of the quantized matrices proves nothing."""
    if units and not any(originals.find(m.key) for unit in units for m in unit.members):
        raise RefusedInput(
            Reason.SourceNotFound,
            originals.source.uri,
            f"'{originals.source.uri}' has none of the quantized matrices, not even "
            f"`{units[0].members[0].key}`; give the checkpoint that this one was made of.",
        )


def _lost(inventory: Inventory, originals: Originals) -> list[Defect]:
    """What the source has and the checkpoint does not; names alone, so it costs nothing."""
    present = {canonical(m.key) for m in inventory.modules.values() if m.codes is not None}
    for module in inventory.modules.values():
        present |= {canonical(entry.name) for entry in module.parts.values()}
    return [
        Defect(
            kind=DefectKind.MissingTensor,
            tensor=name,
            message=f"`{name}` of the source is not in the checkpoint.",
        )
        for name in originals.lost(present)
    ]


def _book(errors: Errors, pair: Pair, found: tuple[float, float, float]) -> None:
    name = pair.entry.name if pair.unit is None else pair.unit.name
    fmt = str(pair.entry.dtype) if pair.unit is None else pair.module.format
    errors.units[name].add(*found)
    errors.roles[pair.module.place.role, fmt].add(*found)


# What is compared with what -----------------------------------------------------------------------


def _quantized_pairs(
    units: Sequence[Unit], scales: Scales, originals: Originals, errors: Errors
) -> Iterator[Pair]:
    """Quantized weights with their originals; what has none is remarked."""
    absent = []
    for unit in units:
        served = served_scale(unit, scales)
        for module in unit.members:
            codes, original = module.codes, originals.find(module.key)
            if codes is None or not _is_decodable(module, scales, served):
                continue
            if original is None:
                absent.append(module.key)
            elif original.shape != module.shape:
                errors.defects.append(
                    Defect(
                        kind=DefectKind.UnexpectedLayout,
                        tensor=module.key,
                        message=f"`{module.key}` has shape {list(module.shape)}, but in the "
                        f"source it has {list(original.shape)}.",
                    )
                )
            else:
                yield Pair(module, codes, original, unit, served)
    if absent:
        errors.remarks.append(
            Remark(
                reason=RemarkReason.NotInSource,
                subject=absent[0],
                message=f"{len(absent)} quantized matrices are not in the source and were not "
                f"compared, the first of them `{absent[0]}`.",
            )
        )


def _is_decodable(module: Module, scales: Scales, served: float | None) -> bool:
    """Whether everything is there that decoding needs; what is not is a defect elsewhere."""
    if not scale_fits(module):
        return False
    if module.layout is not WeightLayout.Nvfp4:
        return True
    known = (scales.of(module.global_scale), served)
    return all(value is not None and is_usable(value) for value in known)


def _kept_pairs(inventory: Inventory, originals: Originals) -> Iterator[Pair]:
    """Tensors in full precision, which must be what the source has."""
    for module in inventory.modules.values():
        for parameter, entry in module.parts.items():
            is_code = bool(module.layouts) and parameter in {PACKED, "weight"}
            if is_code or parameter in COMPANIONS or entry.dtype not in FLOATING:
                continue
            if not entry.shape or 0 in entry.shape:
                continue
            original = originals.find(entry.name)
            if original is not None and original.shape == entry.shape:
                yield Pair(module, entry, original, None, None)


def _sample(
    units: Sequence[Unit], pairs: Sequence[Pair], budgets: tuple[Budget | None, Budget | None]
) -> Iterator[Tile]:
    """One tile of each matrix, as many units as both budgets allow."""
    by_unit: defaultdict[str, list[Pair]] = defaultdict(list)
    for pair in pairs:
        if pair.unit is not None:
            by_unit[pair.unit.name].append(pair)
    left = [[b.nbytes, b.requests] if b is not None else None for b in budgets]
    for unit in in_order_of_interest(units):
        tiles = [sample_tile(pair) for pair in by_unit[unit.name]]
        costs = (
            [sum(stored_bytes(tile) for tile in tiles), 2 * len(tiles)],
            [sum(tile.rows * tile.pair.original.row_bytes for tile in tiles), 2 * len(tiles)],
        )
        fits = all(
            purse is None or (cost[0] <= purse[0] and cost[1] <= purse[1])
            for purse, cost in zip(left, costs, strict=True)
        )
        if not fits:
            continue
        for purse, cost in zip(left, costs, strict=True):
            if purse is not None:
                purse[0] -= cost[0]
                purse[1] -= cost[1]
        yield from tiles


def _relative(error: float, weight: float) -> float:
    if error == 0.0:
        return 0.0
    return sqrt(error / weight) if weight > 0.0 else float("inf")


# Verdicts -----------------------------------------------------------------------------------------


def _judge(errors: Errors, units: Sequence[Unit], pairs: Sequence[Pair], tolerated: float) -> None:
    layouts: dict[str, WeightLayout | None] = {u.name: u.members[0].layout for u in units}
    tensors = {u.name: u.members[0].key for u in units}
    layouts |= {pair.entry.name: None for pair in pairs if pair.unit is None}
    high = []
    for name, sums in errors.units.items():
        own, serving = sums.relative
        warn, fail = LIMITS.get(layouts[name], (float("inf"), float("inf")))
        tensor = tensors.get(name, name)
        limit = max(fail, tolerated)
        if not serving <= limit:
            errors.defects.append(_too_large(tensor, f"`{name}`", serving, f"{limit:g}"))
        elif serving > own * SERVING_RATIO:
            told = f"{SERVING_RATIO:g} times {own:.4f}, which each member alone would have"
            errors.defects.append(_too_large(tensor, f"`{name}`", serving, told))
        elif serving > warn:
            high.append((serving, name))
    if high:
        worst, name = max(high)
        errors.remarks.append(
            Remark(
                reason=RemarkReason.WeightErrorHigh,
                subject=name,
                message=f"{len(high)} groups have a higher weight error than is usual for their "
                f"format, the worst `{name}` with {worst:.4f}.",
            )
        )


def _too_large(tensor: str, what: str, serving: float, limit: str) -> Defect:
    return Defect(
        kind=DefectKind.WeightErrorTooLarge,
        tensor=tensor,
        message=f"As a server decodes it, {what} is {serving:.4f} (relative) away from the "
        f"source; the limit is {limit}.",
    )
