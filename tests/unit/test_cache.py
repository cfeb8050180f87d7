"""The KV-cache rule on paper: blocks, groups and what a request holds.

`tests/integration/test_fit_against_vllm.py` holds the same rule against vLLM itself; here stand
the figures that people quote, and the configurations that must be refused.
"""

from typing import Any

import pytest

from halftone.plan.cache import CacheKind, KvFormat, kv_cache
from halftone.spec.errors import RefusedInput
from halftone.spec.names import Reason
from tests.builders import full_size_config

GB = 10**9
PLAIN: dict[str, Any] = {
    "model_type": "qwen3",
    "num_hidden_layers": 4,
    "hidden_size": 1024,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
}


@pytest.mark.parametrize(("kv_format", "tokens"), [("auto", 784), ("fp8", 1568)])
def test_the_27bs_attention_blocks_are_padded_to_its_state(
    kv_format: KvFormat, tokens: int
) -> None:
    cache = kv_cache(full_size_config("27B"), kv_format)
    assert cache.block_tokens == tokens
    # 48 value heads x 128 x 128 in float32 and 3 x 10,240 channels in BF16 need 3,207,168 bytes.
    assert cache.page_bytes == 784 * 4096 >= 3_207_168
    assert [(g.kind, g.layers) for g in cache.groups] == [(CacheKind.State, 16)] * 3 + [
        (CacheKind.Full, 16)
    ]


def test_a_request_to_the_27b_pins_three_state_blocks_and_one_of_attention() -> None:
    cache = kv_cache(full_size_config("27B"), "auto")
    assert cache.blocks_per_request(1) == cache.blocks_per_request(784) == 4
    assert cache.blocks_per_request(785) == 5
    assert cache.blocks_per_request(1) * cache.bytes_per_block == 205_520_896


@pytest.mark.parametrize(("prompt", "answer", "requests"), [(145, 410, 389), (1155, 211, 311)])
def test_eighty_gigabytes_hold_far_fewer_requests_than_tokens_suggest(
    prompt: int, answer: int, requests: int
) -> None:
    cache = kv_cache(full_size_config("27B"), "auto")
    assert cache.concurrent_requests(80 * GB, prompt + answer) == requests


def test_fp8_gains_nothing_on_a_hybrid_at_short_context_and_much_at_long() -> None:
    wide, narrow = (kv_cache(full_size_config("27B"), kv) for kv in ("auto", "fp8"))
    assert narrow.concurrent_requests(80 * GB, 555) == wide.concurrent_requests(80 * GB, 555)
    assert narrow.concurrent_requests(80 * GB, 262_144) > 1.9 * wide.concurrent_requests(
        80 * GB, 262_144
    )


def test_a_state_kept_in_16_bits_needs_half_the_block() -> None:
    config = full_size_config("27B")
    config["text_config"] = config["text_config"] | {"mamba_ssm_dtype": "bfloat16"}
    assert kv_cache(config, "auto").block_tokens == 400


def test_gemmas_full_layers_take_more_tokens_to_fill_the_same_page() -> None:
    cache = kv_cache(full_size_config("Gemma-12B"), "auto")
    assert {(g.kind, g.layers, g.block_tokens) for g in cache.groups} == {
        (CacheKind.SlidingWindow, 8, 16),
        (CacheKind.Full, 8, 64),
    }
    assert len(cache.groups) == 6
    assert cache.block_tokens == 64
    # Beyond the window only the full layers grow: five groups keep 65 blocks each.
    assert cache.blocks_per_request(32_768) == 5 * 65 + 512


def test_gemma_saved_by_transformers_is_the_same_model() -> None:
    hub = full_size_config("Gemma-12B")
    saved = full_size_config("Gemma-12B")
    text = saved["text_config"] = dict(saved["text_config"])
    del text["global_head_dim"], text["num_global_key_value_heads"]
    text["per_layer_config"] = {"5": {"head_dim": 512, "num_key_value_heads": 1}}
    assert kv_cache(saved, "auto") == kv_cache(hub, "auto")


def test_layers_that_read_anothers_cache_own_none() -> None:
    config = full_size_config("Gemma-12B")
    config["text_config"] = config["text_config"] | {"num_kv_shared_layers": 24}
    cache = kv_cache(config, "auto")
    assert sum(group.layers for group in cache.groups) == 24


def test_layer_kinds_follow_from_the_interval_where_they_are_not_listed() -> None:
    listed, derived = full_size_config("35B-A3B"), full_size_config("35B-A3B")
    derived["text_config"] = dict(derived["text_config"])
    del derived["text_config"]["layer_types"]
    assert kv_cache(derived, "fp8") == kv_cache(listed, "fp8")


def test_a_plain_model_has_one_group_of_small_blocks() -> None:
    cache = kv_cache(PLAIN, "auto")
    [group] = cache.groups
    assert (group.kind, group.layers, group.block_tokens) == (CacheKind.Full, 4, 16)
    assert cache.bytes_per_block == 4 * 16 * 8 * 128 * 2 * 2
    assert cache.blocks_per_request(33) == 3


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"model_type": "mistral", "sliding_window": 64}, CacheKind.SlidingWindow),
        ({"model_type": "mistral", "sliding_window": None}, CacheKind.Full),
        ({"sliding_window": 64, "use_sliding_window": False}, CacheKind.Full),
        ({"sliding_window": 64, "use_sliding_window": True}, CacheKind.SlidingWindow),
        ({"model_type": "mixtral", "head_dim": None}, CacheKind.Full),
    ],
)
def test_a_window_counts_only_where_it_is_switched_on(
    changes: dict[str, Any], kind: CacheKind
) -> None:
    [group] = kv_cache(PLAIN | changes, "auto").groups
    assert group.kind is kind
    # 63 earlier tokens and the current one touch at most five blocks of 16.
    assert group.held_blocks(10_000) == (5 if kind is CacheKind.SlidingWindow else 625)
    assert group.held_blocks(20) == 2


@pytest.mark.parametrize(("ranks", "heads"), [(1, 8), (2, 4), (8, 1), (16, 1)])
def test_kv_heads_are_dealt_out_and_then_copied(ranks: int, heads: int) -> None:
    assert kv_cache(PLAIN, "auto", ranks).page_bytes == 16 * heads * 128 * 2 * 2


def test_a_server_reserves_more_than_a_request_holds() -> None:
    cache = kv_cache(full_size_config("27B"), "auto")
    assert cache.reserved_blocks_per_request(784, 8192) == 7
    assert cache.reserved_blocks_per_request(784, 8192, prefix_caching=False) == 4
    windowed = kv_cache(PLAIN | {"sliding_window": 64}, "auto")
    assert windowed.reserved_blocks_per_request(10_000, 100) == 12  # ceil((63 + 100) / 16) + 1
    assert windowed.reserved_blocks_per_request(30, 100) == 3


def test_no_memory_holds_no_requests() -> None:
    cache = kv_cache(PLAIN, "auto")
    assert cache.concurrent_requests(-1, 100) == 0
    # One block is there, and it is the one that is never handed out.
    assert cache.blocks(cache.bytes_per_block) == 1
    assert cache.concurrent_requests(cache.bytes_per_block, 1) == 0


@pytest.mark.parametrize(
    ("config", "reason", "sentence"),
    [
        (
            {**PLAIN, "model_type": "whisper"},
            Reason.UnknownArchitecture,
            "'whisper' has no KV-cache",
        ),
        ({**PLAIN, "num_key_value_heads": 0}, Reason.MalformedCheckpoint, "`num_key_value_heads`"),
        ({**PLAIN, "num_hidden_layers": "4"}, Reason.MalformedCheckpoint, "`num_hidden_layers`"),
        ({**PLAIN, "num_hidden_layers": 10**6}, Reason.MalformedCheckpoint, "from 1 to 4096"),
        ({**PLAIN, "head_dim": -1}, Reason.MalformedCheckpoint, "`head_dim`"),
        ({**PLAIN, "layer_types": ["full_attention"]}, Reason.MalformedCheckpoint, "list of 4"),
        ({**PLAIN, "layer_types": ["odd"] * 4}, Reason.MalformedCheckpoint, "'odd'"),
        ({"text_config": 3}, Reason.MalformedCheckpoint, "`text_config`"),
    ],
)
def test_a_configuration_without_a_rule_is_refused(
    config: dict[str, Any], reason: Reason, sentence: str
) -> None:
    with pytest.raises(RefusedInput, match=sentence) as refused:
        kv_cache(config, "auto")
    assert refused.value.reason is reason


@pytest.mark.parametrize("shared", ["x", [1], 48, 99, -5, 1.5, True])
def test_a_senseless_number_of_layers_without_a_cache_is_refused(shared: Any) -> None:
    config = full_size_config("Gemma-12B")
    config["text_config"] = config["text_config"] | {"num_kv_shared_layers": shared}
    with pytest.raises(RefusedInput, match="`num_kv_shared_layers`") as no:
        kv_cache(config, "auto")
    assert no.value.message.endswith("an integer from 0 to 47.")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"num_kv_shared_layers": 61}, "at least one attention layer"),
        ({"mamba_ssm_dtype": ["float32"]}, "`mamba_ssm_dtype`"),
        ({"layer_types": ["linear_attention"] * 64}, "at least one attention layer"),
        ({"mamba_ssm_dtype": "int8"}, "`mamba_ssm_dtype` of `config.json` must be one of float32"),
        ({"linear_num_key_heads": None}, "`linear_num_key_heads`"),
    ],
)
def test_a_senseless_hybrid_is_refused(changes: dict[str, Any], sentence: str) -> None:
    config = full_size_config("27B")
    config["text_config"] = config["text_config"] | changes
    with pytest.raises(RefusedInput, match=sentence):
        kv_cache(config, "auto")
