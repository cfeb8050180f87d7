"""Ready `vllm serve` lines, only for the modes that this checkpoint supports.

What a checkpoint supports is read from its plan (which parts are there), its `config.json` (context
length, heads) and its family. Flags are those of vLLM 0.32; a test gives every line to its parser.
Called by `halftone.publish.card.card`.
"""

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from halftone.checkpoint.architectures import text_config
from halftone.spec.documents import Plan
from halftone.spec.job import KvCacheFormat, KvCacheScales
from halftone.spec.roles import Role

_LONG_CONTEXT: Final = 262_144
_DRAFT_TOKENS: Final = 2  # what vLLM's own recipe for this family uses
# Files without which a server cannot prepare an image.
_PROCESSORS: Final = ("preprocessor_config.json", "processor_config.json")


class Parsers(NamedTuple):
    """vLLM's names of the parsers that read a family's tool calls and reasoning."""

    tools: str | None
    reasoning: str | None


# Families whose chat format vLLM 0.32 has parsers for. `llama` and `mistral` have none: the name
# of the architecture does not say which of their many chat formats a model was trained with.
_PARSERS: Final[dict[str, Parsers]] = {
    "qwen3_5": Parsers("qwen3_coder", "qwen3"),
    "qwen3_5_moe": Parsers("qwen3_coder", "qwen3"),
    "qwen3": Parsers("hermes", "qwen3"),
    "qwen3_moe": Parsers("hermes", "qwen3"),
    "gemma4_unified": Parsers("gemma4", "gemma4"),
}
# Families whose multi-token-prediction head vLLM 0.32 loads from the same checkpoint.
_MTP_FAMILIES: Final = frozenset({"qwen3_5", "qwen3_5_moe"})


@dataclass(frozen=True)
class Mode:
    """One way of serving: what for, the line, and what to know."""

    title: str
    command: str
    remark: str = ""


def serving_modes(plan: Plan, config: Mapping[str, Any], model: str) -> list[Mode]:
    """Every mode that the checkpoint supports; `model` is a repository or a path."""
    return list(_modes(plan, dict(config), f"vllm serve {shlex.quote(model)}"))


def _modes(plan: Plan, config: dict[str, Any], serve: str) -> Iterator[Mode]:
    roles = {line.role for line in plan.roles}
    towers = roles & {Role.Vision, Role.Audio}
    context = _context(config)
    longest = f"The model's context is {context:,} tokens." if context else ""
    if towers:
        senses = ((Role.Vision, "images"), (Role.Audio, "sound"))
        named = " and ".join(sense for tower, sense in senses if tower in towers)
        remark = f"Leaves what is there for {named} out of memory."
        yield Mode("Text only", f"{serve} --language-model-only", f"{remark} {longest}".strip())
        yield from _multimodal(plan, serve, roles)
    else:
        yield Mode("Text", serve, longest)
    yield from _chat(plan, serve)
    yield from _speculative(plan, config, serve, roles)
    yield from _caches(plan, serve)
    if context is not None and context >= _LONG_CONTEXT:
        command = f"{serve} --max-model-len {_LONG_CONTEXT} --max-num-seqs 2"
        remark = (
            "Few sequences at once leave the memory to the cache; raise it where there is more."
        )
        yield Mode("Context of 256K tokens", command, remark)


def _multimodal(plan: Plan, serve: str, roles: set[Role]) -> Iterator[Mode]:
    carried = plan.output.carried if plan.output is not None else ()
    if Role.Vision in roles and any(name in carried for name in _PROCESSORS):
        limit = shlex.quote('{"image": 4}')
        remark = "At most four images a request; the part that sees them is kept as in the source."
        yield Mode("Images and text", f"{serve} --limit-mm-per-prompt {limit}", remark)


def _chat(plan: Plan, serve: str) -> Iterator[Mode]:
    parsers = _PARSERS.get(plan.architecture or "")
    if parsers is None:
        return
    options = []
    if parsers.tools is not None:
        options.append(f"--enable-auto-tool-choice --tool-call-parser {parsers.tools}")
    if parsers.reasoning is not None:
        options.append(f"--reasoning-parser {parsers.reasoning}")
    remark = "For models of this family that were trained to call tools and to reason."
    yield Mode("Tools and reasoning", f"{serve} {' '.join(options)}", remark)


def _speculative(
    plan: Plan, config: dict[str, Any], serve: str, roles: set[Role]
) -> Iterator[Mode]:
    promised = text_config(config).get("mtp_num_hidden_layers") or 0
    if (
        plan.architecture in _MTP_FAMILIES
        and Role.MultiTokenPrediction in roles
        and isinstance(promised, int)
        and promised > 0
    ):
        options = shlex.quote(f'{{"method": "mtp", "num_speculative_tokens": {_DRAFT_TOKENS}}}')
        remark = "With the model's own multi-token-prediction head; needs a GPU."
        yield Mode("Speculative decoding", f"{serve} --speculative-config {options}", remark)


def _caches(plan: Plan, serve: str) -> Iterator[Mode]:
    cache = plan.recipe.kvCache if plan.recipe is not None else None
    if cache is None or cache.format is not KvCacheFormat.FP8:
        return
    unit = cache.scales is KvCacheScales.Unit
    scales = "all scales are 1.0" if unit else "with scales that were measured"
    remark = (
        f"`config.json` asks for an FP8 cache ({scales}), so every line here has one; "
        "`--kv-cache-dtype bfloat16` takes it back."
    )
    yield Mode("FP8 KV cache", f"{serve} --kv-cache-dtype fp8", remark)


def _context(config: dict[str, Any]) -> int | None:
    found = text_config(config).get("max_position_embeddings")
    return found if isinstance(found, int) and not isinstance(found, bool) and found > 0 else None
