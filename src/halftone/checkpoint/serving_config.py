"""What a server makes of a quantization block: for each module, ignored or which scheme.

vLLM 0.32 decides by names before it looks at any tensor, and it asks about names that need not be
on disk. These rules are those of its `compressed_tensors`, `modelopt` and `fp8` configurations,
restated for names alone; the block is read where vLLM looks for it.

Called by `halftone.validate`; it reads configuration, never tensors, and must not write any.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from halftone.checkpoint.architectures.table import Architecture, Row
from halftone.checkpoint.serving_compressed_tensors import CompressedTensorsRules
from halftone.checkpoint.serving_modelopt import Fp8Rules, ModelOptRules
from halftone.checkpoint.serving_rules import Rules, UnknownRules
from halftone.spec.roles import Role

_NESTED: Final = "model.language_model."


def read_rules(
    config: Mapping[str, Any], hf_quant_config: Mapping[str, Any] | None, multimodal: bool
) -> Rules:
    """Rules of `config.json`, or of `hf_quant_config.json` where `config.json` has none.

    `multimodal` says that the server keeps the language model under `language_model.`.
    Raises WillNotLoad for a block that cannot be read at all.
    """
    block = quantization_block(config)
    rename = _renamer(multimodal)
    if block is None:
        block = dict(hf_quant_config) if hf_quant_config else None
        if block is None:
            return Rules()
        block.setdefault("quant_method", "modelopt")
    method = str(block.get("quant_method", "")).lower()
    if method == "compressed-tensors" or (not method and "config_groups" in block):
        return CompressedTensorsRules.read(block, rename)
    if method.startswith("modelopt"):
        algorithm = str(block.get("quant_algo", "")).upper()
        if algorithm == "MIXED_PRECISION" and "quantized_layers" not in block and hf_quant_config:
            block = dict(hf_quant_config)
        return ModelOptRules.read(block, rename)
    if method == "fp8":
        return Fp8Rules.read(block, rename)
    return UnknownRules()


def quantization_block(config: Mapping[str, Any]) -> dict[str, Any] | None:
    """The block where vLLM looks for it: top, `text_config`, or the older `compression_config`."""
    text = config.get("text_config")
    for block in (
        config.get("quantization_config"),
        text.get("quantization_config") if isinstance(text, dict) else None,
        config.get("compression_config"),
    ):
        if isinstance(block, dict):
            return block
    return None


def is_multimodal(names: Iterable[str]) -> bool:
    """Whether the language model lies under `model.language_model.`, as multimodal models do.

    `names` are those of all tensors, or of all modules.
    """
    return any(name.startswith(_NESTED) for name in names)


def runtime_name(module: str, multimodal: bool) -> str:
    """The name that vLLM gives to the module called `module` on disk."""
    return _renamer(multimodal)(module)


def _renamer(multimodal: bool) -> Callable[[str], str]:
    return _multimodal_name if multimodal else _plain_name


def _plain_name(name: str) -> str:
    return name


def _multimodal_name(name: str) -> str:
    if name.startswith(_NESTED):
        return "language_model.model." + name.removeprefix(_NESTED)
    if name.startswith("model."):
        return name.removeprefix("model.")
    if name == "lm_head":
        return "language_model.lm_head"
    return name


def merged_parts(architecture: Architecture) -> dict[str, tuple[str, ...]]:
    """For each merged linear layer of a family, the leaf names that a server expects in it."""
    parts: dict[str, dict[str, None]] = {}
    for row in architecture.rows:
        if row.fused is not None and row.role is not Role.Experts:
            parts.setdefault(row.fused, {})[row.path.rpartition(".")[2]] = None
    return {fused: tuple(leaves) for fused, leaves in parts.items()}


def expert_parts(architecture: Architecture, row: Row) -> tuple[str, ...]:
    """The leaf names of one routed expert where `row` stands: gate, up and down, or their like."""
    parent = experts_of(row.path, bool(row.stacked))
    leaves = [
        other.path.rpartition(".")[2]
        for other in architecture.rows
        if other.role is Role.Experts
        and not other.stacked
        and experts_of(other.path, stacked=False) == parent
    ]
    return tuple(dict.fromkeys(leaves))


def experts_of(module: str, stacked: bool) -> str:
    """The module that holds all experts: `...mlp.experts` of `...mlp.experts.3.gate_proj`."""
    return module.rsplit(".", 1 if stacked else 2)[0]
