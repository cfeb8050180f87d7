"""Qwen3, dense and mixture of experts (no shared expert)."""

from halftone.checkpoint.architectures import blocks
from halftone.checkpoint.architectures.table import Architecture
from halftone.spec.roles import Role

ARCHITECTURES = (
    Architecture(
        name="qwen3",
        model_types=("qwen3",),
        rows=(*blocks.attention(), *blocks.gated("mlp", Role.Mlp), *blocks.HEAD),
    ),
    Architecture(
        name="qwen3_moe",
        model_types=("qwen3_moe",),
        rows=(
            *blocks.attention(),
            *blocks.experts(),
            *blocks.gated("mlp", Role.Mlp),  # layers named in `mlp_only_layers`
            *blocks.HEAD,
        ),
    ),
)
