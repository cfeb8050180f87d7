"""Gemma 4, unified: sliding and full attention, towers folded into embedders, head tied.

Full-attention layers use their keys as values (`attention_k_eq_v`) and have no `v_proj` on disk.
"""

from halftone.checkpoint.architectures import blocks
from halftone.checkpoint.architectures.table import Architecture, Region, Row
from halftone.spec.roles import Role

ARCHITECTURES = (
    Architecture(
        name="gemma4_unified",
        model_types=("gemma4_unified", "gemma4_unified_text"),
        rows=(
            *blocks.attention(),
            *blocks.gated("mlp", Role.Mlp),
            Row("layers.*", Role.Other),  # layer_scalar
            *blocks.HEAD,
        ),
        regions=(
            Region("model.vision_embedder.", Role.Vision),
            Region("model.vision_tower.", Role.Vision),
            Region("model.embed_vision.", Role.Projector),
            Region("model.audio_tower.", Role.Audio),
            Region("model.embed_audio.", Role.Audio),
        ),
    ),
)
