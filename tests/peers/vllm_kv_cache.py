"""What vLLM itself makes of a model's KV cache; run in the serving environment as a process.

    python vllm_kv_cache.py CASES.json ANSWERS.json

Each case: `config` (a `config.json`), `kvFormat`, `tensorParallel`, `prefixCaching`, `context` and
`cacheBytes`. ANSWERS gets, for each, the groups and blocks that `get_kv_cache_configs` decides.
The model's own classes are built on the meta device, so the layers and their specs are vLLM's.

This build of vLLM knows CPU kernels only, whose blocks are multiples of 32 tokens. The block size
is therefore aligned by the platform-independent code with a CUDA kernel's granularity (Triton's,
which is also FlashAttention's and FlashInfer's smallest: 16).
"""

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
os.environ["HF_HUB_OFFLINE"] = "1"
# vLLM by itself: our plugin keeps an FP8 cache in BF16 where a CPU has no better.
os.environ["VLLM_PLUGINS"] = ""

import torch
from vllm.config import VllmConfig, get_layers_from_vllm_config, set_current_vllm_config
from vllm.distributed import init_distributed_environment, initialize_model_parallel
from vllm.distributed.parallel_state import get_tp_group
from vllm.engine.arg_utils import EngineArgs
from vllm.model_executor.layers.attention_layer_base import AttentionLayerBase
from vllm.model_executor.model_loader.utils import initialize_model
from vllm.platforms.interface import Platform
from vllm.utils.torch_utils import set_default_torch_dtype
from vllm.v1.attention.backends.triton_attn import TritonAttentionBackend
from vllm.v1.core import kv_cache_utils
from vllm.v1.kv_cache_interface import KVCacheSpec, MambaSpec, SlidingWindowSpec

Case = dict[str, Any]

# Vision towers ask for their input's normalisation when they are built; no picture is ever read.
PREPROCESSOR = {
    "do_normalize": True,
    "do_rescale": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_processor_type": "Qwen2VLImageProcessorFast",
    "image_std": [0.5, 0.5, 0.5],
    "rescale_factor": 1 / 255,
}


class CudaLike(Platform):  # type: ignore[misc]  # vLLM's types are not at hand in this check
    """The platform-independent block alignment, with the kernels a CUDA server would choose."""

    @classmethod
    def _find_non_ssm_backends(cls, vllm_config: VllmConfig) -> list[type[Any]]:
        del vllm_config  # whatever the model, the granularity is the same
        return [TritonAttentionBackend]


def engine_config(case: Case, directory: Path) -> VllmConfig:
    """The configuration that the server would start with."""
    (directory / "config.json").write_text(json.dumps(case["config"]))
    (directory / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR))
    arguments = EngineArgs(
        model=str(directory),
        skip_tokenizer_init=True,
        load_format="dummy",
        dtype="bfloat16",
        enforce_eager=True,
        max_model_len=case["context"],
        max_num_batched_tokens=case["batchTokens"],
        enable_prefix_caching=case["prefixCaching"],
        limit_mm_per_prompt={"image": 0, "video": 0, "audio": 0},
        language_model_only=True,
    )
    config = arguments.create_engine_config()
    config.parallel_config.tensor_parallel_size = case["tensorParallel"]
    config.cache_config.cache_dtype = case["kvFormat"]
    config.cache_config.block_size = 16
    config.cache_config.user_specified_block_size = False
    config.cache_config.kv_cache_layout = "LBNHC"
    return config


def layer_specs(config: VllmConfig) -> dict[str, KVCacheSpec]:
    """Build the model without weights and ask each of its layers what it caches."""
    get_tp_group().world_size = config.parallel_config.tensor_parallel_size
    with (
        set_current_vllm_config(config),
        set_default_torch_dtype(torch.bfloat16),
        torch.device("meta"),
    ):
        initialize_model(vllm_config=config)
    CudaLike.update_block_size_for_backend(config)
    layers = get_layers_from_vllm_config(config, AttentionLayerBase)
    specs = {}
    for name, layer in layers.items():
        if hasattr(layer, "kv_sharing_target_layer_name") and layer.kv_sharing_target_layer_name:
            continue
        layer.attn_backend = TritonAttentionBackend
        spec = layer.get_kv_cache_spec(config)
        if spec is not None:
            specs[name] = spec
    return specs


def kind(spec: KVCacheSpec) -> str:
    """The group's kind in our words."""
    if isinstance(spec, MambaSpec):
        return "State"
    return "SlidingWindow" if isinstance(spec, SlidingWindowSpec) else "Full"


def answer(case: Case) -> dict[str, Any]:
    """What vLLM decides for one case."""
    with tempfile.TemporaryDirectory() as directory:
        config = engine_config(case, Path(directory))
        specs = layer_specs(config)
    [cache] = kv_cache_utils.get_kv_cache_configs(config, [specs], [case["cacheBytes"]])
    groups = cache.kv_cache_groups
    reserved = kv_cache_utils._max_memory_usage_bytes_from_groups(config, groups)
    bytes_per_block = kv_cache_utils._pool_bytes_per_block(config, groups)
    return {
        "name": case["name"],
        "groups": sorted(
            [kind(g.kv_cache_spec), len(g.layer_names), g.kv_cache_spec.block_size] for g in groups
        ),
        "pageBytes": sorted({g.kv_cache_spec.page_size_bytes for g in groups}),
        "bytesPerBlock": bytes_per_block,
        "blocks": cache.num_blocks,
        "reservedBlocksPerRequest": reserved // bytes_per_block,
        "inFlightTokens": config.max_in_flight_tokens,
    }


def main() -> None:
    """Answer every case."""
    cases = json.loads(Path(sys.argv[1]).read_text())
    with tempfile.NamedTemporaryFile() as rendezvous, set_current_vllm_config(VllmConfig()):
        init_distributed_environment(1, 0, f"file://{rendezvous.name}", 0, "gloo")
        initialize_model_parallel(1, 1)
        Path(sys.argv[2]).write_text(json.dumps([answer(case) for case in cases]))


if __name__ == "__main__":
    main()
