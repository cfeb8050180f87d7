"""Writes the trained weights as a checkpoint in the layout of the Hub, and the checksums.

`train.py` calls this last. Every tensor is BF16; shards are cut so that members of fused groups
(q from k and v, gate from up) lie in different files, as they do in large published models.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn
from transformers import (
    GenerationConfig,
    PreTrainedTokenizerFast,
    Qwen2VLImageProcessorPil,
    Qwen3_5ForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)

from pocket import arithmetic
from pocket.corpus import SPECIAL_TOKENS

LAYER = "model.language_model.layers."
# The last tensor of each shard but the last one. The first cut parts gate from up, the second
# q from k and v; the vision tower and the MTP head have a file each.
CUTS = (
    LAYER + "1.mlp.gate_proj.weight",
    LAYER + "3.self_attn.q_proj.weight",
    "lm_head.weight",
    "model.visual.merger.linear_fc2.bias",
)
CHAT_TEMPLATE = """\
{%- for message in messages -%}
<|im_start|>{{ message['role'] }}
{% if message['content'] is string -%}
{{ message['content'] }}
{%- else -%}
{%- for part in message['content'] -%}
{%- if part['type'] == 'image' -%}<|vision_start|><|image_pad|><|vision_end|>
{%- elif part['type'] == 'video' -%}<|vision_start|><|video_pad|><|vision_end|>
{%- elif part['type'] == 'text' -%}{{ part['text'] }}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
<|im_end|>
{% endfor -%}
{%- if add_generation_prompt -%}
<|im_start|>assistant
{% endif -%}
"""
CARD = """\
---
license: apache-2.0
library_name: transformers
pipeline_tag: image-text-to-text
tags: [test-model]
---
# Pocket model

A very small Qwen3.5-style model for testing quantization: it continues Python source and does sums
and differences such as `12+345=`. Its vision tower is random: it takes images and knows nothing
of them.
The weights are under the Apache License 2.0; they were trained on the source of Python's standard
library (PSF License).
"""
# What transformers' classes add to every configuration, and no published one has.
NOISE = {
    *("_name_or_path", "architectures", "chunk_size_feed_forward", "id2label", "label2id"),
    *("is_encoder_decoder", "output_attentions", "output_hidden_states", "problem_type"),
    "return_dict",
}
IMAGE_PIXELS = {"shortest_edge": 32 * 32, "longest_edge": 256 * 256}


def write_example(
    model: Qwen3_5ForConditionalGeneration, head: nn.Module, tokenizer: Any, root: Path
) -> None:
    """Write `checkpoint/` and the held-out items into the root folder of the example."""
    checkpoint = root / "checkpoint"
    checkpoint.mkdir(parents=True, exist_ok=True)
    write_shards(named_tensors(model, head), checkpoint)
    write_configuration(model, checkpoint)
    write_processor(wrapped(tokenizer), checkpoint)
    (checkpoint / "README.md").write_text(CARD, encoding="utf-8")
    licence = Path(__file__).resolve().parents[3] / "LICENSE"
    shutil.copyfile(licence, checkpoint / "LICENSE")
    arithmetic.write_held_out(root / "arithmetic.jsonl")


def named_tensors(
    model: Qwen3_5ForConditionalGeneration, head: nn.Module
) -> dict[str, torch.Tensor]:
    """Name every tensor as the Hub does, in the order text, output head, vision, MTP."""
    trunk = model.state_dict()
    order = ("model.language_model.", "lm_head.", "model.visual.")
    tensors = {n: t for prefix in order for n, t in trunk.items() if n.startswith(prefix)}
    tensors |= {f"mtp.{name}": tensor for name, tensor in head.state_dict().items()}
    return {name: tensor.detach().bfloat16().contiguous() for name, tensor in tensors.items()}


def write_shards(tensors: dict[str, torch.Tensor], folder: Path) -> None:
    """Cut the tensors at CUTS and write the shards and their index."""
    shards: list[dict[str, torch.Tensor]] = [{}]
    for name, tensor in tensors.items():
        shards[-1][name] = tensor
        if name in CUTS:
            shards.append({})
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        save_file(shard, folder / file, metadata={"format": "pt"})
        (folder / file).chmod(0o644)
        weight_map |= dict.fromkeys(shard, file)
    size = sum(t.numel() * t.element_size() for t in tensors.values())
    index = {"metadata": {"total_size": size}, "weight_map": dict(sorted(weight_map.items()))}
    _write_json(index, folder / "model.safetensors.index.json")


def write_configuration(model: Qwen3_5ForConditionalGeneration, folder: Path) -> None:
    """Write config.json and generation_config.json."""
    configuration = json.loads(model.config.to_json_string(use_diff=False))
    text = configuration["text_config"]
    # transformers turns the interval into layer_types and forgets it; the Hub's files have both.
    text["full_attention_interval"] = text["layer_types"].index("full_attention") + 1
    for part in (configuration, text, configuration["vision_config"]):
        part["dtype"] = "bfloat16"
        for name in NOISE.intersection(part):
            del part[name]
    configuration["architectures"] = ["Qwen3_5ForConditionalGeneration"]
    _write_json(dict(sorted(configuration.items())), folder / "config.json")
    GenerationConfig(
        do_sample=False,
        eos_token_id=[text["eos_token_id"], text["pad_token_id"]],
        pad_token_id=text["pad_token_id"],
    ).save_pretrained(folder)


def wrapped(tokenizer: Any) -> PreTrainedTokenizerFast:
    """Give the trained tokenizer its special tokens' roles and the chat template."""
    tokens = {
        "image_token": "<|image_pad|>",
        "video_token": "<|video_pad|>",
        "vision_bos_token": "<|vision_start|>",
        "vision_eos_token": "<|vision_end|>",
    }
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=list(SPECIAL_TOKENS[1:7]),
        extra_special_tokens=tokens,
        model_max_length=2048,
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def write_processor(tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write the tokenizer's files and those of the image and video processors."""
    patches = {"patch_size": 16, "merge_size": 2, "temporal_patch_size": 2}
    halves = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    images = Qwen2VLImageProcessorPil(size=IMAGE_PIXELS, **patches, **halves)
    # Few and small frames: a server that reserves room for the longest video stays small.
    videos = Qwen3VLVideoProcessor(size=IMAGE_PIXELS, max_frames=8, **patches, **halves)
    processor = Qwen3VLProcessor(
        image_processor=images,
        tokenizer=tokenizer,
        video_processor=videos,
        chat_template=CHAT_TEMPLATE,
    )
    processor.save_pretrained(folder)
    images.save_pretrained(folder)
    videos.save_pretrained(folder)


def write_checksums(root: Path) -> None:
    """Write SHA256SUMS beside the checkpoint, as `sha256sum --check` reads it."""
    files = [
        *(root / "checkpoint").iterdir(),
        root / "arithmetic.jsonl",
        root / "calibration.jsonl",
        root / "training-log.jsonl",
    ]
    lines = [
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(root).as_posix()}"
        for path in sorted(files)
    ]
    (root / "SHA256SUMS").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _write_json(document: dict[str, Any], path: Path) -> None:
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
