"""Puts prompts of the prompt set to vLLM, texts as they are and images through the chat template.

Called by `scoring` and `generating` in the worker's process. A prompt is a row
{"id", "text", "image"?}, `image` being the path of a PNG, JPEG or WebP file.
"""

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from halftone.spec.errors import RefusedInput
from halftone.spec.names import Reason


def run(llm: Any, prompts: Sequence[dict[str, Any]], settings: Sequence[Any]) -> list[Any]:
    """vLLM's output for each prompt, in order; `settings` are its sampling parameters, one each.

    Texts go in together, then images. Raises RefusedInput where a prompt does not fit.
    """
    outputs: dict[str, Any] = {}
    texts = [(p, s) for p, s in zip(prompts, settings, strict=True) if not p.get("image")]
    images = [(p, s) for p, s in zip(prompts, settings, strict=True) if p.get("image")]
    if texts:
        _check_lengths(llm, [prompt for prompt, _ in texts])
        said = llm.generate([p["text"] for p, _ in texts], [s for _, s in texts], use_tqdm=False)
        outputs |= {prompt["id"]: output for (prompt, _), output in zip(texts, said, strict=True)}
    if images:
        said = _ask_about_images(llm, [p for p, _ in images], [s for _, s in images])
        outputs |= {prompt["id"]: output for (prompt, _), output in zip(images, said, strict=True)}
    return [outputs[prompt["id"]] for prompt in prompts]


def _check_lengths(llm: Any, prompts: Sequence[dict[str, Any]]) -> None:
    """vLLM would say that some prompt is too long; we say which."""
    longest = llm.llm_engine.vllm_config.model_config.max_model_len - 1
    tokenizer = llm.get_tokenizer()
    for prompt in prompts:
        tokens = len(tokenizer.encode(prompt["text"]))
        if not 2 <= tokens <= longest:
            raise RefusedInput(
                Reason.InvalidJob,
                prompt["id"],
                f"Prompt `{prompt['id']}` has {tokens} tokens; it must have 2 to {longest}. "
                "Shorten it, split it, or take it out of `promptFile`.",
            )


def _ask_about_images(llm: Any, prompts: Sequence[dict[str, Any]], settings: list[Any]) -> Any:
    if _has_chat_template(llm):
        return llm.chat([_message(p) for p in prompts], settings, use_tqdm=False)
    return llm.generate([_placed(llm, p) for p in prompts], settings, use_tqdm=False)


def _has_chat_template(llm: Any) -> bool:
    if getattr(llm.get_tokenizer(), "chat_template", None):
        return True
    directory = Path(llm.llm_engine.vllm_config.model_config.model)
    return any(
        (directory / name).exists() for name in ("chat_template.jinja", "chat_template.json")
    )


def _message(prompt: dict[str, Any]) -> list[dict[str, Any]]:
    image = Path(prompt["image"])
    kind = {".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp"}.get(image.suffix.lower(), "png")
    data = base64.b64encode(image.read_bytes()).decode()
    url = f"data:image/{kind};base64,{data}"
    content = [
        {"type": "image_url", "image_url": {"url": url}},
        {"type": "text", "text": prompt["text"]},
    ]
    return [{"role": "user", "content": content}]


def _placed(llm: Any, prompt: dict[str, Any]) -> dict[str, Any]:
    """For a model without a chat template: its own placeholder, and the image beside."""
    from PIL import Image
    from vllm.model_executor.model_loader import get_model_cls

    model = get_model_cls(llm.llm_engine.vllm_config.model_config)
    placeholder = model.get_placeholder_str("image", 0) or ""
    with Image.open(prompt["image"]) as image:
        picture = image.convert("RGB")
    return {"prompt": f"{placeholder}\n{prompt['text']}", "multi_modal_data": {"image": picture}}
