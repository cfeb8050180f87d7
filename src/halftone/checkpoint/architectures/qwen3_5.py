"""Qwen3.5 and Qwen3.6, dense and mixture of experts: hybrid attention, vision, MTP head.

Three of four layers are gated delta nets. Original repositories stack the trunk's experts in 3-D
and keep the MTP head's experts one by one; re-saved derivatives have them one by one everywhere.
"""

from halftone.checkpoint.architectures import blocks
from halftone.checkpoint.architectures.table import Architecture, Region
from halftone.spec.roles import Role

_REGIONS = (
    Region("model.visual.", Role.Vision),
    Region("model.visual.merger.", Role.Projector),
    Region("model.visual.deepstack_merger_list.", Role.Projector),
    Region("visual.", Role.Vision),
    Region("visual.merger.", Role.Projector),
    Region("mtp.", Role.MultiTokenPrediction, layers_at="mtp."),
)

QWEN3_5 = Architecture(
    name="qwen3_5",
    model_types=("qwen3_5", "qwen3_5_text"),
    rows=(
        *blocks.attention(),
        *blocks.linear_attention(),
        *blocks.gated("mlp", Role.Mlp),
        *blocks.HEAD,
    ),
    regions=_REGIONS,
)

QWEN3_5_MOE = Architecture(
    name="qwen3_5_moe",
    model_types=("qwen3_5_moe", "qwen3_5_moe_text"),
    rows=(
        *blocks.attention(),
        *blocks.linear_attention(),
        *blocks.experts(),
        *blocks.shared_expert(),
        *blocks.HEAD,
    ),
    regions=_REGIONS,
)

ARCHITECTURES = (QWEN3_5, QWEN3_5_MOE)
