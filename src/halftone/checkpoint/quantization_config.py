"""The `quantization_config` that goes into `config.json`, as vLLM 0.32 loads it.

Targets and ignores are regular expressions made from the architecture's table, never a list of the
modules at hand: a list that names q and k of a layer without `v_proj` does not load (a server asks
for all three names of the merged module). vLLM matches with `re.match`, first the ignores, then
the groups in order, on run-time names whose prefix differs from the one on disk, so every
expression accepts all of them.
"""

import re
from collections import defaultdict
from collections.abc import Iterable
from typing import Any, Final

from halftone.checkpoint.architectures.table import RUNTIME_PREFIXES, Architecture, Row
from halftone.spec.formats import FP8_BLOCK_SIDE, NVFP4_GROUP, Format
from halftone.spec.job import KvCacheFormat, MultiTokenPrediction, Recipe
from halftone.spec.roles import Role

_FLOAT4: Final[dict[str, Any]] = {
    "num_bits": 4,
    "type": "float",
    "strategy": "tensor_group",
    "group_size": NVFP4_GROUP,
    "symmetric": True,
}
_FLOAT8: Final[dict[str, Any]] = {"num_bits": 8, "type": "float", "symmetric": True}
_PER_TENSOR: Final[dict[str, Any]] = _FLOAT8 | {"strategy": "tensor", "dynamic": False}
_BLOCK_WEIGHTS: Final[dict[str, Any]] = _FLOAT8 | {
    "strategy": "block",
    "block_structure": [FP8_BLOCK_SIDE, FP8_BLOCK_SIDE],
    "dynamic": False,
}

# weights, input activations, and the name of the layout in compressed-tensors.
_SCHEMES: Final[dict[Format, tuple[dict[str, Any], dict[str, Any] | None, str]]] = {
    Format.NVFP4A16: (_FLOAT4 | {"dynamic": False}, None, "nvfp4-pack-quantized"),
    Format.NVFP4: (
        _FLOAT4 | {"dynamic": False},
        _FLOAT4 | {"dynamic": "local"},
        "nvfp4-pack-quantized",
    ),
    Format.FP8: (_PER_TENSOR, _PER_TENSOR, "float-quantized"),
    Format.FP8_DYNAMIC: (
        _FLOAT8 | {"strategy": "channel", "dynamic": False},
        _FLOAT8 | {"strategy": "token", "dynamic": True},
        "float-quantized",
    ),
    Format.FP8_BLOCK: (
        _BLOCK_WEIGHTS,
        _FLOAT8 | {"strategy": "group", "group_size": FP8_BLOCK_SIDE, "dynamic": True},
        "float-quantized",
    ),
    Format.FP8_BLOCK_A16: (_BLOCK_WEIGHTS, None, "float-quantized"),
}
_PREFIX: Final = "(?:" + "|".join(re.escape(prefix) for prefix in RUNTIME_PREFIXES) + r")\."


def quantization_config(
    architecture: Architecture, recipe: Recipe, present: Iterable[Role]
) -> dict[str, Any]:
    """The block for `config.json`; `present` are the roles that the checkpoint really has."""
    roles = set(present)
    quantized = [line for line in recipe.precision if line.role in roles]
    formats = list(dict.fromkeys(line.format for line in quantized))
    layouts = {_SCHEMES[fmt][2] for fmt in formats}
    groups = {}
    for number, fmt in enumerate(formats):
        weights, activations, layout = _SCHEMES[fmt]
        rows = architecture.rows_of(line.role for line in quantized if line.format is fmt)
        groups[f"group_{number}"] = {
            "targets": _expressions(architecture, rows),
            "weights": weights,
            "input_activations": activations,
            "output_activations": None,
            "format": layout,
        }
    kv_cache = recipe.kvCache is not None and recipe.kvCache.format is KvCacheFormat.FP8
    return {
        "quant_method": "compressed-tensors",
        "quantization_status": "compressed",
        "format": layouts.pop() if len(layouts) == 1 else "mixed-precision",
        "config_groups": groups,
        "ignore": _ignored(architecture, {line.role for line in quantized}),
        "kv_cache_scheme": _PER_TENSOR if kv_cache else None,
    }


def quantized_model_config(
    config: dict[str, Any], architecture: Architecture, recipe: Recipe, present: Iterable[Role]
) -> dict[str, Any]:
    """The source's `config.json` with our block in it, and no promise that the weights break."""
    result = _without_old_encoding(config)
    if recipe.multiTokenPrediction is MultiTokenPrediction.Drop:
        result = _without_multi_token_prediction(result)
    result["quantization_config"] = quantization_config(architecture, recipe, present)
    return result


def _without_old_encoding(config: dict[str, Any]) -> dict[str, Any]:
    """No quantization block of the source survives, at the top or in a nested configuration."""
    return {
        key: _without_old_encoding(value) if isinstance(value, dict) else value
        for key, value in config.items()
        if key not in {"quantization_config", "compression_config"}
    }


def _without_multi_token_prediction(config: dict[str, Any]) -> dict[str, Any]:
    """Every count of prediction layers becomes 0, here and in nested configurations.

    A promise without weights makes decoding 1.5 times slower and accepts nothing.
    """
    result: dict[str, Any] = {}
    for key, value in config.items():
        if key in {"mtp_num_hidden_layers", "num_nextn_predict_layers"}:
            result[key] = 0
        elif isinstance(value, dict):
            result[key] = _without_multi_token_prediction(value)
        else:
            result[key] = value
    return result


def _expressions(architecture: Architecture, rows: Iterable[Row]) -> list[str]:
    """One expression for each parent: `re:^PREFIX.layers\\.\\d+\\.mlp\\.(gate_proj|up_proj)$`."""
    leaves: defaultdict[str, list[str]] = defaultdict(list)
    for row in rows:
        if not row.stacked:
            parent, _, leaf = row.path.rpartition(".")
            leaves[parent].append(_pattern(leaf))
    start = _PREFIX if architecture.anchored else r"(?!mtp\.)(?:.*\.)?"
    return [
        "re:^" + start + (_pattern(parent) + r"\." if parent else "") + f"(?:{'|'.join(names)})$"
        for parent, names in leaves.items()
    ]


def _pattern(path: str) -> str:
    """`path` as an expression; a component `*`, also the last one, stands for an index."""
    return re.escape(path).replace(r"\*", r"\d+")


def _ignored(architecture: Architecture, quantized: set[Role]) -> list[str]:
    """Everything that a server would make a linear layer of and that is kept."""
    ignored = ["lm_head", r"re:.*\.?lm_head$", r"re:.*embed_tokens$"]
    kept = [
        row
        for row in architecture.rows
        if row.role not in quantized | {Role.Embedding, Role.LmHead} and "." in row.path
    ]
    ignored += _expressions(architecture, kept)
    regions = dict.fromkeys(
        region.prefix.removeprefix("model.").split(".")[0] for region in architecture.regions
    )
    return ignored + [rf"re:^(?:.*\.)?{re.escape(name)}\..*" for name in regions]
