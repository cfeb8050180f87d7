"""What headers alone can show to be wrong: missing and surplus tensors, shapes, mixed formats.

Each function is one judgement over the inventory and returns the defects that it finds.
Called by `halftone.validate.inspection`.
"""

from collections.abc import Iterable, Iterator, Mapping
from math import prod
from typing import Any, Final

from halftone.checkpoint.architectures import find, text_config
from halftone.checkpoint.architectures.table import TEXT_PREFIXES
from halftone.checkpoint.headers import TensorEntry
from halftone.checkpoint.serving_rules import WeightLayout
from halftone.spec.dtypes import Dtype
from halftone.spec.names import CONFIG_FILE, INDEX_FILE, DefectKind
from halftone.spec.roles import Role
from halftone.validate.findings import Defect
from halftone.validate.inventory import (
    DIVISOR,
    MULTIPLIER,
    SCALE_DTYPES,
    Inventory,
    Module,
    group_shape,
    layer_of,
    orphaned_scales,
    role_in_layer,
    scale_fits,
)
from halftone.validate.layers import missing, missing_in_layers

_PROMISES: Final = ("mtp_num_hidden_layers", "num_nextn_predict_layers")


def structural_defects(inventory: Inventory, config: Mapping[str, Any]) -> list[Defect]:
    """Everything below, in one list."""
    return [
        *companion_defects(inventory),
        *mixed_groups(inventory),
        *quantized_routers(inventory),
        *missing_in_layers(inventory, config),
        *missing_outside_layers(inventory, config),
        *broken_promises(inventory, config),
    ]


def index_defects(index_only: Iterable[str], unindexed: Iterable[str]) -> Iterator[Defect]:
    """Names on which the index and the shards do not agree; a misplaced tensor is both."""
    for name in index_only:
        yield Defect(
            kind=DefectKind.MissingTensor,
            tensor=name,
            message=f"`{INDEX_FILE}` promises `{name}`, and it is not in the shard that it names.",
        )
    for name in unindexed:
        yield Defect(
            kind=DefectKind.UnexpectedTensor,
            tensor=name,
            message=f"`{name}` is in a shard where `{INDEX_FILE}` does not have it.",
        )


# Companions and shapes ----------------------------------------------------------------------------


def companion_defects(inventory: Inventory) -> Iterator[Defect]:
    """Weights without their scales, scales without their weights, shapes that do not fit."""
    for module in inventory.modules.values():
        if module.layout is WeightLayout.Nvfp4:
            yield from _nvfp4_defects(module)
        elif module.layout is not None and module.layout is not WeightLayout.Other:
            yield from _fp8_defects(module)
        for scale in orphaned_scales(module):
            yield Defect(
                kind=DefectKind.UnexpectedTensor,
                tensor=scale.name,
                message=f"`{scale.name}` scales codes that are not there: `{module.name}` has no "
                "quantized weight.",
            )


def _nvfp4_defects(module: Module) -> Iterator[Defect]:
    codes, scale, global_scale = module.codes, module.scale, module.global_scale
    if codes is None or len(codes.shape) != 2:
        yield _unexpected(module, codes, "packed codes of shape [N, K/2]")
        return
    rows, columns = module.shape
    if scale is None:
        yield _missing(module, "weight_scale", "one FP8 scale for 16 weights")
    elif not scale_fits(module):
        expected = f"F8_E4M3 {list(group_shape(rows, columns))}, one scale for 16 weights"
        yield _unexpected(module, scale, expected)
    if global_scale is None:
        name = DIVISOR if module.is_divisor else MULTIPLIER
        yield _missing(module, name, "the scale of the whole tensor")
    elif global_scale.dtype is not Dtype.F32 or prod(global_scale.shape) != 1:
        yield _unexpected(module, global_scale, "one F32 number")


def _fp8_defects(module: Module) -> Iterator[Defect]:
    codes, scale = module.codes, module.scale
    if codes is None or len(codes.shape) != 2:
        yield _unexpected(module, codes, "codes of shape [N, K]")
    elif scale is None:
        yield _missing(module, "weight_scale", "the scales of its FP8 codes")
    elif scale.dtype not in SCALE_DTYPES:
        yield _unexpected(module, scale, f"a scale in one of {', '.join(sorted(SCALE_DTYPES))}")
    elif not scale_fits(module):
        rows, columns = codes.shape
        yield _unexpected(
            module,
            scale,
            f"one number, [{rows}, 1], or one number for 128x128 of [{rows}, {columns}]",
        )


def _missing(module: Module, parameter: str, what: str) -> Defect:
    name = f"{module.name}.{parameter}"
    return Defect(
        kind=DefectKind.MissingTensor,
        tensor=name,
        message=f"`{name}` is missing: {what}, without which the codes of `{module.name}` mean "
        "nothing.",
    )


def _unexpected(module: Module, entry: TensorEntry | None, expected: str) -> Defect:
    name = module.key if entry is None else entry.name
    found = "" if entry is None else f"{entry.dtype} {list(entry.shape)}"
    return Defect(
        kind=DefectKind.UnexpectedLayout,
        tensor=name,
        message=f"`{name}` is {found}, where {module.layout} has {expected}.",
    )


# Groups and routers -------------------------------------------------------------------------------


def mixed_groups(inventory: Inventory) -> Iterator[Defect]:
    """Fused groups whose members differ in format."""
    for name, members in inventory.groups.items():
        first = members[0]
        odd = next((m for m in members if m.layout is not first.layout), None)
        if odd is not None:
            yield Defect(
                kind=DefectKind.MixedFormatsInGroup,
                tensor=odd.key,
                message=f"A server merges `{name}` from matrices of one format, but "
                f"`{odd.name}` is stored in {odd.format} and `{first.name}` in {first.format}.",
            )


def quantized_routers(inventory: Inventory) -> Iterator[Defect]:
    """Routers and shared-expert gates in codes: servers keep them whole and cannot read these."""
    for module in inventory.quantized:
        if role_in_layer(module) is Role.Router:
            yield Defect(
                kind=DefectKind.RouterQuantized,
                tensor=module.key,
                message=f"`{module.name}` picks experts and is stored in {module.format}; servers "
                "build it in full precision, and small errors in it change which experts run.",
            )


# Outside of layers --------------------------------------------------------------------------------


def missing_outside_layers(inventory: Inventory, config: Mapping[str, Any]) -> Iterator[Defect]:
    """No embedding, or no head although the configuration says that it is not tied."""
    roles = {module.place.role for module in inventory.modules.values()}
    if Role.Embedding not in roles:
        yield missing("embed_tokens.weight", "the checkpoint has no embedding")
    if find(dict(config)) is not None and not any(
        f"{prefix}norm" in inventory.modules for prefix in TEXT_PREFIXES
    ):
        yield missing("norm.weight", "the language model has no final norm")
    text = text_config(dict(config))
    ties = [part["tie_word_embeddings"] for part in (config, text) if "tie_word_embeddings" in part]
    if ties and not any(ties) and Role.LmHead not in roles:
        yield missing("lm_head.weight", "the configuration says that the head is not tied")


def broken_promises(inventory: Inventory, config: Mapping[str, Any]) -> Iterator[Defect]:
    """A multi-token-prediction head that only the configuration has."""
    text = text_config(dict(config))
    promised = {key: part[key] for part in (config, text) for key in _PROMISES if part.get(key)}
    trunk = text.get("num_hidden_layers")
    for key, number in promised.items():
        present = any(
            module.place.role is Role.MultiTokenPrediction or _is_beyond(module.name, trunk)
            for module in inventory.modules.values()
        )
        if not present:
            yield Defect(
                kind=DefectKind.MultiTokenPredictionMissing,
                tensor=f"{CONFIG_FILE}:{key}",
                message=f"`{key}` of `{CONFIG_FILE}` is {number}, but the checkpoint has no "
                "multi-token-prediction head; speculative decoding would accept nothing and "
                "cost time. Set it to 0, or add the head's weights.",
            )


def _is_beyond(module: str, trunk: Any) -> bool:
    """Whether the module lies after the trunk's last layer, where some families put the head."""
    where = layer_of(module)
    return where is not None and isinstance(trunk, int) and where[1] >= trunk
