"""The files of a repository that are not weights: configuration, tokenizer, licence, card.

Called by the builders that write directories. The tokenizer is byte-level and has no merges, so it
takes any text and both transformers and vLLM load it. It must not need the `tokenizers` package.
"""

import json
from pathlib import Path
from typing import Any

from .shapes import Config

SPECIAL_TOKENS: tuple[str, ...] = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>",
    "<|image_pad|>", "<|video_pad|>", "<think>", "</think>",
)  # fmt: skip

# Where an image goes; Gemma's processor writes the tokens around it by itself.
_PLACE = "<|vision_start|><|image_pad|><|vision_end|>"
_GEMMA_PLACE = "<|image_pad|>"

_CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}"
    "IMAGE_PLACE{% elif part['type'] == 'text' %}"
    "{{ part['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

_TORCH_NAMES = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}


def write_companions(
    directory: Path, config: Config, *, dtype: str = "BF16", licence: str | None = "apache-2.0"
) -> None:
    """Write everything but the weights.

    `licence` is the card's identifier; None leaves out the LICENSE file and the card's line.
    """
    _write(directory / "config.json", config | {"dtype": _TORCH_NAMES[dtype]})
    _write(directory / "tokenizer.json", _tokenizer())
    _write(directory / "tokenizer_config.json", _tokenizer_config(config))
    _write(directory / "generation_config.json", {"eos_token_id": 2, "pad_token_id": 0})
    gemma = "gemma4" in config["model_type"]
    template = _CHAT_TEMPLATE.replace("IMAGE_PLACE", _GEMMA_PLACE if gemma else _PLACE)
    (directory / "chat_template.jinja").write_text(template)
    if gemma and "vision_config" in config:
        _write(directory / "processor_config.json", _gemma_processor(config))
    if "qwen3_5" in config["model_type"] and "vision_config" in config:
        _write(directory / "preprocessor_config.json", _images(config["vision_config"]))
        _write(directory / "video_preprocessor_config.json", _videos(config["vision_config"]))
    front = f"---\nlicense: {licence}\nlibrary_name: transformers\n---\n" if licence else ""
    (directory / "README.md").write_text(f"{front}# A small random model\n\nFor tests only.\n")
    if licence:
        (directory / "LICENSE").write_text(f"Stand-in for the text of {licence}.\n")


def _write(path: Path, document: Any) -> None:
    path.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n")


def _tokenizer() -> dict[str, Any]:
    tokens = [*SPECIAL_TOKENS, *_byte_alphabet()]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [_added(index, token) for index, token in enumerate(SPECIAL_TOKENS)],
        "normalizer": None,
        "pre_tokenizer": {**byte_level, "use_regex": True},
        "post_processor": None,
        "decoder": {**byte_level, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {token: index for index, token in enumerate(tokens)},
            "merges": [],
        },
    }


def _added(index: int, token: str) -> dict[str, Any]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": index, "content": token, **flags, "special": True}


def _byte_alphabet() -> list[str]:
    """One printable character a byte: itself where printable in Latin-1, else from U+0100 on."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    spare = iter(range(256, 512))
    return [chr(byte if byte in printable else next(spare)) for byte in range(256)]


def _tokenizer_config(config: Config) -> dict[str, Any]:
    out = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": None,
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "model_max_length": 2048,
        "clean_up_tokenization_spaces": False,
    }
    if "qwen3_5" in config["model_type"]:
        out |= {
            "image_token": "<|image_pad|>",
            "video_token": "<|video_pad|>",
            "vision_start_token": "<|vision_start|>",
            "vision_end_token": "<|vision_end|>",
        }
    if "gemma4" in config["model_type"]:
        out |= {
            "image_token": "<|image_pad|>",
            "boi_token": "<|vision_start|>",
            "eoi_token": "<|vision_end|>",
            "audio_token": "<think>",
            "boa_token": "<|vision_start|>",
            "eoa_token": "<|vision_end|>",
        }
    return out


def _images(vision: Config) -> dict[str, Any]:
    return {
        "image_processor_type": "Qwen2VLImageProcessor",
        "processor_class": "Qwen3VLProcessor",
        "patch_size": vision["patch_size"],
        "merge_size": vision["spatial_merge_size"],
        "temporal_patch_size": vision["temporal_patch_size"],
        "size": {"shortest_edge": 1024, "longest_edge": 16384},
    }


def _videos(vision: Config) -> dict[str, Any]:
    images = _images(vision)
    del images["image_processor_type"]
    return images | {"video_processor_type": "Qwen3VLVideoProcessor"}


def _gemma_processor(config: Config) -> dict[str, Any]:
    """All parts in one file, as transformers 5 saves them; 70 tokens an image is the least."""
    vision = config["vision_config"]
    patches = {
        "patch_size": vision["patch_size"],
        "pooling_kernel_size": vision["pooling_kernel_size"],
        "max_soft_tokens": 70,
    }
    samples = config["audio_config"]["audio_embed_dim"]
    return {
        "processor_class": "Gemma4UnifiedProcessor",
        "image_processor": {"image_processor_type": "Gemma4UnifiedImageProcessor", **patches},
        "video_processor": {"video_processor_type": "Gemma4UnifiedVideoProcessor", **patches},
        "feature_extractor": {
            "feature_extractor_type": "Gemma4UnifiedAudioFeatureExtractor",
            "feature_size": samples,
            "audio_samples_per_token": samples,
            "sampling_rate": 16000,
        },
    }
