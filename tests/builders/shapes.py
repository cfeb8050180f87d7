"""Which tensors a checkpoint of each model family holds on disk, and in which shapes.

Every test that needs a checkpoint starts here: a Hub-style `config.json` goes in, an ordered
mapping of on-disk names to shapes comes out. It is written from the model definitions and held
against transformers' own files by `tests/integration/test_builders_against_transformers.py`.
It must not import the package under test: it is the second opinion on the architecture tables.
"""

from collections import Counter
from collections.abc import Mapping
from math import prod
from typing import Any, Literal

Config = dict[str, Any]
Shape = tuple[int, ...]
Shapes = dict[str, Shape]
ExpertLayout = Literal["PerExpert", "Fused"]


def shapes(
    config: Config,
    *,
    experts: ExpertLayout = "PerExpert",
    multi_token_prediction: bool = True,
    layer_scalars: bool = True,
) -> Shapes:
    """The on-disk tensors of `config`, in module order.

    `experts="Fused"` gives the 3-D layout (the Hub's for Qwen3.5-MoE; elsewhere what
    `save_pretrained(save_original_format=False)` writes). Multi-token-prediction tensors appear
    when the configuration promises them, with experts per expert in either layout.
    `layer_scalars=False` leaves out Gemma's one-element `layer_scalar` buffers (they are not
    parameters, so published parameter counts leave them out too).
    """
    text = text_config(config)
    model = f"model.{'language_model.' if 'text_config' in config else ''}"
    out: Shapes = {f"{model}embed_tokens.weight": (text["vocab_size"], text["hidden_size"])}
    for index in range(text["num_hidden_layers"]):
        out |= _layer(f"{model}layers.{index}.", text, index, experts, layer_scalars)
    out[f"{model}norm.weight"] = (text["hidden_size"],)
    if not config.get("tie_word_embeddings", text.get("tie_word_embeddings", False)):
        out["lm_head.weight"] = (text["vocab_size"], text["hidden_size"])
    out |= _modalities(config)
    if multi_token_prediction:
        out |= _multi_token_prediction(text)
    return out


def text_config(config: Config) -> Config:
    """The language model's part of `config`: its `text_config`, or all of a text-only one."""
    text: Config = config.get("text_config", config)
    return text


def component(name: str) -> str:
    """Which column of the published size tables the tensor `name` belongs to."""
    for fragments, found in _COMPONENTS:
        if any(fragment in name for fragment in fragments):
            return found
    return "Norms"


def component_counts(tensors: Mapping[str, Shape]) -> dict[str, tuple[int, int]]:
    """Parameters and tensors of each component: `{component: (parameters, tensors)}`."""
    parameters: Counter[str] = Counter()
    number: Counter[str] = Counter()
    for name, shape in tensors.items():
        parameters[component(name)] += prod(shape)
        number[component(name)] += 1
    return {found: (parameters[found], number[found]) for found in parameters}


# Checked in this order: the first row with a fragment in the name decides.
_COMPONENTS: tuple[tuple[tuple[str, ...], str], ...] = (
    (("mtp.",), "MultiTokenPrediction"),
    (("visual.", "vision_embedder.", "embed_vision.", "embed_audio."), "VisionAndProjector"),
    (("lm_head.",), "LmHead"),
    (("embed_tokens.",), "Embedding"),
    (("layer_scalar",), "LayerScalars"),
    (("q_proj.", "k_proj.", "v_proj.", "o_proj."), "Attention"),
    (("in_proj_qkv.", "in_proj_z.", "linear_attn.out_proj."), "LinearAttention"),
    (("linear_attn.",), "LinearAttentionSmall"),
    ((".experts.",), "Experts"),
    (("shared_expert.",), "SharedExperts"),
    (("mlp.gate.", "shared_expert_gate.", "block_sparse_moe.gate."), "RouterAndGate"),
    (("mlp.",), "Mlp"),
)


def _layer(
    prefix: str, text: Config, index: int, experts: ExpertLayout, layer_scalars: bool
) -> Shapes:
    """One decoder layer of any family."""
    hidden = text["hidden_size"]
    kinds = text.get("layer_types") or ["full_attention"] * text["num_hidden_layers"]
    if kinds[index] == "linear_attention":
        out = _linear_attention(f"{prefix}linear_attn.", text)
    elif _is_gemma(text):
        out = _gemma_attention(f"{prefix}self_attn.", text, kinds[index])
    else:
        out = _attention(f"{prefix}self_attn.", text)
    out |= _feed_forward(prefix, text, experts)
    norms = ["input_layernorm", "post_attention_layernorm"]
    if _is_gemma(text):
        norms += ["pre_feedforward_layernorm", "post_feedforward_layernorm"]
    out |= {f"{prefix}{norm}.weight": (hidden,) for norm in norms}
    if _is_gemma(text) and layer_scalars:
        out[f"{prefix}layer_scalar"] = (1,)
    return out


def _is_gemma(text: Config) -> bool:
    return str(text["model_type"]).startswith("gemma4")


def _attention(prefix: str, text: Config) -> Shapes:
    """Full attention of the Qwen and Llama families; Qwen3.5's q_proj also holds the gate."""
    model_type = str(text["model_type"])
    head_dim = text.get("head_dim") or text["hidden_size"] // text["num_attention_heads"]
    queries = text["num_attention_heads"] * head_dim
    gated = 2 if model_type.startswith("qwen3_5") else 1
    out = _qkvo(prefix, text["hidden_size"], queries, text["num_key_value_heads"] * head_dim, gated)
    if model_type.startswith("qwen3"):
        out |= {f"{prefix}q_norm.weight": (head_dim,), f"{prefix}k_norm.weight": (head_dim,)}
    return out


def _gemma_attention(prefix: str, text: Config, kind: str) -> Shapes:
    """Gemma 4: full layers have their own head size and, with k_eq_v, no v_proj."""
    full = kind == "full_attention"
    head_dim = text.get("global_head_dim", 512) if full else text["head_dim"]
    heads_kv = text["num_key_value_heads"]
    if full and text.get("attention_k_eq_v"):
        heads_kv = text.get("num_global_key_value_heads") or heads_kv
    queries = text["num_attention_heads"] * head_dim
    out = _qkvo(prefix, text["hidden_size"], queries, heads_kv * head_dim, 1)
    if full and text.get("attention_k_eq_v"):
        del out[f"{prefix}v_proj.weight"]
    return out | {f"{prefix}q_norm.weight": (head_dim,), f"{prefix}k_norm.weight": (head_dim,)}


def _qkvo(prefix: str, hidden: int, queries: int, keys: int, gated: int) -> Shapes:
    return {
        f"{prefix}q_proj.weight": (gated * queries, hidden),
        f"{prefix}k_proj.weight": (keys, hidden),
        f"{prefix}v_proj.weight": (keys, hidden),
        f"{prefix}o_proj.weight": (hidden, queries),
    }


def _linear_attention(prefix: str, text: Config) -> Shapes:
    """Qwen3.5's gated delta net."""
    hidden, heads = text["hidden_size"], text["linear_num_value_heads"]
    values = heads * text["linear_value_head_dim"]
    channels = 2 * text["linear_num_key_heads"] * text["linear_key_head_dim"] + values
    return {
        f"{prefix}dt_bias": (heads,),
        f"{prefix}A_log": (heads,),
        f"{prefix}conv1d.weight": (channels, 1, text["linear_conv_kernel_dim"]),
        f"{prefix}norm.weight": (text["linear_value_head_dim"],),
        f"{prefix}out_proj.weight": (hidden, values),
        f"{prefix}in_proj_qkv.weight": (channels, hidden),
        f"{prefix}in_proj_z.weight": (values, hidden),
        f"{prefix}in_proj_b.weight": (heads, hidden),
        f"{prefix}in_proj_a.weight": (heads, hidden),
    }


def _feed_forward(prefix: str, text: Config, experts: ExpertLayout) -> Shapes:
    """A dense MLP, or router, experts and (Qwen3.5-MoE) the shared expert with its gate."""
    hidden, number = text["hidden_size"], text.get("num_experts", text.get("num_local_experts"))
    if number is None:
        return _mlp(f"{prefix}mlp.", hidden, text["intermediate_size"])
    if text["model_type"] == "mixtral":
        return _mixtral_experts(prefix, hidden, text["intermediate_size"], number, experts)
    inner = text["moe_intermediate_size"]
    out: Shapes = {f"{prefix}mlp.gate.weight": (number, hidden)}
    if experts == "Fused":
        out |= _fused_experts(f"{prefix}mlp.experts.", hidden, inner, number)
    else:
        for expert in range(number):
            out |= _mlp(f"{prefix}mlp.experts.{expert}.", hidden, inner)
    if shared := text.get("shared_expert_intermediate_size"):
        out |= _mlp(f"{prefix}mlp.shared_expert.", hidden, shared)
        out[f"{prefix}mlp.shared_expert_gate.weight"] = (1, hidden)
    return out


def _mlp(prefix: str, hidden: int, inner: int) -> Shapes:
    return {
        f"{prefix}gate_proj.weight": (inner, hidden),
        f"{prefix}up_proj.weight": (inner, hidden),
        f"{prefix}down_proj.weight": (hidden, inner),
    }


def _fused_experts(prefix: str, hidden: int, inner: int, number: int) -> Shapes:
    return {
        f"{prefix}gate_up_proj": (number, 2 * inner, hidden),
        f"{prefix}down_proj": (number, hidden, inner),
    }


def _mixtral_experts(
    prefix: str, hidden: int, inner: int, number: int, experts: ExpertLayout
) -> Shapes:
    """Mixtral: `block_sparse_moe` on the Hub, `mlp` in memory (and so in the fused layout)."""
    if experts == "Fused":
        gate = {f"{prefix}mlp.gate.weight": (number, hidden)}
        return gate | _fused_experts(f"{prefix}mlp.experts.", hidden, inner, number)
    block = f"{prefix}block_sparse_moe."
    out: Shapes = {f"{block}gate.weight": (number, hidden)}
    for expert in range(number):
        out |= {
            f"{block}experts.{expert}.w1.weight": (inner, hidden),
            f"{block}experts.{expert}.w2.weight": (hidden, inner),
            f"{block}experts.{expert}.w3.weight": (inner, hidden),
        }
    return out


def _multi_token_prediction(text: Config) -> Shapes:
    """Qwen3.5's extra layer (full attention) that drafts the token after next."""
    hidden, layers = text["hidden_size"], text.get("mtp_num_hidden_layers", 0)
    if not layers:
        return {}
    out: Shapes = {
        "mtp.fc.weight": (hidden, 2 * hidden),
        "mtp.pre_fc_norm_embedding.weight": (hidden,),
        "mtp.pre_fc_norm_hidden.weight": (hidden,),
        "mtp.norm.weight": (hidden,),
    }
    full = text | {"layer_types": ["full_attention"] * layers}
    for index in range(layers):
        out |= _layer(f"mtp.layers.{index}.", full, index, "PerExpert", False)
    return out


def _modalities(config: Config) -> Shapes:
    """The vision tower and projectors; none for a text-only configuration."""
    vision = config.get("vision_config")
    if vision is None:
        return {}
    if str(config["model_type"]).startswith("gemma4"):
        return _gemma_embedders(vision, config["audio_config"], config["text_config"])
    hidden, inner = vision["hidden_size"], vision["intermediate_size"]
    patch, merged = vision["patch_size"], hidden * vision["spatial_merge_size"] ** 2
    pixels = (vision["in_channels"], vision["temporal_patch_size"], patch, patch)
    out = _biased("model.visual.patch_embed.proj", (hidden, *pixels))
    out["model.visual.pos_embed.weight"] = (vision["num_position_embeddings"], hidden)
    for index in range(vision["depth"]):
        block = f"model.visual.blocks.{index}."
        out |= _biased(f"{block}norm1", (hidden,)) | _biased(f"{block}norm2", (hidden,))
        out |= _biased(f"{block}attn.qkv", (3 * hidden, hidden))
        out |= _biased(f"{block}attn.proj", (hidden, hidden))
        out |= _biased(f"{block}mlp.linear_fc1", (inner, hidden))
        out |= _biased(f"{block}mlp.linear_fc2", (hidden, inner))
    out |= _biased("model.visual.merger.norm", (hidden,))
    out |= _biased("model.visual.merger.linear_fc1", (merged, merged))
    return out | _biased("model.visual.merger.linear_fc2", (vision["out_hidden_size"], merged))


def _gemma_embedders(vision: Config, audio: Config, text: Config) -> Shapes:
    """Gemma 4 unified has no towers: patches and audio frames are embedded directly."""
    embed = vision["mm_embed_dim"]
    pixels = 3 * (vision["patch_size"] * vision["pooling_kernel_size"]) ** 2
    prefix = "model.vision_embedder."
    out = _biased(f"{prefix}patch_ln1", (pixels,))
    out |= _biased(f"{prefix}patch_dense", (embed, pixels))
    out |= _biased(f"{prefix}patch_ln2", (embed,))
    out[f"{prefix}pos_embedding"] = (vision["mm_posemb_size"], 2, embed)
    out |= _biased(f"{prefix}pos_norm", (embed,))
    projection, hidden = "embedding_projection.weight", text["hidden_size"]
    out[f"model.embed_vision.{projection}"] = (hidden, vision["output_proj_dims"])
    out[f"model.embed_audio.{projection}"] = (hidden, audio["audio_embed_dim"])
    return out


def _biased(module: str, weight: Shape) -> Shapes:
    return {f"{module}.weight": weight, f"{module}.bias": weight[:1]}
