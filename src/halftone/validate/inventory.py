"""What lies in a checkpoint, module by module: codes, scales, and the layout that they make.

Built from headers alone by `halftone.validate.inspection`; every check reads it. Dialects differ in
names only: compressed-tensors stores the NVFP4 global scale as a divisor (`weight_global_scale`),
ModelOpt as a multiplier (`weight_scale_2`), DeepSeek's block scales are called `weight_scale_inv`.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from halftone.checkpoint.architectures.table import Architecture, Placement
from halftone.checkpoint.headers import TensorEntry
from halftone.checkpoint.serving_rules import (
    FORMATS_OF_SCHEMES,
    Activations,
    Scheme,
    WeightLayout,
)
from halftone.spec.dtypes import FULL_PRECISION, Dtype
from halftone.spec.formats import FP8_BLOCK_SIDE, NVFP4_GROUP, Format
from halftone.spec.roles import Role

PACKED: Final = "weight_packed"
WEIGHT: Final = "weight"
BLOCK_SCALES: Final = ("weight_scale", "weight_scale_inv")
DIVISOR: Final = "weight_global_scale"
MULTIPLIER: Final = "weight_scale_2"
INPUT_DIVISOR: Final = "input_global_scale"
INPUT_SCALES: Final = (INPUT_DIVISOR, "input_scale")
# Of keys and values; compressed-tensors has them at the attention, ModelOpt at its projections.
CACHE_SCALES: Final = ("k_scale", "v_scale")
# What stands beside a weight and is no weight itself.
COMPANIONS: Final = frozenset(
    {*BLOCK_SCALES, DIVISOR, MULTIPLIER, *INPUT_SCALES, "weight_zero_point", "weight_shape"}
    | {"output_scale", *CACHE_SCALES, "q_scale", "pre_quant_scale", "weight_g_idx"}
)
# Companions that make no sense without a quantized weight beside them.
_WEIGHT_SCALES: Final = (*BLOCK_SCALES, DIVISOR, MULTIPLIER)
SCALE_DTYPES: Final = frozenset({Dtype.BF16, Dtype.F16, Dtype.F32, Dtype.F8_E8M0})
_PLAIN: Final = FULL_PRECISION | {Dtype.F64}
# A stranger's NVFP4 may scale activations at run time, which we never write.
_FORMAT_NAMES: Final = {
    **FORMATS_OF_SCHEMES,
    Scheme(WeightLayout.Nvfp4, Activations.Dynamic): Format.NVFP4,
}


@dataclass(slots=True)
class Module:
    """One module: its tensors by parameter name. A bare parameter is a module of its own.

    `layouts` are the layouts that the stored shapes allow, the likeliest first; a 1x1 block looks
    like one scale for the tensor, and the configuration decides. Empty: full precision. `scheme`
    is what the configuration says, set by `halftone.validate.loading`.
    """

    name: str
    place: Placement
    parts: dict[str, TensorEntry] = field(default_factory=dict)
    layouts: tuple[WeightLayout, ...] = ()
    scheme: Scheme | None = None

    @property
    def key(self) -> str:
        """The weight's logical name, as a plan calls it."""
        return f"{self.name}.{WEIGHT}" if self.place.parameter else self.name

    @property
    def layout(self) -> WeightLayout | None:
        """The layout, None for full precision."""
        return self.layouts[0] if self.layouts else None

    @property
    def codes(self) -> TensorEntry | None:
        """The tensor that holds the codes of a quantized weight, or the plain weight."""
        return self.parts.get(PACKED) or self.parts.get(WEIGHT)

    @property
    def scale(self) -> TensorEntry | None:
        """Scales per block, channel or tensor."""
        return next((self.parts[name] for name in BLOCK_SCALES if name in self.parts), None)

    @property
    def global_scale(self) -> TensorEntry | None:
        """The per-tensor scale of NVFP4."""
        return self.parts.get(DIVISOR) or self.parts.get(MULTIPLIER)

    @property
    def input_scale(self) -> TensorEntry | None:
        """The stored scale of activations."""
        return next((self.parts[name] for name in INPUT_SCALES if name in self.parts), None)

    @property
    def is_divisor(self) -> bool:
        """Whether global scales divide (compressed-tensors) or multiply (ModelOpt)."""
        return DIVISOR in self.parts or PACKED in self.parts

    @property
    def format(self) -> str:
        """The format's name as compressed-tensors' presets have it, or the dtype where kept."""
        layout = self.layout
        if layout is None:
            weight = self.codes or next(iter(self.parts.values()))
            return str(weight.dtype)
        return str(_FORMAT_NAMES.get(Scheme(layout, self.activations), layout))

    @property
    def activations(self) -> Activations:
        """What the configuration says of activations, else what the stored tensors suggest."""
        if self.scheme is not None:
            return self.scheme.activations
        if self.input_scale is not None:
            return Activations.Static
        return Activations.Kept if self.layout is WeightLayout.Nvfp4 else Activations.Dynamic

    @property
    def shape(self) -> tuple[int, ...]:
        """The weight's logical shape, `[N, K]`; () where there is no weight."""
        codes = self.codes
        if codes is None:
            return ()
        if self.layout is WeightLayout.Nvfp4 and codes.dtype is Dtype.U8 and codes.shape:
            return (*codes.shape[:-1], codes.shape[-1] * 2)
        return codes.shape


@dataclass(frozen=True)
class Inventory:
    """All modules by name, and those that a server fuses by the name of the group."""

    modules: dict[str, Module]
    groups: dict[str, list[Module]]
    unlisted: tuple[str, ...]

    @property
    def quantized(self) -> list[Module]:
        """Modules whose weight is in codes."""
        return [module for module in self.modules.values() if module.layouts]


def take_inventory(tensors: Mapping[str, TensorEntry], architecture: Architecture) -> Inventory:
    """Sort `tensors` into modules and groups. Nothing is judged here."""
    modules: dict[str, Module] = {}
    unlisted = []
    for name, entry in tensors.items():
        place = architecture.place(name)
        module = modules.get(place.module)
        if module is None:
            module = modules[place.module] = Module(place.module, place)
        module.parts[place.parameter or WEIGHT] = entry
        if not place.listed:
            unlisted.append(name)
    groups: defaultdict[str, list[Module]] = defaultdict(list)
    for module in modules.values():
        module.layouts = possible_layouts(module.parts)
        if module.place.group is not None and (module.codes is not None or module.layouts):
            groups[module.place.group].append(module)
    # The table's order, gate before up, decides whose scale a server keeps.
    order = {row.path: position for position, row in enumerate(architecture.rows)}
    for members in groups.values():
        members.sort(key=lambda m: order[m.place.row.path] if m.place.row is not None else 0)
        _agree(members)
    return Inventory(modules, dict(groups), tuple(unlisted))


def _agree(members: list[Module]) -> None:
    """Members have one format: readings that not all of them allow are dropped, if any are left."""
    common = set(members[0].layouts).intersection(*(set(m.layouts) for m in members))
    if common:
        for member in members:
            member.layouts = tuple(layout for layout in member.layouts if layout in common)


def possible_layouts(parts: Mapping[str, TensorEntry]) -> tuple[WeightLayout, ...]:
    """Layouts that these tensors of one module may be; () for full precision."""
    packed, weight = parts.get(PACKED), parts.get(WEIGHT)
    if packed is not None:
        return (_of_packed(parts, packed),)
    if weight is None or weight.dtype in _PLAIN:
        return ()
    if weight.dtype is Dtype.U8 and (MULTIPLIER in parts or DIVISOR in parts):
        return (_of_packed(parts, weight),)
    if weight.dtype is not Dtype.F8_E4M3:
        return (WeightLayout.Other,) if weight.dtype not in {Dtype.I64, Dtype.I32} else ()
    scale = next((parts[name] for name in BLOCK_SCALES if name in parts), None)
    if scale is None or len(weight.shape) != 2:
        return (WeightLayout.Fp8Channel,)
    return _of_fp8(weight, scale) or (WeightLayout.Fp8Block,)


def _of_packed(parts: Mapping[str, TensorEntry], packed: TensorEntry) -> WeightLayout:
    scale = parts.get("weight_scale")
    is_mx = scale is not None and scale.dtype in {Dtype.U8, Dtype.F8_E8M0}
    return WeightLayout.Nvfp4 if packed.dtype is Dtype.U8 and not is_mx else WeightLayout.Other


def _of_fp8(weight: TensorEntry, scale: TensorEntry) -> tuple[WeightLayout, ...]:
    """Every reading of the scale's shape, the more usual first."""
    rows, columns = weight.shape
    readings: dict[WeightLayout, set[tuple[int, ...]]] = {
        WeightLayout.Fp8Channel: {(rows, 1), (rows,)},
        WeightLayout.Fp8Tensor: {(), (1,), (1, 1)},
        WeightLayout.Fp8Block: block_shapes(rows, columns),
    }
    if scale.name.endswith("_inv"):
        readings = {WeightLayout.Fp8Block: readings[WeightLayout.Fp8Block]}
    return tuple(layout for layout, shapes in readings.items() if scale.shape in shapes)


def block_shapes(rows: int, columns: int) -> set[tuple[int, ...]]:
    """Shapes that the scales of 128x128 blocks may have: ModelOpt's is four-dimensional.

    It also drops dimensions of one where all of them are.
    """
    down, across = -(-rows // FP8_BLOCK_SIDE), -(-columns // FP8_BLOCK_SIDE)
    shapes: set[tuple[int, ...]] = {(down, across), (down, 1, across, 1)}
    return shapes | {()} if down == across == 1 else shapes


def group_shape(rows: int, columns: int) -> tuple[int, int]:
    """Shape of NVFP4 block scales."""
    return rows, columns // NVFP4_GROUP


def scale_fits(module: Module) -> bool:
    """Whether dtype and shape of the module's scale are those of its layout, so that it decodes."""
    codes, scale = module.codes, module.scale
    if codes is None or scale is None or len(codes.shape) != 2 or 0 in codes.shape:
        return False
    rows, columns = module.shape
    match module.layout:
        case WeightLayout.Nvfp4:
            shape = group_shape(rows, columns)
            return (scale.dtype, scale.shape) == (Dtype.F8_E4M3, shape) and not columns % 16
        case WeightLayout.Fp8Channel:
            shapes: set[tuple[int, ...]] = {(rows, 1), (rows,)}
        case WeightLayout.Fp8Tensor:
            shapes = {(), (1,), (1, 1)}
        case WeightLayout.Fp8Block:
            shapes = block_shapes(rows, columns)
        case _:
            return False
    return scale.dtype in SCALE_DTYPES and scale.shape in shapes


def orphaned_scales(module: Module) -> list[TensorEntry]:
    """Weight scales of a module that has no quantized weight."""
    if module.layouts:
        return []
    return [module.parts[name] for name in _WEIGHT_SCALES if name in module.parts]


def layer_of(module: str) -> tuple[str, int] | None:
    """The prefix and number of the decoder layer that a module lies in, or None."""
    head, mark, rest = module.partition("layers.")
    number, _, _ = rest.partition(".")
    # `isdigit` alone holds for a superscript two, which is no number of a layer.
    return (head, int(number)) if mark and number.isascii() and number.isdecimal() else None


def role_in_layer(module: Module) -> Role:
    """What the module does where it stands: the router of a prediction head is a router."""
    row = module.place.row
    return module.place.role if row is None else row.role
