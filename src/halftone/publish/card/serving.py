"""Ready `vllm serve` lines, only for the modes that this checkpoint supports.

What a checkpoint supports is read from its plan (which parts are there), its `config.json` (context
length, heads) and its family; the arguments of a mode are those of the table that endpoints use,
`halftone.checkpoint.serving_modes`. A test gives every line to vLLM's own parser.
Called by `halftone.publish.card.card`.
"""

import json
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from halftone.checkpoint.architectures import text_config
from halftone.checkpoint.serving_modes import PROCESSOR_FILES, ModeKey, find_row
from halftone.spec.documents import Plan
from halftone.spec.job import KvCacheFormat, KvCacheScales
from halftone.spec.roles import Role
from halftone.spec.serving import ServingMode

# A mode's argument that its title does not tell, so it has a line of its own.
_CACHE: Final = "kv_cache_dtype"


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
    key = ModeKey(family=plan.architecture, towers=bool(towers))
    context = _context(config)
    longest = f"The model's context is {context:,} tokens." if context else ""
    text = _line(serve, ServingMode.Text, key) or serve
    if towers:
        senses = ((Role.Vision, "images"), (Role.Audio, "sound"))
        named = " and ".join(sense for tower, sense in senses if tower in towers)
        remark = f"Leaves what is there for {named} out of memory."
        yield Mode("Text only", text, f"{remark} {longest}".strip())
        yield from _multimodal(plan, serve, roles, key)
    else:
        yield Mode("Text", text, longest)
    tools = _line(serve, ServingMode.Tools, key)
    if tools is not None:
        remark = "For models of this family that were trained to call tools and to reason."
        yield Mode("Tools and reasoning", tools, remark)
    yield from _speculative(config, serve, roles, key)
    yield from _caches(plan, serve)
    yield from _long_context(context, serve, key)


def _multimodal(plan: Plan, serve: str, roles: set[Role], key: ModeKey) -> Iterator[Mode]:
    carried = plan.output.carried if plan.output is not None else ()
    line = _line(serve, ServingMode.Multimodal, key)
    if line and Role.Vision in roles and any(name in carried for name in PROCESSOR_FILES):
        remark = "At most four images a request; the part that sees them is kept as in the source."
        yield Mode("Images and text", line, remark)


def _speculative(
    config: dict[str, Any], serve: str, roles: set[Role], key: ModeKey
) -> Iterator[Mode]:
    promised = text_config(config).get("mtp_num_hidden_layers") or 0
    line = _line(serve, ServingMode.Speculative, key)
    if line and Role.MultiTokenPrediction in roles and isinstance(promised, int) and promised > 0:
        remark = "With the model's own multi-token-prediction head."
        yield Mode("Speculative decoding", line, remark)


def _long_context(context: int | None, serve: str, key: ModeKey) -> Iterator[Mode]:
    row = find_row(ServingMode.LongContext, key)
    if row is None or context is None or context < row.arguments["max_model_len"]:
        return
    arguments = {name: value for name, value in row.arguments.items() if name != _CACHE}
    remark = (
        "Few sequences at once leave the memory to the cache; raise it where there is more. With "
        f"`--kv-cache-dtype {row.arguments[_CACHE]}` they take half as much."
    )
    yield Mode("Context of 256K tokens", f"{serve} {_options(arguments)}", remark)


def _line(serve: str, mode: ServingMode, key: ModeKey) -> str | None:
    """The command of a mode, None where the table has no row for it."""
    row = find_row(mode, key)
    return None if row is None else f"{serve} {_options(row.arguments)}".rstrip()


def _options(arguments: Mapping[str, Any]) -> str:
    """vLLM's arguments as options of its command line."""
    words = []
    for name, value in arguments.items():
        words.append(f"--{name.replace('_', '-')}")
        if value is not True:
            words.append(json.dumps(value) if isinstance(value, dict) else str(value))
    return shlex.join(words)


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
