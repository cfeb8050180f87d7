"""The configuration of a converted checkpoint, made from what is stored and held against it.

Where all matrices of a role have one format, compressed-tensors' block is made of the
architecture's table, as for our own checkpoints; else it names every module. Whatever was made is
then read as a server reads it, and must give every matrix the format that it has.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any, Final, NoReturn

from halftone.checkpoint.modelopt_config import modelopt_block, modelopt_config
from halftone.checkpoint.quantization_config import quantization_config, quantized_model_config
from halftone.checkpoint.serving_config import (
    is_multimodal,
    merged_parts,
    read_rules,
    runtime_name,
)
from halftone.checkpoint.serving_rules import (
    FORMATS_OF_SCHEMES,
    ModuleKind,
    Rules,
    Scheme,
    ServedModule,
    WillNotLoad,
)
from halftone.quantize.conversion.source import (
    QuantizedSource,
    served,
)
from halftone.spec.dtypes import FULL_PRECISION
from halftone.spec.errors import RefusedInput
from halftone.spec.formats import CheckpointFormat, Format
from halftone.spec.job import KvCache, KvCacheFormat, Recipe, RolePrecision
from halftone.spec.names import CONFIG_FILE, MODELOPT_CONFIG_FILE, Reason
from halftone.spec.roles import QUANTIZABLE_ROLES, Role

_BLOCK: Final = "quantization_config"


def configuration_files(source: QuantizedSource, to: CheckpointFormat) -> dict[str, dict[str, Any]]:
    """`config.json`, and what else says how `source` is quantized once it is in layout `to`.

    Raises RefusedInput(NotSupported) where `to` has no words for the precision of a module.
    """
    formats = matrices(source)
    recipe, roles = _recipe(source, formats)
    config = quantized_model_config(
        source.checkpoint.config, source.architecture, recipe or _NOTHING, roles
    )
    files = {CONFIG_FILE: config}
    if to is CheckpointFormat.ModelOpt:
        document = modelopt_config(source.architecture, formats, fp8_cache=source.fp8_cache)
        config[_BLOCK] = modelopt_block(document)
        files[MODELOPT_CONFIG_FILE] = document
    elif recipe is None:
        config[_BLOCK] = _enumerated(source, formats)
    _require_told(source, formats, config, to)
    return files


def matrices(source: QuantizedSource) -> dict[str, Format | None]:
    """Every matrix on disk, by its module's name, with its format; None where it is kept.

    Stacks of experts are modules by themselves. Norms and single parameters are left out.
    """
    found: dict[str, Format | None] = {}
    for module, parts in source.modules.items():
        for parameter, entry in parts.items():
            if parameter == "weight" and module in source.formats:
                continue
            row = source.architecture.place(entry.name).row
            if row is not None and row.stacked:
                found[entry.name] = None
            elif parameter == "weight" and len(entry.shape) > 1 and entry.dtype in FULL_PRECISION:
                found[module] = None
        if module in source.formats:
            found[module] = source.formats[module]
    return found


_NOTHING: Final = Recipe(name="converted", precision=())


def _recipe(
    source: QuantizedSource, formats: Mapping[str, Format | None]
) -> tuple[Recipe | None, set[Role]]:
    """The recipe that gives these formats, or None where no format by role does; and all roles."""
    by_role: defaultdict[Role, set[Format | None]] = defaultdict(set)
    for name, fmt in formats.items():
        place = source.architecture.place(f"{name}.weight")
        if place.row is None or not place.row.stacked:
            by_role[place.role].add(fmt)
    lines = []
    for role in dict.fromkeys([*(row.role for row in source.architecture.rows), *by_role]):
        found = by_role.get(role, set())
        if found <= {None}:
            continue
        fmt = next(iter(found))
        if len(found) > 1 or fmt is None or role not in QUANTIZABLE_ROLES:
            return None, set(by_role)
        lines.append(RolePrecision(role=role, format=fmt))
    cache = KvCache(format=KvCacheFormat.FP8) if source.fp8_cache else None
    recipe = Recipe(name=_NOTHING.name, precision=tuple(lines), kvCache=cache)
    return recipe, set(by_role)


def _enumerated(source: QuantizedSource, formats: Mapping[str, Format | None]) -> dict[str, Any]:
    """compressed-tensors' block with a list of names for each format, and one for what is kept.

    The parts that a server would merge with what is on disk are listed with it.
    """
    members: defaultdict[Format | None, list[str]] = defaultdict(list)
    for name, fmt in formats.items():
        members[fmt] += [name, *_absent_parts(source, formats, name)]
    cache = KvCache(format=KvCacheFormat.FP8) if source.fp8_cache else None
    told = [fmt for fmt in members if fmt is not None]
    # The schemes of our own blocks, under roles that stand for nothing but their order.
    stand_ins = sorted(QUANTIZABLE_ROLES)[: len(told)]
    lines = tuple(RolePrecision(role=r, format=f) for r, f in zip(stand_ins, told, strict=True))
    recipe = Recipe(name=_NOTHING.name, precision=lines, kvCache=cache)
    block = quantization_config(source.architecture, recipe, stand_ins)
    for number, fmt in enumerate(told):
        block["config_groups"][f"group_{number}"]["targets"] = list(dict.fromkeys(members[fmt]))
    return block | {"ignore": list(dict.fromkeys([*members[None], "lm_head"]))}


def _absent_parts(
    source: QuantizedSource, formats: Mapping[str, Format | None], name: str
) -> Iterator[str]:
    group = source.architecture.place(f"{name}.weight").group
    if group is None:
        return
    parent, _, fused = group.rpartition(".")
    for part in merged_parts(source.architecture).get(fused, ()):
        if f"{parent}.{part}" not in formats:
            yield f"{parent}.{part}"


# Held against what is stored ----------------------------------------------------------------------


def _require_told(
    source: QuantizedSource,
    formats: Mapping[str, Format | None],
    config: Mapping[str, Any],
    to: CheckpointFormat,
) -> None:
    """Read `config` as a server does: every matrix, alone and merged, must get its format."""
    multimodal = is_multimodal(source.checkpoint.tensors)
    asked: dict[ServedModule, tuple[str, Format | None]] = {}
    for module, stored in _asked(source, formats, multimodal):
        asked.setdefault(module, stored)
    try:
        rules: Rules = read_rules(config, None, multimodal)
        rules.prepare(asked)
    except WillNotLoad as reason:
        raise RefusedInput(
            Reason.NotSupported,
            CONFIG_FILE,
            f"The `{CONFIG_FILE}` that {to}'s layout would have cannot be read back: {reason}; "
            "leave the checkpoint in its own layout.",
        ) from reason
    for module, (name, fmt) in asked.items():
        try:
            scheme = rules.scheme_of(module)
        except WillNotLoad as reason:
            _refuse_untold(name, fmt, to, str(reason))
        if (None if scheme is None else FORMATS_OF_SCHEMES.get(scheme)) is not fmt:
            _refuse_untold(name, fmt, to, f"a server would take it for {_word(scheme)}")


def _word(scheme: Scheme | None) -> str:
    """What users know a scheme by: each that our configurations ask for is that of a format."""
    return "unquantized" if scheme is None else FORMATS_OF_SCHEMES[scheme]


def _asked(
    source: QuantizedSource, formats: Mapping[str, Format | None], multimodal: bool
) -> Iterator[tuple[ServedModule, tuple[str, Format | None]]]:
    """What a server asks about, with the matrix that it stands for and that matrix's format."""
    merged = merged_parts(source.architecture)
    for name, fmt in formats.items():
        place = source.architecture.place(f"{name}.weight")
        yield served(name, source.architecture, multimodal), (name, fmt)
        fused = (place.group or "").rpartition(".")[2]
        routed = place.row is not None and place.row.role is Role.Experts
        # A layer that takes keys and values from another has queries only, and merges nothing.
        if place.group is None or routed or name.endswith(".q_proj"):
            continue
        whole = runtime_name(place.group, multimodal)
        yield ServedModule(whole, ModuleKind.Linear, merged[fused]), (name, fmt)


def _refuse_untold(name: str, fmt: Format | None, to: CheckpointFormat, why: str) -> NoReturn:
    stored = "unquantized" if fmt is None else fmt
    raise RefusedInput(
        Reason.NotSupported,
        name,
        f"`{name}` is {stored}, and {to}'s configuration cannot say so: {why}; leave the "
        "checkpoint in its own layout.",
    )
