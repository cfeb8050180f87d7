"""The KV-cache rule of `halftone plan --gpu`, held against vLLM's own planner.

`tests/peers/vllm_kv_cache.py` builds each model's layers without weights in the serving
environment and runs vLLM's `get_kv_cache_configs` on them; here the same configurations go through
`halftone.plan.cache`. Groups, page and block sizes, blocks in a given memory and blocks reserved
for a request must be equal, not close.
"""

from collections.abc import Mapping
from typing import Any

import pytest

from halftone.plan.cache import CacheKind, KvCache, kv_cache
from tests.builders import full_size_config
from tests.environments import ask

pytestmark = pytest.mark.serve_env

CACHE_BYTES = 80 * 10**9

DENSE: dict[str, Any] = {
    "num_hidden_layers": 4,
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 4096,
    "max_position_embeddings": 262144,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
}


def _with_text(name: str, **changes: Any) -> dict[str, Any]:
    config = full_size_config(name)
    return config | {"text_config": config["text_config"] | changes}


EXPERTS: dict[str, Any] = {"num_experts_per_tok": 2, "num_local_experts": 4}
CONFIGS: dict[str, dict[str, Any]] = {
    "27B": full_size_config("27B"),
    "35B-A3B": full_size_config("35B-A3B"),
    "Gemma-12B": full_size_config("Gemma-12B"),
    # Nearly as many of one kind as of the other: the commoner kind sets the size of a group.
    "Hybrid-uneven": _with_text(
        "27B",
        num_hidden_layers=9,
        layer_types=["linear_attention", "full_attention"] * 4 + ["linear_attention"],
    ),
    # Groups of unequal length, and pages of which neither divides the other.
    "Gemma-uneven": _with_text(
        "Gemma-12B",
        num_hidden_layers=13,
        head_dim=160,
        layer_types=["sliding_attention"] * 10 + ["full_attention"] * 3,
    ),
    "Qwen3": DENSE | {"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"]},
    "Llama": DENSE | {"model_type": "llama", "architectures": ["LlamaForCausalLM"]},
    "Mistral-windowed": DENSE
    | {"model_type": "mistral", "architectures": ["MistralForCausalLM"], "sliding_window": 4096},
    "Mixtral": DENSE
    | EXPERTS
    | {"model_type": "mixtral", "architectures": ["MixtralForCausalLM"], "sliding_window": None},
}


def _case(
    model: str, *, kv: str = "auto", ranks: int = 1, prefix: bool = True, context: int = 32768
) -> dict[str, Any]:
    return {
        "name": f"{model}, {kv}, {ranks} ranks, prefix caching {'on' if prefix else 'off'}",
        "model": model,
        "config": CONFIGS[model],
        "kvFormat": kv,
        "tensorParallel": ranks,
        "prefixCaching": prefix,
        "context": context,
        "batchTokens": 8193,  # a window and these fill whole blocks, so one token more would show
        "cacheBytes": CACHE_BYTES,
    }


CASES = [
    _case("Hybrid-uneven"),
    _case("Gemma-uneven"),
    _case("27B", prefix=False, context=555),
    _case("27B", prefix=False, context=1366),
    _case("27B"),
    _case("27B", kv="fp8"),
    _case("27B", ranks=2),
    _case("27B", ranks=8),
    _case("35B-A3B"),
    _case("35B-A3B", kv="fp8", ranks=4),
    _case("Gemma-12B"),
    _case("Gemma-12B", ranks=2),
    _case("Gemma-12B", kv="fp8", ranks=8),
    _case("Qwen3"),
    _case("Llama", ranks=2),
    _case("Mistral-windowed"),
    _case("Mixtral", kv="fp8"),
]


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What vLLM says to every case; one process, because its import takes most of the time."""
    work = tmp_path_factory.mktemp("peer")
    said: list[dict[str, Any]] = ask("serve", "vllm_kv_cache.py", CASES, work=work, timeout_s=500)
    assert [answer["name"] for answer in said] == [case["name"] for case in CASES]
    return said


@pytest.mark.parametrize("index", range(len(CASES)), ids=[case["name"] for case in CASES])
def test_the_cache_is_cut_as_vllm_cuts_it(index: int, answers: list[dict[str, Any]]) -> None:
    case, said = CASES[index], answers[index]
    ours = kv_cache(case["config"], case["kvFormat"], case["tensorParallel"])
    assert _groups(ours) == sorted(_comparable(*group) for group in said["groups"])
    assert [ours.page_bytes] == said["pageBytes"]
    assert ours.bytes_per_block == said["bytesPerBlock"]
    assert ours.blocks(CACHE_BYTES) == said["blocks"]
    assert (
        ours.reserved_blocks_per_request(
            case["context"], said["inFlightTokens"], prefix_caching=case["prefixCaching"]
        )
        == said["reservedBlocksPerRequest"]
    )


def test_the_27b_runs_389_short_and_311_long_requests_in_80_gb(
    answers: list[dict[str, Any]],
) -> None:
    by_context: Mapping[int, dict[str, Any]] = {
        case["context"]: said
        for case, said in zip(CASES, answers, strict=True)
        if case["model"] == "27B" and not case["prefixCaching"]
    }
    expected = {555: 389, 1366: 311}
    # Without prefix caching vLLM reserves what a request holds; one block is never handed out.
    assert {
        context: (said["blocks"] - 1) // said["reservedBlocksPerRequest"]
        for context, said in by_context.items()
    } == expected
    ours = kv_cache(CONFIGS["27B"], "auto")
    assert {c: ours.concurrent_requests(CACHE_BYTES, c) for c in expected} == expected


def _groups(cache: KvCache) -> list[tuple[str, int, int]]:
    return sorted(_comparable(g.kind, g.layers, g.block_tokens) for g in cache.groups)


def _comparable(kind: str, layers: int, block_tokens: int) -> tuple[str, int, int]:
    """A state's block holds no tokens: the number beside it is only how often it is kept."""
    return (str(kind), layers, 0 if kind == CacheKind.State else block_tokens)
