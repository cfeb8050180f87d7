"""Configurations of the reference bases at full size, for headers without data.

Called by the tests of plan, planner speed and remote reads (`sparse.write_sparse`). The numbers
are those of the published `config.json` files; parameter counts are asserted in
`tests/unit/test_builders.py`. It must not build weights: 72 GB would not fit anywhere.
"""

from .shapes import Config

FULL_SIZE: tuple[str, ...] = ("27B", "35B-A3B", "Gemma-12B")


def full_size_config(name: str) -> Config:
    """The configuration of a reference base: '27B', '35B-A3B' or 'Gemma-12B'."""
    return {"27B": _dense_27b, "35B-A3B": _experts_35b, "Gemma-12B": _gemma_12b}[name]()


def _qwen3_5_text(model_type: str, layers: int) -> Config:
    return {
        "model_type": f"{model_type}_text",
        "num_hidden_layers": layers,
        "layer_types": (["linear_attention"] * 3 + ["full_attention"]) * (layers // 4),
        "full_attention_interval": 4,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "attn_output_gate": True,
        "dtype": "bfloat16",
        "eos_token_id": 248044,
        "head_dim": 256,
        "hidden_act": "silu",
        "initializer_range": 0.02,
        "linear_conv_kernel_dim": 4,
        "linear_key_head_dim": 128,
        "linear_value_head_dim": 128,
        "linear_num_key_heads": 16,
        "mamba_ssm_dtype": "float32",
        "max_position_embeddings": 262144,
        "mtp_num_hidden_layers": 1,
        "mtp_use_dedicated_embeddings": False,
        "rms_norm_eps": 1e-6,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10000000.0,
            "partial_rotary_factor": 0.25,
            "mrope_section": [11, 11, 10],
            "mrope_interleaved": True,
        },
        "tie_word_embeddings": False,
        "use_cache": True,
        "vocab_size": 248320,
    }


def _qwen3_5(model_type: str, architecture: str, text: Config) -> Config:
    return {
        "architectures": [architecture],
        "model_type": model_type,
        "image_token_id": 248056,
        "video_token_id": 248057,
        "vision_start_token_id": 248053,
        "vision_end_token_id": 248054,
        "tie_word_embeddings": False,
        "text_config": text,
        "vision_config": {
            "model_type": f"{model_type}_vision",
            "depth": 27,
            "hidden_act": "gelu_pytorch_tanh",
            "hidden_size": 1152,
            "in_channels": 3,
            "initializer_range": 0.02,
            "intermediate_size": 4304,
            "num_heads": 16,
            "num_position_embeddings": 2304,
            "out_hidden_size": text["hidden_size"],
            "patch_size": 16,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
        },
    }


def _dense_27b() -> Config:
    text = _qwen3_5_text("qwen3_5", 64) | {
        "hidden_size": 5120,
        "intermediate_size": 17408,
        "num_attention_heads": 24,
        "num_key_value_heads": 4,
        "linear_num_value_heads": 48,
    }
    return _qwen3_5("qwen3_5", "Qwen3_5ForConditionalGeneration", text)


def _experts_35b() -> Config:
    text = _qwen3_5_text("qwen3_5_moe", 40) | {
        "hidden_size": 2048,
        "moe_intermediate_size": 512,
        "shared_expert_intermediate_size": 512,
        "num_experts": 256,
        "num_experts_per_tok": 8,
        "num_attention_heads": 16,
        "num_key_value_heads": 2,
        "linear_num_value_heads": 32,
        "output_router_logits": False,
        "router_aux_loss_coef": 0.001,
    }
    return _qwen3_5("qwen3_5_moe", "Qwen3_5MoeForConditionalGeneration", text)


def _gemma_12b() -> Config:
    return {
        "architectures": ["Gemma4UnifiedForConditionalGeneration"],
        "model_type": "gemma4_unified",
        "boi_token_id": 255999,
        "boa_token_id": 256000,
        "image_token_id": 258880,
        "audio_token_id": 258881,
        "eoi_token_id": 258882,
        "eoa_token_index": 258883,
        "video_token_id": 258884,
        "tie_word_embeddings": True,
        "text_config": _gemma_12b_text(),
        "vision_config": {
            "model_type": "gemma4_unified_vision",
            "mm_embed_dim": 3840,
            "mm_posemb_size": 1120,
            "output_proj_dims": 3840,
            "patch_size": 16,
            "pooling_kernel_size": 3,
            "rms_norm_eps": 1e-6,
        },
        "audio_config": {
            "model_type": "gemma4_unified_audio",
            "audio_embed_dim": 640,
            "rms_norm_eps": 1e-6,
        },
    }


def _gemma_12b_text() -> Config:
    return {
        "model_type": "gemma4_unified_text",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "attention_k_eq_v": True,
        "bos_token_id": 2,
        "eos_token_id": 1,
        "pad_token_id": 0,
        "dtype": "bfloat16",
        "final_logit_softcapping": 30.0,
        "head_dim": 256,
        "global_head_dim": 512,
        "num_global_key_value_heads": 1,
        "hidden_activation": "gelu_pytorch_tanh",
        "hidden_size": 3840,
        "initializer_range": 0.02,
        "intermediate_size": 15360,
        "layer_types": (["sliding_attention"] * 5 + ["full_attention"]) * 8,
        "max_position_embeddings": 262144,
        "num_attention_heads": 16,
        "num_hidden_layers": 48,
        "num_key_value_heads": 8,
        "num_kv_shared_layers": 0,
        "rms_norm_eps": 1e-6,
        "rope_parameters": {
            "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
            "full_attention": {
                "rope_type": "proportional",
                "rope_theta": 1000000.0,
                "partial_rotary_factor": 0.25,
            },
        },
        "sliding_window": 1024,
        "tie_word_embeddings": True,
        "use_bidirectional_attention": "vision",
        "use_cache": True,
        "vocab_size": 262144,
    }
