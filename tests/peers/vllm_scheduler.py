"""What vLLM's own scheduler and KV manager do with requests; run in the serving environment.

    python vllm_scheduler.py CASES.json ANSWERS.json

There is no model: every request that a step brings to its end of known tokens is handed a token, as
an executor would. Each case has `tokenBudget`, `maxSequences`, `blocks`, `prefixCaching`, `groups`
(rows of kind, block tokens and window) and `requests` (rows of prompt, output and the step before
which it arrives). ANSWERS gets for each the blocks that each group sets aside for a request, and a
row a step: running, waiting and blocks in use once the step was decided, its tokens, running and
blocks once it was done, preemptions so far.
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
os.environ["VLLM_PLUGINS"] = ""

import torch
from vllm.config import VllmConfig
from vllm.engine.arg_utils import EngineArgs
from vllm.sampling_params import SamplingParams
from vllm.utils.hashing import sha256
from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.kv_cache_interface import (
    FullAttentionSpec,
    KVCacheConfig,
    KVCacheGroupSpec,
    KVCacheSpec,
    MambaSpec,
    SlidingWindowSpec,
)
from vllm.v1.outputs import ModelRunnerOutput
from vllm.v1.request import Request
from vllm.v1.structured_output import StructuredOutputManager

Case = dict[str, Any]

CONTEXT = 4096
# A configuration is asked for; no layer of it is ever built.
MODEL = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 2,
    "vocab_size": 256,
    "max_position_embeddings": CONTEXT,
    "rms_norm_eps": 1e-5,
}
TOKEN = 7


def engine_config(case: Case, directory: Path) -> VllmConfig:
    """Of a server whose steps do not overlap."""
    (directory / "config.json").write_text(json.dumps(MODEL))
    config = EngineArgs(
        model=str(directory),
        skip_tokenizer_init=True,
        load_format="dummy",
        dtype="bfloat16",
        enforce_eager=True,
        max_model_len=CONTEXT,
        max_num_batched_tokens=case["tokenBudget"],
        max_num_seqs=case["maxSequences"],
        enable_prefix_caching=case["prefixCaching"],
        async_scheduling=False,
    ).create_engine_config()
    config.cache_config.num_gpu_blocks = case["blocks"]
    return config


def specification(kind: str, block_tokens: int, window: int) -> KVCacheSpec:
    """Of one group; sizes in bytes play no part in what is compared."""
    if kind == "state":
        return MambaSpec(block_size=CONTEXT, shapes=((64,),), dtypes=(torch.float32,))
    heads = {"num_kv_heads": 2, "head_size": 16, "dtype": torch.bfloat16}
    if kind == "window":
        return SlidingWindowSpec(block_size=block_tokens, sliding_window=window, **heads)
    return FullAttentionSpec(block_size=block_tokens, **heads)


def scheduler_of(case: Case, config: VllmConfig) -> Scheduler:
    """vLLM's, with its own KV manager over `blocks` blocks."""
    specs = [specification(*group) for group in case["groups"]]
    cache = KVCacheConfig(
        num_blocks=case["blocks"],
        kv_cache_tensors=[],
        kv_cache_groups=[KVCacheGroupSpec([f"layer{i}"], spec) for i, spec in enumerate(specs)],
    )
    block_size = max(spec.block_size for spec in specs)
    return Scheduler(config, cache, StructuredOutputManager(config), block_size, log_stats=True)


def request_of(number: int, prompt: int, output: int, block_tokens: int) -> Request:
    """One whose prompt shares no block with another's."""
    tokens = [(number + place) % 200 for place in range(prompt)]
    tokens[0] = number % 200
    parameters = SamplingParams(max_tokens=output, ignore_eos=True)
    parameters.update_from_generation_config({}, 255)
    hasher = get_request_block_hasher(block_tokens, sha256)
    return Request(f"r{number}", tokens, parameters, None, block_hasher=hasher)


def outputs_of(scheduler: Scheduler, scheduled: dict[str, int]) -> ModelRunnerOutput:
    """A token for each request whose known tokens are all computed now."""
    names = list(scheduled)
    whole = [
        scheduler.requests[name].num_computed_tokens >= scheduler.requests[name].num_tokens
        for name in names
    ]
    return ModelRunnerOutput(
        req_ids=names,
        req_id_to_index={name: row for row, name in enumerate(names)},
        sampled_token_ids=[[TOKEN] if done else [] for done in whole],
    )


def used(scheduler: Scheduler) -> int:
    """Blocks in use, without the one that is never handed out."""
    pool = scheduler.kv_cache_manager.block_pool
    return int(pool.num_gpu_blocks - 1 - pool.get_num_free_blocks())


def answer(case: Case) -> dict[str, Any]:
    """All steps until every request is done."""
    with tempfile.TemporaryDirectory() as directory:
        config = engine_config(case, Path(directory))
        scheduler = scheduler_of(case, config)
    groups = scheduler.kv_cache_config.kv_cache_groups
    sizes = [group.kv_cache_spec for group in groups]
    block_tokens = case["groups"][0][1]
    to_come = list(enumerate(case["requests"]))
    known: list[Request] = []
    steps: list[list[int]] = []
    while to_come or scheduler.has_unfinished_requests():
        while to_come and to_come[0][1][2] <= len(steps):
            number, (prompt, output, _) = to_come.pop(0)
            known.append(request_of(number, prompt, output, block_tokens))
            scheduler.add_request(known[-1])
        decided = scheduler.schedule()
        running, waiting = len(scheduler.running), len(scheduler.waiting)
        row = [running, waiting, used(scheduler), decided.total_num_scheduled_tokens]
        scheduler.update_from_output(decided, outputs_of(scheduler, decided.num_scheduled_tokens))
        preemptions = sum(request.num_preemptions for request in known)
        steps.append([*row, len(scheduler.running), used(scheduler), preemptions])
    return {
        "blocksPerRequest": [
            -(-s.max_memory_usage_bytes(config) // s.page_size_bytes) for s in sizes
        ],
        "steps": steps,
    }


def main() -> None:
    """Answer every case."""
    init_none_hash(sha256)
    cases = json.loads(Path(sys.argv[1]).read_text())
    Path(sys.argv[2]).write_text(json.dumps([answer(case) for case in cases]))


if __name__ == "__main__":
    main()
