"""The network: a small `Qwen3_5ForConditionalGeneration`, and its multi-token-prediction head.

`train.py` trains both, `export.py` writes both. Widths are multiples of 128 wherever a server
quantizes or splits them, so that block formats and tensor parallelism are well formed.
"""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from torch import nn
from transformers import Qwen3_5Config, Qwen3_5ForConditionalGeneration
from transformers.models.qwen3_5.modeling_qwen3_5 import (
    Qwen3_5DecoderLayer,
    Qwen3_5RMSNorm,
    Qwen3_5TextModel,
)

from pocket.corpus import SPECIAL_TOKENS, VOCABULARY

HIDDEN = 256
INTERMEDIATE = 512
LAYERS = 4


def _special(token: str) -> int:
    return SPECIAL_TOKENS.index(token)


def configuration() -> Qwen3_5Config:
    """Return the configuration: three linear-attention layers, then one of full attention."""
    text = {
        "vocab_size": VOCABULARY,
        "hidden_size": HIDDEN,
        "intermediate_size": INTERMEDIATE,
        "num_hidden_layers": LAYERS,
        "full_attention_interval": 4,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 64,
        "linear_key_head_dim": 64,
        "linear_value_head_dim": 64,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
        "max_position_embeddings": 2048,
        "mtp_num_hidden_layers": 1,
        "mtp_use_dedicated_embeddings": False,
        "eos_token_id": _special("<|im_end|>"),
        "pad_token_id": _special("<|endoftext|>"),
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10000.0,
            "partial_rotary_factor": 0.25,
            "mrope_section": [3, 3, 2],
            "mrope_interleaved": True,
        },
    }
    vision = {
        "depth": 2,
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_heads": 2,
        "out_hidden_size": HIDDEN,
        "patch_size": 16,
        "num_position_embeddings": 64,
    }
    return Qwen3_5Config(
        text_config=text,
        vision_config=vision,
        image_token_id=_special("<|image_pad|>"),
        video_token_id=_special("<|video_pad|>"),
        vision_start_token_id=_special("<|vision_start|>"),
        vision_end_token_id=_special("<|vision_end|>"),
    )


def _initialise(module: nn.Module) -> None:
    """Give every matrix a spread of 1/sqrt(inputs); those that write to the residual half of it."""
    for name, parameter in module.named_parameters():
        if parameter.ndim < 2:
            continue
        spread = parameter[0].numel() ** -0.5
        if name.endswith(("o_proj.weight", "out_proj.weight", "down_proj.weight")):
            spread *= 0.5
        if "embed_tokens" in name or "lm_head" in name:
            spread = 0.02
        nn.init.normal_(parameter, std=spread)


def build(seed: int) -> Qwen3_5ForConditionalGeneration:
    """Make the untrained model in FP32."""
    torch.manual_seed(seed)
    model = Qwen3_5ForConditionalGeneration(configuration())
    _initialise(model)
    for name, parameter in model.named_parameters():
        if name.endswith("dt_bias"):
            # Steps between 1/1000 and 1/10, as Mamba-2 starts: with transformers' ones the
            # state forgets everything within a token or two.
            low, high = math.log(0.001), math.log(0.1)
            steps = torch.exp(torch.rand_like(parameter) * (high - low) + low)
            parameter.data.copy_(steps + torch.log(-torch.expm1(-steps)))
        elif name.endswith("A_log"):
            parameter.data.copy_(torch.empty_like(parameter).uniform_(1.0, 16.0).log())
    return model


def text_model(model: Qwen3_5ForConditionalGeneration) -> Qwen3_5TextModel:
    return cast(Qwen3_5TextModel, model.model.language_model)


def hidden_states(model: Qwen3_5ForConditionalGeneration, tokens: torch.Tensor) -> torch.Tensor:
    """Return [rows, length, HIDDEN] after the last norm; `lm_head` turns it into logits."""
    output = text_model(model)(input_ids=tokens, use_cache=False)
    return cast(torch.Tensor, output.last_hidden_state)


def scale_vision(model: Qwen3_5ForConditionalGeneration) -> None:
    """Make the untrained vision tower's output as large as the trained embeddings are.

    The text model then sees a random but bounded code of each image, and its answers depend on it.
    """
    vision: Any = model.model.visual
    side = 8
    noise = torch.randn(side * side, 3 * 2 * 16 * 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        output = vision(noise, grid_thw=torch.tensor([[1, side, side]])).pooler_output
        wanted = text_model(model).embed_tokens.weight.square().mean().sqrt()
        vision.merger.linear_fc2.weight.mul_(wanted / output.square().mean().sqrt())


class MultiTokenPredictor(nn.Module):  # type: ignore[misc]  # torch is not read by the check
    """Predicts token t+2 from the trunk's state at t and the embedding of token t+1.

    The two are normed apart, joined embedding first, brought back to HIDDEN by `fc`, and sent
    through one full-attention decoder layer and a norm; embedding and head are the trunk's.
    Names and order are those of Qwen3-Next's head, which servers load as `mtp.*`.
    """

    def __init__(self, config: Qwen3_5Config) -> None:
        super().__init__()
        text: Any = config.text_config
        self.fc = nn.Linear(2 * HIDDEN, HIDDEN, bias=False)
        self.layers = nn.ModuleList([Qwen3_5DecoderLayer(text, layer_idx=LAYERS - 1)])
        self.norm = Qwen3_5RMSNorm(HIDDEN, eps=text.rms_norm_eps)
        self.pre_fc_norm_embedding = Qwen3_5RMSNorm(HIDDEN, eps=text.rms_norm_eps)
        self.pre_fc_norm_hidden = Qwen3_5RMSNorm(HIDDEN, eps=text.rms_norm_eps)
        _initialise(self)

    def forward(
        self, states: torch.Tensor, following: torch.Tensor, trunk: Qwen3_5TextModel
    ) -> torch.Tensor:
        """Take states [rows, length, HIDDEN] and the tokens that follow them [rows, length]."""
        embedded = self.pre_fc_norm_embedding(trunk.embed_tokens(following))
        joined = torch.cat([embedded, self.pre_fc_norm_hidden(states)], dim=-1)
        length = states.shape[1]
        positions = torch.arange(length).view(1, 1, -1).expand(3, states.shape[0], -1)
        output = self.layers[0](
            self.fc(joined),
            position_embeddings=trunk.rotary_emb(joined, positions),
            attention_mask=_causal(length),
            use_cache=False,
        )
        return cast(torch.Tensor, self.norm(output))


def _causal(length: int) -> torch.Tensor:
    """A mask [1, 1, length, length] to be added to attention scores."""
    mask = torch.full((length, length), float("-inf")).triu(1)
    return mask[None, None]
