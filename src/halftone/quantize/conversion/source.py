"""What a quantized checkpoint is, ours or a stranger's: its layout, and each module's format.

The configuration says which format a module has, and the stored tensors must be that format's, or
the conversion is refused: a mistake here would be a model that loads and talks nonsense. Only
headers and configurations are read.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NoReturn

from halftone.checkpoint.architectures import GENERIC, find
from halftone.checkpoint.architectures.table import Architecture
from halftone.checkpoint.headers import TensorEntry
from halftone.checkpoint.index import MAX_CONFIG_BYTES, Checkpoint
from halftone.checkpoint.json_objects import parse_object
from halftone.checkpoint.serving_config import (
    expert_parts,
    experts_of,
    is_multimodal,
    quantization_block,
    read_rules,
    runtime_name,
)
from halftone.checkpoint.serving_rules import (
    FORMATS_OF_SCHEMES,
    ModuleKind,
    QuantMethod,
    Rules,
    Scheme,
    ServedModule,
    WillNotLoad,
)
from halftone.spec.dtypes import FULL_PRECISION, Dtype
from halftone.spec.errors import RefusedInput
from halftone.spec.formats import CheckpointFormat, Format, Part, StoredTensor, stored_tensors
from halftone.spec.names import CONFIG_FILE, MODELOPT_CONFIG_FILE, Reason
from halftone.spec.roles import Role

LAYOUTS: Final = {
    QuantMethod.CompressedTensors: CheckpointFormat.CompressedTensors,
    QuantMethod.ModelOpt: CheckpointFormat.ModelOpt,
}
# Of keys and values; they stand beside weights and belong to none.
CACHE_SCALES: Final = ("k_scale", "v_scale")
_CODES: Final = {"weight_packed": frozenset({Dtype.U8}), "weight": {Dtype.U8, Dtype.F8_E4M3}}
# What a kept tensor may be; anything else holds codes.
_PLAIN: Final = FULL_PRECISION | {Dtype.F64, Dtype.I64, Dtype.I32, Dtype.BOOL}
# What writers put beside codes. A model's own parameters may be called `scale` as well.
_COMPANIONS: Final = frozenset(
    {"weight_packed", "weight_scale", "weight_scale_inv", "weight_scale_2", "weight_global_scale"}
    | {"weight_zero_point", "weight_shape", "weight_g_idx", "input_scale", "input_global_scale"}
    | {"input_zero_point", "output_scale", "q_scale", "pre_quant_scale"}
)
_FP8_CACHE: Final = {"num_bits": 8, "type": "float"}


@dataclass(frozen=True)
class QuantizedSource:
    """A quantized checkpoint that every module of is understood.

    `modules` are the tensors of each module by parameter; `formats` names every module that has
    codes; `fp8_cache` says that the configuration asks for an FP8 KV cache.
    """

    checkpoint: Checkpoint
    architecture: Architecture
    layout: CheckpointFormat
    modules: Mapping[str, Mapping[str, TensorEntry]]
    formats: Mapping[str, Format]
    fp8_cache: bool

    def has_weight(self, module: str) -> bool:
        """Whether `module` is on disk, as codes or in full precision."""
        return not {"weight", "weight_packed"}.isdisjoint(self.modules.get(module, ()))


def read_quantized(checkpoint: Checkpoint) -> QuantizedSource:
    """Understand `checkpoint` whole.

    Raises RefusedInput(NothingToConvert) for one that is not quantized, (NotSupported) for methods,
    schemes and companions that have no words in both layouts, (MalformedCheckpoint) where tensors
    and configuration disagree.
    """
    block, rules = _rules(checkpoint)
    architecture = find(checkpoint.config) or GENERIC
    modules: defaultdict[str, dict[str, TensorEntry]] = defaultdict(dict)
    for name, entry in checkpoint.tensors.items():
        module, _, parameter = name.rpartition(".")
        modules[module][parameter] = entry
    layout = LAYOUTS[rules.method]
    quantized = [name for name, parts in modules.items() if _codes(parts) is not None]
    formats = formats_of(quantized, rules, architecture, is_multimodal(checkpoint.tensors))
    for name, parts in modules.items():
        _refuse_unfit(name, parts, formats.get(name), layout)
    return QuantizedSource(
        checkpoint, architecture, layout, modules, formats, _has_fp8_cache(block, layout)
    )


def served(name: str, architecture: Architecture, multimodal: bool) -> ServedModule:
    """The module on disk called `name` as a server asks about it; experts as their layer's."""
    row = architecture.place(f"{name}.weight").row
    if row is not None and row.role is Role.Experts:
        experts = runtime_name(experts_of(name, stacked=False), multimodal)
        return ServedModule(experts, ModuleKind.RoutedExperts, expert_parts(architecture, row))
    kinds = {Role.LmHead: ModuleKind.LmHead, Role.Embedding: ModuleKind.Embedding}
    kind = ModuleKind.Linear if row is None else kinds.get(row.role, ModuleKind.Linear)
    return ServedModule(runtime_name(name, multimodal), kind)


def stored_fits(entry: TensorEntry, stored: StoredTensor, shape: tuple[int, int]) -> bool:
    """Whether `entry` can be what a format stores for a `[rows, columns]` matrix.

    Other writers keep scales in other floating dtypes, and with more or fewer dimensions of one.
    """
    wanted = stored.shape(*shape)
    if stored.dtype in {Dtype.U8, Dtype.F8_E4M3}:
        return entry.dtype is stored.dtype and entry.shape == wanted
    dtypes = FULL_PRECISION if stored.part is Part.Scale else {Dtype.F32, stored.dtype}
    return entry.dtype in dtypes and _squeezed(entry.shape) == _squeezed(wanted)


def matrix_shape(codes: TensorEntry) -> tuple[int, int]:
    """`[rows, columns]` of the weights that `codes` stand for: two of four bits in a byte."""
    rows, columns = codes.shape
    return rows, columns * 2 if codes.dtype is Dtype.U8 else columns


def _squeezed(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(size for size in shape if size != 1)


def _codes(parts: Mapping[str, TensorEntry]) -> TensorEntry | None:
    """The tensor that holds a module's codes; None where it has none."""
    for parameter, dtypes in _CODES.items():
        entry = parts.get(parameter)
        if entry is not None and entry.dtype in dtypes:
            return entry
    return None


# The configuration --------------------------------------------------------------------------------


def _rules(checkpoint: Checkpoint) -> tuple[dict[str, Any], Rules]:
    """The quantization block and its rules; one of the two layouts'."""
    block = quantization_block(checkpoint.config)
    beside = _hf_quant_config(checkpoint)
    try:
        rules = read_rules(checkpoint.config, beside, is_multimodal(checkpoint.tensors))
    except WillNotLoad as reason:
        raise RefusedInput(
            Reason.NotSupported,
            CONFIG_FILE,
            f"The quantization configuration of `{CONFIG_FILE}` cannot be read: {reason}; only "
            "what a server loads is converted.",
        ) from reason
    if rules.method is QuantMethod.Absent:
        raise RefusedInput(
            Reason.NothingToConvert,
            CONFIG_FILE,
            f"`{CONFIG_FILE}` has no quantization block: there is no layout to convert; quantize "
            "the checkpoint with `halftone quantize` first.",
        )
    found = block or beside or {}
    if rules.method not in LAYOUTS:
        raise RefusedInput(
            Reason.NotSupported,
            "quantization_config.quant_method",
            f"`quant_method` '{found.get('quant_method')}' is neither compressed-tensors' layout "
            "nor ModelOpt's; only these two are converted.",
        )
    _refuse_transforms(found)
    return found, rules


def _hf_quant_config(checkpoint: Checkpoint) -> dict[str, Any] | None:
    entry = next((e for e in checkpoint.other_files if e.path == MODELOPT_CONFIG_FILE), None)
    if entry is None or entry.size_bytes > MAX_CONFIG_BYTES:
        return None
    raw = checkpoint.source.read_range(entry.path, 0, entry.size_bytes)
    return parse_object(raw, entry.path)


def _refuse_transforms(block: Mapping[str, Any]) -> None:
    """Rotated or sparse weights mean something else than their bytes say."""
    for field in ("transform_config", "sparsity_config"):
        if block.get(field):
            raise RefusedInput(
                Reason.NotSupported,
                f"quantization_config.{field}",
                f"`{field}` of `{CONFIG_FILE}` is not empty, and ModelOpt's layout has no words "
                "for it; give a checkpoint without.",
            )


def _has_fp8_cache(block: Mapping[str, Any], layout: CheckpointFormat) -> bool:
    """Whether an FP8 cache is asked for; any other quantized cache is refused."""
    inner = block.get("quantization")
    settings = inner if isinstance(inner, Mapping) else block
    field = "kv_cache_scheme"
    scheme = settings.get(field)
    if scheme is None and layout is CheckpointFormat.ModelOpt:
        field = "kv_cache_quant_algo"
        scheme = settings.get(field)
    if scheme in (None, ""):
        return False
    if isinstance(scheme, Mapping):
        fits = all(scheme.get(key) == value for key, value in _FP8_CACHE.items())
        fits = fits and scheme.get("dynamic") in (None, False)
        fits = fits and scheme.get("strategy") in (None, "tensor")
    else:
        fits = scheme == "FP8"
    if not fits:
        raise RefusedInput(
            Reason.NotSupported,
            f"quantization_config.{field}",
            f"`{field}` asks for a KV cache that is not FP8 with one scale for each layer's keys "
            "and values; only that is converted.",
        )
    return True


def formats_of(
    quantized: Sequence[str], rules: Rules, architecture: Architecture, multimodal: bool
) -> dict[str, Format]:
    """The format that the configuration gives each module in `quantized`.

    Asked once for all experts of a layer: where a list names each of 36,000 experts, every
    question costs a walk through it. Raises RefusedInput as `read_quantized` does.
    """
    asked = {name: served(name, architecture, multimodal) for name in quantized}
    modules = dict.fromkeys(asked.values())
    try:
        rules.prepare(modules)
        schemes = {module: rules.scheme_of(module) for module in modules}
    except WillNotLoad as reason:
        raise RefusedInput(
            Reason.MalformedCheckpoint,
            CONFIG_FILE,
            f"A server refuses the quantization configuration: {reason}; mend it first.",
        ) from reason
    formats = {}
    for name, module in asked.items():
        scheme = schemes[module]
        if scheme is None:
            _refuse_undescribed(name)
        if scheme not in FORMATS_OF_SCHEMES:
            _refuse_scheme(name, scheme)
        formats[name] = FORMATS_OF_SCHEMES[scheme]
    return formats


def _refuse_undescribed(name: str) -> NoReturn:
    raise RefusedInput(
        Reason.MalformedCheckpoint,
        name,
        f"`{name}` is stored in codes, but the configuration ignores it or does not name it; "
        "look at the checkpoint with `halftone inspect`.",
    )


def _refuse_scheme(name: str, scheme: Scheme) -> NoReturn:
    raise RefusedInput(
        Reason.NotSupported,
        name,
        f"`{name}` is stored as {scheme.weights} with activations {scheme.activations}, which is "
        f"none of the formats that are converted: {', '.join(FORMATS_OF_SCHEMES.values())}.",
    )


# The tensors --------------------------------------------------------------------------------------


def _refuse_unfit(
    name: str, parts: Mapping[str, TensorEntry], fmt: Format | None, layout: CheckpointFormat
) -> None:
    """Refuse a module whose tensors are not exactly what its format stores."""
    expected = {} if fmt is None else {s.suffix: s for s in _stored(fmt, layout, name)}
    codes = _codes(parts)
    for suffix, stored in expected.items():
        entry = parts.get(suffix)
        shape = None if codes is None or len(codes.shape) != 2 else matrix_shape(codes)
        if entry is None or shape is None or not stored_fits(entry, stored, shape):
            raise RefusedInput(
                Reason.MalformedCheckpoint,
                f"{name}.{suffix}",
                f"`{name}.{suffix}` is missing or is not what {fmt} stores in {layout}'s layout; "
                "look at the checkpoint with `halftone inspect`.",
            )
    for parameter, entry in parts.items():
        if parameter in expected or parameter in CACHE_SCALES:
            continue
        if entry.dtype not in _PLAIN or parameter in _COMPANIONS:
            raise RefusedInput(
                Reason.NotSupported,
                entry.name,
                f"`{entry.name}` ({entry.dtype}) is no part of "
                f"{'a kept module' if fmt is None else fmt} in {layout}'s layout, so its meaning "
                "cannot be carried over; give a checkpoint without it.",
            )


def _stored(fmt: Format, layout: CheckpointFormat, name: str) -> tuple[StoredTensor, ...]:
    """What `fmt` stores; ModelOpt's has no weight-only blocks, so they cannot come from there."""
    try:
        return stored_tensors(fmt, layout)
    except KeyError:
        raise RefusedInput(
            Reason.NotSupported, name, f"`{name}` cannot be {fmt} in {layout}'s layout."
        ) from None
