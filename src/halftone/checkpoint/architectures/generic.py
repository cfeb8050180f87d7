"""The table of last resort: the last components of a name say what it is.

Used only where a job says `genericArchitecture: Allow`, and the plan says that it was. Whatever is
not recognised is kept, so a mistake costs size, not quality; a group that a server fuses under
names that are not here is the risk, which is why it is not the default.
"""

from halftone.checkpoint.architectures.table import Architecture, Region, Row, ServedScale, Split
from halftone.spec.roles import Role


def _gated(parent: str, role: Role, served: ServedScale = ServedScale.Largest) -> tuple[Row, ...]:
    return (
        Row(f"{parent}.gate_proj", role, "gate_up_proj", Split.Column, served),
        Row(f"{parent}.up_proj", role, "gate_up_proj", Split.Column, served),
        Row(f"{parent}.down_proj", role, None, Split.Row, served),
    )


GENERIC = Architecture(
    name="generic",
    model_types=(),
    anchored=False,
    rows=(
        *_gated("experts.*", Role.Experts, ServedScale.First),
        *_gated("shared_expert", Role.SharedExperts),
        *_gated("shared_experts", Role.SharedExperts),
        *_gated("mlp", Role.Mlp),
        Row("self_attn.q_proj", Role.Attention, "qkv_proj", Split.Column),
        Row("self_attn.k_proj", Role.Attention, "qkv_proj", Split.Column),
        Row("self_attn.v_proj", Role.Attention, "qkv_proj", Split.Column),
        Row("self_attn.o_proj", Role.Attention, None, Split.Row),
        Row("mlp.gate", Role.Router),
        Row("shared_expert_gate", Role.Router),
        Row("router", Role.Router),
        Row("embed_tokens", Role.Embedding),
        Row("lm_head", Role.LmHead),
    ),
    regions=tuple(
        Region(f"{start}{name}", role)
        for start in ("", "model.")
        for name, role in (
            ("visual.", Role.Vision),
            ("vision_tower.", Role.Vision),
            ("vision_model.", Role.Vision),
            ("audio_tower.", Role.Audio),
            ("multi_modal_projector.", Role.Projector),
            ("mtp.", Role.MultiTokenPrediction),
        )
    ),
)
