"""From what lies in the source's shards to the tensors that the plan is about.

A logical tensor is what a server will ask for by name: stacked experts are taken apart into one
matrix per expert and projection, and an FP8 weight stands together with its scale. Called by
`halftone.plan.planning`; the engine reads weights through the extents found here.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, NamedTuple

from halftone.checkpoint.architectures import text_config
from halftone.checkpoint.architectures.table import Architecture, Placement, Row
from halftone.checkpoint.headers import MAX_TENSORS, TensorEntry
from halftone.checkpoint.index import Checkpoint
from halftone.plan.precision import assigned_format
from halftone.spec.dtypes import Dtype
from halftone.spec.errors import RefusedInput
from halftone.spec.formats import Format
from halftone.spec.job import MultiTokenPrediction, Recipe
from halftone.spec.names import CONFIG_FILE, Reason
from halftone.spec.roles import Role

# Under which names configurations say how many routed experts a layer has.
_EXPERT_COUNTS: Final = ("num_experts", "num_local_experts", "n_routed_experts")


class ScaleKind(StrEnum):
    """How many weights of an FP8 source share one scale."""

    Tensor = "Tensor"
    Channel = "Channel"
    Block = "Block"


class SourceScale(NamedTuple):
    """The multipliers of an FP8 source tensor, and where they lie."""

    kind: ScaleKind
    entry: TensorEntry
    block: tuple[int, int]


class LogicalTensor(NamedTuple):
    """One tensor as a server asks for it.

    `offset` and `source_bytes` are its extent in `file`; `dtype` is what the values are after
    dequantization (`scale` set: stored in FP8, read as BF16).
    """

    name: str
    role: Role
    format: Format | None
    group: str | None
    row: Row | None
    dtype: Dtype
    shape: tuple[int, ...]
    file: str
    offset: int
    source_bytes: int
    scale: SourceScale | None

    @property
    def kept_bytes(self) -> int:
        """Bytes when written as it is."""
        return self.dtype.nbytes(self.shape)


@dataclass(frozen=True)
class LogicalTensors:
    """Everything that will be written, and the names that the table does not list."""

    tensors: tuple[LogicalTensor, ...]
    unlisted: tuple[str, ...]


def logical_tensors(
    checkpoint: Checkpoint,
    architecture: Architecture,
    recipe: Recipe,
    scales: dict[str, SourceScale],
) -> LogicalTensors:
    """Every tensor of `checkpoint` with role, format and group.

    `scales` (by the name of the weight) come from `halftone.plan.sources`; the scale tensors
    themselves are consumed. Raises RefusedInput for a shape that a format cannot take.
    """
    found: list[LogicalTensor] = []
    unlisted: list[str] = []
    consumed = {scale.entry.name for scale in scales.values()}
    drop_mtp = recipe.multiTokenPrediction is MultiTokenPrediction.Drop
    for name, entry in checkpoint.tensors.items():
        if name in consumed:
            continue
        place = architecture.place(name)
        if place.role is Role.MultiTokenPrediction and drop_mtp:
            continue
        if not place.listed:
            unlisted.append(name)
        if place.row is not None and place.row.stacked:
            refuse_unbounded(entry, place.row, checkpoint.config, len(found))
        found.extend(_logical(entry, place, recipe, scales.get(name)))
    return LogicalTensors(tuple(found), tuple(unlisted))


def _logical(
    entry: TensorEntry, place: Placement, recipe: Recipe, scale: SourceScale | None
) -> Iterator[LogicalTensor]:
    fmt = assigned_format(entry, place, recipe)
    if fmt is not None and place.row is not None and place.row.stacked:
        yield from _unstacked(entry, place.row, fmt)
        return
    yield LogicalTensor(
        entry.name,
        place.role,
        fmt,
        place.group,
        place.row,
        entry.dtype if scale is None else Dtype.BF16,
        entry.shape,
        entry.file,
        entry.offset,
        entry.nbytes,
        scale,
    )


def refuse_unbounded(entry: TensorEntry, row: Row, config: dict[str, Any], others: int) -> None:
    """Refuse a stack of experts that `config` does not promise, or of more than headers may hold.

    A stack names its experts by one number, so a few bytes could otherwise fill our memory.
    `others` are the logical tensors that there are already.
    """
    if len(entry.shape) != 3:
        return
    experts, text = entry.shape[0], text_config(config)
    promised = {key: text[key] for key in _EXPERT_COUNTS if isinstance(text.get(key), int)}
    if promised and experts not in promised.values():
        key, count = next(iter(promised.items()))
        raise RefusedInput(
            Reason.MalformedCheckpoint,
            entry.name,
            f"`{entry.name}` stacks {experts} experts, but `{key}` of `{CONFIG_FILE}` is {count}; "
            "fetch both of one revision.",
        )
    total = others + experts * len(row.stacked)
    if total > MAX_TENSORS:
        raise RefusedInput(
            Reason.MalformedCheckpoint,
            entry.name,
            f"With the {experts} experts of `{entry.name}` the checkpoint holds {total} tensors, "
            f"and {MAX_TENSORS} are allowed; fetch the file again.",
        )


def _unstacked(entry: TensorEntry, row: Row, fmt: Format) -> Iterator[LogicalTensor]:
    """One logical tensor per expert and part of `[experts, parts * rows, columns]`."""
    experts, all_rows, columns = entry.shape
    rows, rest = divmod(all_rows, len(row.stacked))
    if rest:
        raise RefusedInput(
            Reason.ShapeNotQuantizable,
            entry.name,
            f"`{entry.name}` stacks {len(row.stacked)} projections in {all_rows} rows, "
            "which they cannot share evenly; re-save the model with one matrix per expert.",
        )
    parent = entry.name.rpartition(".")[0]
    nbytes = entry.dtype.nbytes((rows, columns))
    offset = entry.offset
    for expert in range(experts):
        group = f"{parent}.{expert}.gate_up_proj" if len(row.stacked) > 1 else None
        for part in row.stacked:
            yield LogicalTensor(
                f"{parent}.{expert}.{part}.weight",
                row.role,
                fmt,
                group,
                row,
                entry.dtype,
                (rows, columns),
                entry.file,
                offset,
                nbytes,
                None,
            )
            offset += nbytes
