"""Llama, Mistral and Mixtral: plain decoders; Mixtral calls its experts w1 (gate), w2, w3 (up)."""

from halftone.checkpoint.architectures import blocks
from halftone.checkpoint.architectures.table import Architecture, Row, ServedScale, Split
from halftone.spec.roles import Role

_DENSE = (*blocks.attention(), *blocks.gated("mlp", Role.Mlp), *blocks.HEAD)
_MOE = f"{blocks.LAYER}block_sparse_moe."
_EXPERT = f"{_MOE}experts.*."

ARCHITECTURES = (
    Architecture(name="llama", model_types=("llama",), rows=_DENSE),
    Architecture(name="mistral", model_types=("mistral",), rows=_DENSE),
    Architecture(
        name="mixtral",
        model_types=("mixtral",),
        rows=(
            *blocks.attention(),
            Row(f"{_EXPERT}w1", Role.Experts, "w13", Split.Column, ServedScale.First),
            Row(f"{_EXPERT}w3", Role.Experts, "w13", Split.Column, ServedScale.First),
            Row(f"{_EXPERT}w2", Role.Experts, None, Split.Row, ServedScale.First),
            Row(f"{_MOE}gate", Role.Router),
            *blocks.experts(),  # as transformers 5 re-saves it: stacked, and named like the others
            *blocks.HEAD,
        ),
    ),
)
