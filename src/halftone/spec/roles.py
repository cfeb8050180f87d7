"""The roles that tensors play, whatever a family calls them.

A recipe gives formats to roles; an architecture table (`halftone.checkpoint.architectures`) gives
roles to names. That is why one recipe serves every family.
"""

from enum import StrEnum


class Role(StrEnum):
    """What a tensor is for. Every tensor of a checkpoint has exactly one."""

    Attention = "Attention"  # q, k, v and output projections of softmax attention
    LinearAttention = "LinearAttention"  # in_proj_qkv, in_proj_z, out_proj of gated delta nets
    LinearAttentionGate = "LinearAttentionGate"  # in_proj_a, in_proj_b: tiny and sensitive
    Mlp = "Mlp"  # dense gate, up, down
    Experts = "Experts"  # routed experts
    SharedExperts = "SharedExperts"  # experts that every token visits
    Router = "Router"  # picks experts, and the gate of the shared expert
    Embedding = "Embedding"
    LmHead = "LmHead"
    Vision = "Vision"
    Audio = "Audio"
    Projector = "Projector"  # from a tower's width to the language model's
    MultiTokenPrediction = "MultiTokenPrediction"
    Norm = "Norm"
    Other = "Other"  # conv1d, state parameters, whatever has no other role


# Roles that a recipe may name: matrices that a server multiplies by.
QUANTIZABLE_ROLES: frozenset[Role] = frozenset(
    {
        Role.Attention,
        Role.LinearAttention,
        Role.LinearAttentionGate,
        Role.Mlp,
        Role.Experts,
        Role.SharedExperts,
    }
)
