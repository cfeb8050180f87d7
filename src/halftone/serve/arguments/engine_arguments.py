"""From an endpoint and what it serves to the arguments of vLLM, or a refusal.

    arguments = engine_arguments(endpoint, model, draft, this_device(endpoint.accelerator))

Called by each replica before vLLM starts, with weights that were verified. Later sources win: what
a CPU needs, the rows of the modes, the endpoint's own fields, its `engineArguments`. It reads
headers and small files, and starts nothing.
"""

from collections.abc import Iterator
from typing import Any, Final

from halftone.checkpoint.serving_modes import ConflictingModes, merged
from halftone.plan.cache import KvFormat, kv_cache
from halftone.plan.devices import devices_like
from halftone.serve.arguments.case import Case, Obstacle, asks_for_fp8_cache
from halftone.serve.arguments.checkpoint_facts import read_facts
from halftone.serve.arguments.device import DeviceFacts
from halftone.serve.arguments.requirements import first_obstacle
from halftone.serve.arguments.settable import refuse_unsettable
from halftone.serve.kernel_check import EXTENSION
from halftone.serve.served_model import ServedModel
from halftone.spec.errors import RefusedInput
from halftone.spec.names import Reason
from halftone.spec.serving import Endpoint

# A CPU serves for development and tests: short texts, and a cache that leaves the machine alone.
_CPU_TOKENS: Final = 8192
_CPU_CACHE_BYTES: Final = 512 << 20
_CPU_STEP_TOKENS: Final = 2048  # vLLM's default of a step, twice in flight
_ENGINE_PERCENT: Final = 92  # vLLM's own default of `gpu_memory_utilization`
_SPECULATION: Final = "speculative_config"


def engine_arguments(
    endpoint: Endpoint, model: ServedModel, draft: ServedModel | None, device: DeviceFacts
) -> dict[str, Any]:
    """vLLM's arguments by name, those of `AsyncEngineArgs` and of its server.

    Left out is what Ray Serve sets: the model, its name, and how workers are started. Raises
    RefusedInput with a sentence that names a field and the way out: InvalidEndpoint for what no
    artifact could be served with, else the reason why this one cannot be, on this device.
    """
    refuse_unsettable(endpoint.engineArguments)
    facts = read_facts(model, vocabulary=draft is not None)
    draft_facts = None if draft is None else read_facts(draft, vocabulary=True)
    place = None if draft is None else str(draft.path)
    return arguments_of(Case(endpoint, facts, draft_facts, device), place)


def arguments_of(case: Case, draft_place: str | None) -> dict[str, Any]:
    """The same from facts; `draft_place` is where the draft lies. Pure."""
    found = first_obstacle(case) or next(_twice(case), None)
    if found is not None:
        raise RefusedInput(*found)
    try:
        modes = merged(row for row in case.rows.values() if row is not None)
    except ConflictingModes as error:
        raise RefusedInput(Reason.InvalidEndpoint, "modes", str(error)) from error
    arguments = _of_device(case) | modes | dict(_of_fields(case))
    arguments |= _speculation(case, modes, draft_place)
    arguments |= case.given
    if case.on_cpu:
        arguments |= _of_cpu(case, arguments)
    found = next(_too_much(case, arguments), None)
    if found is not None:
        raise RefusedInput(*found)
    return arguments


def _of_device(case: Case) -> dict[str, Any]:
    """What every endpoint needs, and GPUs that share their memory with the CPU."""
    arguments: dict[str, Any] = {
        "worker_extension_cls": EXTENSION,
        # What was judged, and no other file that vLLM would rather take: neither Mistral's
        # `params.json` nor a pickle.
        "config_format": "hf",
        "load_format": "safetensors",
    }
    percents = {row.memoryPercent for row in devices_like(case.device.capability or "none")}
    if len(percents) == 1 and _ENGINE_PERCENT not in percents:
        arguments["gpu_memory_utilization"] = percents.pop() / 100
    return arguments


def _of_fields(case: Case) -> Iterator[tuple[str, Any]]:
    endpoint = case.endpoint
    yield "tensor_parallel_size", endpoint.tensorParallel
    yield "pipeline_parallel_size", endpoint.pipelineParallel
    if endpoint.maxModelLen is not None:
        yield "max_model_len", endpoint.maxModelLen
    if endpoint.maxNumSeqs is not None:
        yield "max_num_seqs", endpoint.maxNumSeqs
    if endpoint.gpuMemoryPercent is not None:
        yield "gpu_memory_utilization", endpoint.gpuMemoryPercent / 100


def _speculation(case: Case, modes: dict[str, Any], draft_place: str | None) -> dict[str, Any]:
    """The rows' speculation with the draft's place and the endpoint's number of tokens."""
    if _SPECULATION not in modes:
        return {}
    config = dict(modes[_SPECULATION])
    if draft_place is not None:
        config["model"] = draft_place
        if case.endpoint.tensorParallel > 1:
            # `DraftModelProposer` takes no other size than the model's.
            config["draft_tensor_parallel_size"] = case.endpoint.tensorParallel
    if case.endpoint.draftTokens is not None:
        config["num_speculative_tokens"] = case.endpoint.draftTokens
    return {_SPECULATION: config}


def _of_cpu(case: Case, arguments: dict[str, Any]) -> dict[str, Any]:
    """What a CPU needs and nobody chose: a short context, a cache of a size, no compilation."""
    short = min(case.model.context or _CPU_TOKENS, _CPU_TOKENS)
    chosen = arguments.get("max_model_len")
    tokens = chosen if isinstance(chosen, int) and chosen > 0 else short  # or vLLM's word `auto`
    defaults: dict[str, Any] = {"enforce_eager": True, "dtype": "bfloat16", "max_model_len": tokens}
    if "num_gpu_blocks_override" not in arguments:
        defaults["kv_cache_memory_bytes"] = _cache_bytes(case, tokens)
    if _SPECULATION in arguments and case.model.hybrid:
        # Cached states and speculation meet in a Triton kernel (`mamba_utils.run_fused_precopy`).
        defaults["enable_prefix_caching"] = False
    return {name: value for name, value in defaults.items() if name not in arguments}


def _cache_bytes(case: Case, tokens: int) -> int:
    """Enough for two requests of `tokens`, and never less than half a GiB."""
    kind: KvFormat = "fp8" if asks_for_fp8_cache(case.endpoint, case.model) else "auto"
    try:
        cache = kv_cache(case.model.config, kind)
    except RefusedInput:  # a family without a rule
        return _CPU_CACHE_BYTES
    blocks = cache.reserved_blocks_per_request(tokens, 2 * _CPU_STEP_TOKENS)
    return max(_CPU_CACHE_BYTES, 2 * (blocks + 1) * cache.bytes_per_block)


# What is wrong with the endpoint's own numbers ----------------------------------------------------


def _twice(case: Case) -> Iterator[Obstacle]:
    """Fields that `engineArguments` give again: nobody could say which was meant."""
    endpoint, given = case.endpoint, case.given
    for field, value, argument in (
        ("maxModelLen", endpoint.maxModelLen, "max_model_len"),
        ("maxNumSeqs", endpoint.maxNumSeqs, "max_num_seqs"),
        ("gpuMemoryPercent", endpoint.gpuMemoryPercent, "gpu_memory_utilization"),
        ("draftTokens", endpoint.draftTokens, _SPECULATION),
        ("draft", endpoint.draft, _SPECULATION),
    ):
        if value is not None and argument in given:
            told = (
                f"`{field}` and `engineArguments.{argument}` say the same thing; set one of them."
            )
            yield Obstacle(Reason.InvalidEndpoint, field, told)
    if case.on_cpu and endpoint.gpuMemoryPercent is not None:
        told = (
            "`gpuMemoryPercent` is set and `accelerator` is 'CPU'; leave it out, or set "
            "`engineArguments.kv_cache_memory_bytes`."
        )
        yield Obstacle(Reason.InvalidEndpoint, "gpuMemoryPercent", told)


def _too_much(case: Case, arguments: dict[str, Any]) -> Iterator[Obstacle]:
    """Numbers that this model does not have, wherever they were set."""
    model, tokens = case.model, arguments.get("max_model_len")
    stretched = model.context is None or "hf_overrides" in arguments
    if isinstance(tokens, int) and not stretched and tokens > (model.context or 0):
        yield Obstacle(
            Reason.SequenceTooLong,
            "maxModelLen",
            f"`maxModelLen` {tokens:,} is more than the {model.context:,} tokens that "
            f"`{model.name}` was made for; set at most that.",
        )
    speculation = arguments.get(_SPECULATION)
    if not isinstance(speculation, dict):
        return
    drafted, layers = speculation.get("num_speculative_tokens"), model.head_layers
    own_head = speculation.get("method") == "mtp" and "model" not in speculation
    if own_head and isinstance(drafted, int) and layers and drafted > layers and drafted % layers:
        yield Obstacle(
            Reason.InvalidEndpoint,
            "draftTokens",
            f"`draftTokens` {drafted} is no multiple of the {layers} layers of the prediction head "
            f"of `{model.name}`; set one.",
        )
    if case.on_cpu and model.hybrid and arguments.get("enable_prefix_caching"):
        yield Obstacle(
            Reason.NotSupported,
            "engineArguments.enable_prefix_caching",
            f"`{model.name}` keeps states, and on a CPU vLLM cannot both cache prefixes of such a "
            "model and speculate; leave `enable_prefix_caching` or the mode 'speculative' out.",
        )
