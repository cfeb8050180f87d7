"""Loads a model into this process with vLLM, and asks the engine what it made of it.

Called by `worker`, in its process, and by `serve.measuring.engine_facts` in a replica's; nothing
else may import it, because it needs vLLM.
"""

import json
from importlib.metadata import version
from pathlib import Path
from time import monotonic
from typing import Any, Final

# A gate's prompts are short; a context of a quarter of a million tokens would only cost blocks.
_MOST_TOKENS: Final = 4096
_CPU_KV_BYTES: Final = 512 << 20
EXTENSION: Final = "halftone.validate.serving.inside.Inside"
# What every worker with that extension is asked about itself.
INSIDE: Final = ("halftone_cache", "halftone_cache_scales", "halftone_kernels")


def load(request: dict[str, Any], on_cpu: bool) -> tuple[Any, float]:
    """A `vllm.LLM` of the checkpoint that `request` names, and how many seconds it took to load.

    Raises whatever vLLM raises. Importing vLLM is no part of the seconds.
    """
    from vllm import LLM

    arguments: dict[str, Any] = {
        "model": request["model"],
        "max_model_len": request["maxModelLen"] or _context(Path(request["model"])),
        "max_num_seqs": request["maxSequences"],
        "max_num_batched_tokens": max(request["tokenBudget"], request["maxSequences"]),
        "max_logprobs": -1,
        # Answers about a prompt are wanted for all of it, however it begins.
        "enable_prefix_caching": False,
        "disable_log_stats": False,
        "worker_extension_cls": EXTENSION,
        "seed": 0,
        "trust_remote_code": False,
    }
    if request["kvCacheBytes"] or on_cpu:
        arguments["kv_cache_memory_bytes"] = request["kvCacheBytes"] or _CPU_KV_BYTES
    if on_cpu:
        arguments |= {"enforce_eager": True}
    begun = monotonic()
    llm = LLM(**{**arguments, **request["arguments"]})
    return llm, monotonic() - begun


def facts(llm: Any, load_seconds: float, on_cpu: bool) -> dict[str, Any]:
    """`session.EngineFacts` as JSON."""
    inside = {name: llm.collective_rpc(name) for name in INSIDE}
    return described(llm.llm_engine.vllm_config, inside, load_seconds, on_cpu)


def described(
    config: Any, inside: dict[str, list[Any]], load_seconds: float, on_cpu: bool
) -> dict[str, Any]:
    """The same of any engine: its `VllmConfig`, and what each worker answered to `INSIDE`."""
    cache = inside["halftone_cache"][0]
    return {
        "loadSeconds": round(load_seconds, 3),
        "kvBlocks": cache["blocks"],
        "cacheGroups": cache["groups"],
        "cacheScales": inside["halftone_cache_scales"][0],
        **_device(on_cpu),
        "emulated": on_cpu,
        "engine": f"vllm {version('vllm')}",
        "kernels": sorted({name for rank in inside["halftone_kernels"] for name in rank}),
        "maxModelLen": config.model_config.max_model_len,
        "maxSequences": config.scheduler_config.max_num_seqs,
        "tokenBudget": config.scheduler_config.max_num_batched_tokens,
        "vocabulary": config.model_config.get_vocab_size(),
        "sees": _takes_images(config),
        "engineArguments": _arguments(config),
    }


def _context(model: Path) -> int:
    """The model's own context, at most `_MOST_TOKENS`."""
    config = json.loads((model / "config.json").read_bytes())
    text = config.get("text_config") or config
    return min(_MOST_TOKENS, int(text.get("max_position_embeddings") or _MOST_TOKENS))


def _device(on_cpu: bool) -> dict[str, str | None]:
    from vllm.platforms import current_platform

    if on_cpu:
        return {"device": processor(), "driver": None, "capability": None}
    capability = current_platform.get_device_capability()
    return {
        "device": current_platform.get_device_name(),
        "driver": _driver(),
        "capability": None if capability is None else capability.as_version_str(),
    }


def processor() -> str:
    """The CPU's name in the words of its maker, where Linux knows it."""
    import platform

    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return f"CPU {' '.join(value.split())}"
    return f"CPU {platform.machine()}"


def _driver() -> str | None:
    """The NVIDIA driver's version, as the kernel module says it."""
    try:
        said = Path("/proc/driver/nvidia/version").read_text()
    except OSError:
        return None
    words = said.split("Kernel Module")[-1].split()
    return next((word for word in words if word[0].isdigit() and "." in word), None)


def _takes_images(config: Any) -> bool:
    multimodal = config.model_config.multimodal_config
    return multimodal is not None and multimodal.get_limit_per_prompt("image") > 0


def _arguments(config: Any) -> dict[str, str]:
    """What decides speed and capacity, as vLLM resolved it."""
    model, cache, scheduler = config.model_config, config.cache_config, config.scheduler_config
    quantization = model.quantization
    return {
        "dtype": str(model.dtype).removeprefix("torch."),
        "quantization": str(quantization) if quantization else "none",
        "kvCacheDtype": str(cache.cache_dtype),
        "blockSize": str(cache.block_size),
        "gpuMemoryUtilization": str(cache.gpu_memory_utilization),
        "prefixCaching": "On" if cache.enable_prefix_caching else "Off",
        "maxModelLen": str(model.max_model_len),
        "maxSequences": str(scheduler.max_num_seqs),
        "tokenBudget": str(scheduler.max_num_batched_tokens),
        "tensorParallel": str(config.parallel_config.tensor_parallel_size),
        "eager": "On" if model.enforce_eager else "Off",
        "modelRunner": "V2" if config.use_v2_model_runner else "V1",
        "speculative": str(getattr(config.speculative_config, "method", None) or "none"),
    }
