"""Tiny configurations of every family, in the form of a Hub `config.json`.

Called by tests for the small checkpoints that transformers and vLLM really load: hidden size 128,
linear-attention heads of 64 (vLLM's CPU kernels take no less). Sizes of the full models are in
`full_size.py`. It must not decide names or shapes; `shapes.py` derives those.
"""

import copy
from typing import Any

from .shapes import Config

# Ids of the special tokens in the stand-in tokenizer (`companions.SPECIAL_TOKENS`).
_TOKENS: Config = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}

_LLAMA_LIKE: Config = {
    "vocab_size": 512,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "hidden_act": "silu",
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-6,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    "attention_bias": False,
    "tie_word_embeddings": False,
    **_TOKENS,
}

_QWEN3_5_ROPE: Config = {
    "rope_type": "default",
    "rope_theta": 10000.0,
    "partial_rotary_factor": 0.25,
    "mrope_section": [3, 3, 2],
    "mrope_interleaved": True,
}

_QWEN3_5_TEXT: Config = {
    **_LLAMA_LIKE,
    "num_hidden_layers": 4,
    "layer_types": ["linear_attention"] * 3 + ["full_attention"],
    "full_attention_interval": 4,
    "attn_output_gate": True,
    "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 64,
    "linear_value_head_dim": 64,
    "linear_num_key_heads": 1,
    "linear_num_value_heads": 2,
    "mtp_num_hidden_layers": 1,
    "mtp_use_dedicated_embeddings": False,
    "rope_parameters": _QWEN3_5_ROPE,
}

_EXPERTS: Config = {
    "moe_intermediate_size": 64,
    "num_experts": 8,
    "num_experts_per_tok": 2,
}

_QWEN3_5_VISION: Config = {
    "depth": 2,
    "hidden_size": 64,
    "hidden_act": "gelu_pytorch_tanh",
    "in_channels": 3,
    "intermediate_size": 128,
    "num_heads": 2,
    "num_position_embeddings": 64,
    "out_hidden_size": 128,
    "patch_size": 16,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
}

_QWEN3_5_IDS: Config = {
    "vision_start_token_id": 3,
    "vision_end_token_id": 4,
    "image_token_id": 5,
    "video_token_id": 6,
}

_GEMMA_TEXT: Config = {
    **_LLAMA_LIKE,
    "model_type": "gemma4_unified_text",
    "hidden_activation": "gelu_pytorch_tanh",
    "num_hidden_layers": 6,
    "head_dim": 32,
    "global_head_dim": 64,
    "num_global_key_value_heads": 1,
    "attention_k_eq_v": True,
    "sliding_window": 64,
    "layer_types": ["sliding_attention", "sliding_attention", "full_attention"] * 2,
    "final_logit_softcapping": 30.0,
    "tie_word_embeddings": True,
    "rope_parameters": {
        "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
        "full_attention": {
            "rope_type": "proportional",
            "rope_theta": 1000000.0,
            "partial_rotary_factor": 0.25,
        },
    },
}
del _GEMMA_TEXT["hidden_act"]


def _without(config: Config, *keys: str) -> Config:
    return {key: value for key, value in config.items() if key not in keys}


_QWEN3_5_MOE_TEXT: Config = {
    **_without(_QWEN3_5_TEXT, "intermediate_size"),
    **_EXPERTS,
    "shared_expert_intermediate_size": 64,
}


def _with_vision(model_type: str, architecture: str, text: Config) -> Config:
    return {
        "architectures": [architecture],
        "model_type": model_type,
        "text_config": {**text, "model_type": f"{model_type}_text"},
        "vision_config": {**_QWEN3_5_VISION, "model_type": f"{model_type}_vision"},
        "tie_word_embeddings": False,
        **_QWEN3_5_IDS,
    }


def _text_only(model_type: str, architecture: str, text: Config) -> Config:
    return {"architectures": [architecture], **text, "model_type": model_type}


_TINY: dict[str, Config] = {
    "qwen3_5": _with_vision("qwen3_5", "Qwen3_5ForConditionalGeneration", _QWEN3_5_TEXT),
    "qwen3_5_text": _text_only("qwen3_5_text", "Qwen3_5ForCausalLM", _QWEN3_5_TEXT),
    "qwen3_5_moe": _with_vision(
        "qwen3_5_moe", "Qwen3_5MoeForConditionalGeneration", _QWEN3_5_MOE_TEXT
    ),
    "qwen3_5_moe_text": _text_only("qwen3_5_moe_text", "Qwen3_5MoeForCausalLM", _QWEN3_5_MOE_TEXT),
    "gemma4_unified": {
        "architectures": ["Gemma4UnifiedForConditionalGeneration"],
        "model_type": "gemma4_unified",
        "text_config": _GEMMA_TEXT,
        "vision_config": {
            "model_type": "gemma4_unified_vision",
            "mm_embed_dim": 128,
            "mm_posemb_size": 64,
            "output_proj_dims": 128,
            "patch_size": 16,
            "pooling_kernel_size": 3,
        },
        "audio_config": {"model_type": "gemma4_unified_audio", "audio_embed_dim": 64},
        "tie_word_embeddings": True,
        "boi_token_id": 3,
        "eoi_token_id": 4,
        "image_token_id": 5,
        "video_token_id": 6,
        "audio_token_id": 7,
        "boa_token_id": 3,
        "eoa_token_index": 4,
    },
    "gemma4_unified_text": _text_only(
        "gemma4_unified_text", "Gemma4UnifiedForCausalLM", _GEMMA_TEXT
    ),
    "qwen3": _text_only("qwen3", "Qwen3ForCausalLM", _LLAMA_LIKE),
    "qwen3_moe": _text_only("qwen3_moe", "Qwen3MoeForCausalLM", {**_LLAMA_LIKE, **_EXPERTS}),
    "llama": _text_only("llama", "LlamaForCausalLM", _LLAMA_LIKE),
    "mistral": _text_only("mistral", "MistralForCausalLM", {**_LLAMA_LIKE, "sliding_window": None}),
    "mixtral": _text_only(
        "mixtral",
        "MixtralForCausalLM",
        {
            **_LLAMA_LIKE,
            "intermediate_size": 64,
            "num_local_experts": 8,
            "num_experts_per_tok": 2,
            "sliding_window": None,
        },
    ),
}

# Each model by its `model_type`; the `_text` ones are text-only (prefix `model.`).
TINY: tuple[str, ...] = tuple(_TINY)


def has_experts(model: str) -> bool:
    """Whether a model of `TINY` is a mixture of experts."""
    return "num_experts_per_tok" in tiny_config(model).get("text_config", _TINY[model])


def tiny_config(model: str, **overrides: Any) -> Config:
    """The tiny `config.json` of `model`; `overrides` go where the language model reads them.

    `tiny_config("qwen3_5", num_hidden_layers=8, layer_types=[...])` sets both in `text_config`.
    """
    config = copy.deepcopy(_TINY[model])
    config.get("text_config", config).update(overrides)
    return config
