"""Which format each tensor gets, and why some cannot have it.

A chain of small judgements over names and shapes; each refusal names the tensor and the way out.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final

from halftone.checkpoint.architectures.blocks import LAYER
from halftone.checkpoint.architectures.table import Placement
from halftone.checkpoint.headers import TensorEntry
from halftone.checkpoint.serving_limits import MODELOPT_EXPERTS
from halftone.spec.documents import Group, RoleSummary
from halftone.spec.dtypes import FULL_PRECISION, Dtype
from halftone.spec.errors import RefusedInput
from halftone.spec.formats import FORMATS, CheckpointFormat, Format
from halftone.spec.job import Recipe
from halftone.spec.names import Reason
from halftone.spec.roles import Role

if TYPE_CHECKING:
    from halftone.plan.tensors import LogicalTensor

_GATED: Final = "gate_up_proj"  # the fused name of gate and up in all tables


def refuse_inexpressible(recipe: Recipe) -> None:
    """Raise RefusedInput(NotSupported) for a format that the recipe's layout has no words for."""
    layout = recipe.checkpointFormat
    for line in recipe.precision:
        if layout not in FORMATS[line.format].layouts:
            raise RefusedInput(
                Reason.NotSupported,
                "quantization.checkpointFormat",
                f"`quantization.checkpointFormat: {layout}` cannot express {line.format}, which "
                f"the recipe gives to {line.role}; use "
                f"{CheckpointFormat.CompressedTensors}, or give that role {Format.FP8_BLOCK}.",
            )


def refuse_unserved_experts(roles: Iterable[RoleSummary], recipe: Recipe) -> None:
    """Raise RefusedInput(NotSupported) for experts that no server loads from the layout."""
    if recipe.checkpointFormat is CheckpointFormat.CompressedTensors:
        return
    for line in roles:
        if line.role is Role.Experts and line.format not in {None, *MODELOPT_EXPERTS}:
            raise RefusedInput(
                Reason.NotSupported,
                "quantization.checkpointFormat",
                f"vLLM 0.32 does not load routed experts in {line.format} from "
                f"`quantization.checkpointFormat: {recipe.checkpointFormat}`; use "
                f"{CheckpointFormat.CompressedTensors}, or give {line.role} one of "
                f"{', '.join(sorted(MODELOPT_EXPERTS))}.",
            )


def assigned_format(entry: TensorEntry, place: Placement, recipe: Recipe) -> Format | None:
    """The format of `entry` under `recipe`, None where it keeps the source's precision.

    Raises RefusedInput(ShapeNotQuantizable) for a matrix that the format cannot take.
    """
    fmt = recipe.format_of(place.role)
    if fmt is None or place.row is None:
        return None
    if not place.row.stacked and place.parameter != "weight":
        return None  # biases and the like stay beside their matrix
    _check_shape(entry, fmt, dimensions=3 if place.row.stacked else 2)
    _check_dtype(entry, fmt, stacked=bool(place.row.stacked))
    return fmt


def _check_shape(entry: TensorEntry, fmt: Format, dimensions: int) -> None:
    if 0 in entry.shape:
        raise RefusedInput(
            Reason.ShapeNotQuantizable,
            entry.name,
            f"`{entry.name}` has shape {list(entry.shape)} and so holds no weights to quantize; "
            "remove it from the source, or leave its role out of the recipe.",
        )
    if len(entry.shape) != dimensions:
        raise RefusedInput(
            Reason.ShapeNotQuantizable,
            entry.name,
            f"`{entry.name}` has shape {list(entry.shape)}, but {fmt} takes matrices of "
            f"{dimensions} dimensions; leave its role out of the recipe.",
        )
    multiple = FORMATS[fmt].k_multiple
    if entry.shape[-1] % multiple:
        raise RefusedInput(
            Reason.ShapeNotQuantizable,
            entry.name,
            f"`{entry.name}` has {entry.shape[-1]} columns, but {fmt} needs a multiple of "
            f"{multiple}; give its role {Format.FP8_DYNAMIC} or leave it out of the recipe.",
        )


def _check_dtype(entry: TensorEntry, fmt: Format, stacked: bool) -> None:
    readable = FULL_PRECISION if stacked else FULL_PRECISION | {Dtype.F8_E4M3}
    if entry.dtype not in readable:
        raise RefusedInput(
            Reason.SourceAlreadyQuantized,
            entry.name,
            f"`{entry.name}` is stored as {entry.dtype}, from which {fmt} cannot be made; "
            "give the full-precision repository that it was made from.",
        )


def fused_groups(tensors: "Sequence[LogicalTensor]") -> tuple[Group, ...]:
    """Every group of two or more that a server merges, with its one format.

    Raises RefusedInput(GroupMixesFormats) when members would differ, and
    RefusedInput(ShapeNotQuantizable) for members that cannot be merged, or a gate without its up.
    """
    members: defaultdict[str, list[LogicalTensor]] = defaultdict(list)
    for tensor in tensors:
        if tensor.group is not None and tensor.name.endswith(".weight"):
            members[tensor.group].append(tensor)
    groups = []
    for name, group in members.items():
        formats = {tensor.format for tensor in group}
        if len(formats) > 1:
            told = ", ".join(f"{t.name}: {t.format or 'kept'}" for t in group)
            raise RefusedInput(
                Reason.GroupMixesFormats,
                name,
                f"A server merges the members of `{name}` into one matrix, so they need one "
                f"format, but the recipe gives {told}; give their roles the same format.",
            )
        if group[0].format is not None:
            _refuse_unequal_columns(name, group)
            _refuse_half_of_a_pair(name, group)
        if len(group) > 1:
            groups.append(Group(name, group[0].format, tuple(t.name for t in group)))
    return tuple(groups)


def _refuse_unequal_columns(name: str, group: "Sequence[LogicalTensor]") -> None:
    """A server stacks members along their rows, so all need the same columns."""
    first = group[0]
    for other in group[1:]:
        if other.shape[-1] != first.shape[-1]:
            raise RefusedInput(
                Reason.ShapeNotQuantizable,
                other.name,
                f"A server merges the members of `{name}` into one matrix, but `{first.name}` has "
                f"{first.shape[-1]} columns and `{other.name}` has {other.shape[-1]}; give a "
                "source in which they are equal, or leave their role out of the recipe.",
            )


def _refuse_half_of_a_pair(name: str, group: "Sequence[LogicalTensor]") -> None:
    """Gate and up come in pairs in every family; of q, k and v some layers have fewer.

    The generic table, whose rows begin at no layer, may stand for an MLP without a gate.
    """
    row = group[0].row
    if len(group) > 1 or row is None or row.fused != _GATED or not row.path.startswith(LAYER):
        return
    raise RefusedInput(
        Reason.MalformedCheckpoint,
        group[0].name,
        f"A server merges a gate and an up projection into `{name}`, but the source has "
        f"`{group[0].name}` alone; give a complete source, or leave its role out of the recipe.",
    )
