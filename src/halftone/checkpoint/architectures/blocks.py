"""Rows that several families share: attention, MLP, experts, gated delta nets, head and embedding.

The fused names are those of vLLM 0.32's `packed_modules_mapping` and of its fused-expert layer.
Only members that exist count: a layer without `v_proj` fuses q and k alone.
"""

from halftone.checkpoint.architectures.table import Row, ServedScale, Split
from halftone.spec.roles import Role

LAYER = "layers.*."


def attention(parent: str = "self_attn") -> tuple[Row, ...]:
    """q, k, v (merged into `qkv_proj`) and o of softmax attention."""
    path = f"{LAYER}{parent}."
    return (
        *(
            Row(f"{path}{name}", Role.Attention, "qkv_proj", Split.Column)
            for name in ("q_proj", "k_proj", "v_proj")
        ),
        Row(f"{path}o_proj", Role.Attention, None, Split.Row),
    )


def gated(parent: str, role: Role, served: ServedScale = ServedScale.Largest) -> tuple[Row, ...]:
    """gate and up (merged into `gate_up_proj`) and down, as MLPs and experts have them."""
    path = f"{LAYER}{parent}."
    return (
        Row(f"{path}gate_proj", role, "gate_up_proj", Split.Column, served),
        Row(f"{path}up_proj", role, "gate_up_proj", Split.Column, served),
        Row(f"{path}down_proj", role, None, Split.Row, served),
    )


def experts() -> tuple[Row, ...]:
    """Routed experts, one matrix each on disk, or stacked in 3-D (`[experts, rows, columns]`)."""
    path = f"{LAYER}mlp.experts."
    return (
        *gated("mlp.experts.*", Role.Experts, ServedScale.First),
        Row(f"{path}gate_up_proj", Role.Experts, stacked=("gate_proj", "up_proj")),
        Row(f"{path}down_proj", Role.Experts, stacked=("down_proj",)),
        Row(f"{LAYER}mlp.gate", Role.Router),
    )


def shared_expert() -> tuple[Row, ...]:
    """The expert that every token visits, and the gate that scales it."""
    return (
        *gated("mlp.shared_expert", Role.SharedExperts),
        Row(f"{LAYER}mlp.shared_expert_gate", Role.Router),
    )


def linear_attention() -> tuple[Row, ...]:
    """A gated delta net: two merged input projections, an output projection, state parameters."""
    path = f"{LAYER}linear_attn."
    role, gate = Role.LinearAttention, Role.LinearAttentionGate
    return (
        Row(f"{path}in_proj_qkv", role, "in_proj_qkvz", Split.Column, values_like="in_proj_z"),
        Row(f"{path}in_proj_z", role, "in_proj_qkvz", Split.Column),
        Row(f"{path}out_proj", role, None, Split.Row),
        Row(f"{path}in_proj_b", gate, "in_proj_ba", Split.Column),
        Row(f"{path}in_proj_a", gate, "in_proj_ba", Split.Column),
        Row(f"{path}conv1d", Role.Other),
        Row(f"{LAYER}linear_attn", Role.Other),  # A_log, dt_bias
    )


HEAD = (Row("embed_tokens", Role.Embedding), Row("lm_head", Role.LmHead))
