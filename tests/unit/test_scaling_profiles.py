"""Profiles of replicas, and capacity cards in their place.

We test these aspects: blocks and groups are what `halftone.plan.cache` says of those models; each
profile can meet the inter-token target and serves some conversations a second; a card is read as
`Capacity.from_card` does; names and files that are neither are refused in a sentence.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from halftone.plan.cache import CacheKind, kv_cache
from halftone.scaling.profiles import load_profile, profile_names, profiles
from halftone.spec.capacity import CapacityCard
from halftone.spec.errors import RefusedInput
from halftone.spec.names import Reason
from tests.builders import full_size_config

PROMPT, OUTPUT = 1155, 211  # a conversation, on average
ITL_S = 0.1
MODELS = {"dense-27b": "27B", "dense-27b-small-cache": "27B", "moe-35b-a3b": "35B-A3B"}


def fitted(value: str) -> dict[str, str]:
    return {"value": value, "standardError": "0"}


def card(**changes: Any) -> dict[str, Any]:
    """A capacity card as JSON has it; changed."""
    fields = {
        "digest": "0" * 64,
        "checkpointDigest": "1" * 64,
        "device": "GPU",
        "driver": "1",
        "engine": "vllm 0.32.0",
        "emulated": False,
        "tensorParallel": 1,
        "engineArguments": {"tensorParallel": "1"},
        "prefillTokensPerSecond": fitted("9000.5"),
        "stepBaseSeconds": fitted("0.01"),
        "secondsPerKvToken": fitted("0.0000001"),
        "secondsPerSequence": fitted("0.0001"),
        "kvBlocks": 101,
        "cacheGroups": [
            {
                "kind": "FullAttentionSpec",
                "layers": 8,
                "blockTokens": 784,
                "blocksPerRequest": 0,
            },
            {"kind": "MambaSpec", "layers": 24, "blockTokens": 784, "blocksPerRequest": 2},
        ],
        "kvCacheTokens": None,
        "tokenBudget": 2048,
        "maxSequences": 64,
        "warmUpSeconds": "12",
        "samples": 100,
        **changes,
    }
    return CapacityCard.model_validate(fields).model_dump(mode="json")


def written(folder: Path, content: Any) -> str:
    path = folder / "card.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return str(path)


def refused(name_or_path: str) -> RefusedInput:
    with pytest.raises(RefusedInput) as raised:
        load_profile(name_or_path)
    assert raised.value.reason is Reason.UnknownProfile
    assert raised.value.subject == name_or_path
    return raised.value


@pytest.mark.parametrize("name", profile_names())
def test_blocks_and_groups_are_those_of_the_model(name: str) -> None:
    profile = profiles()[name]
    cache = kv_cache(full_size_config(MODELS[name]), "auto")
    states = [group for group in cache.groups if group.kind is CacheKind.State]
    assert profile.blockTokens == cache.block_tokens
    assert profile.blockBytes == cache.bytes_per_block
    assert profile.stateBlocks == len(states)
    for tokens in (1, 784, 1057, 20_000):
        assert profile.capacity().blocks(tokens) == cache.blocks_per_request(tokens)


@pytest.mark.parametrize("name", profile_names())
def test_the_longest_step_with_conversations_meets_the_inter_token_target(name: str) -> None:
    capacity = load_profile(name)
    sequences = capacity.sequences(PROMPT, OUTPUT)
    longest = capacity.longest_step_s(sequences * (PROMPT + OUTPUT), sequences)
    assert longest <= ITL_S


@pytest.mark.parametrize(
    ("name", "least", "most"),
    [("dense-27b", 3, 7), ("dense-27b-small-cache", 2, 7), ("moe-35b-a3b", 10, 25)],
)
def test_a_replica_serves_some_conversations_a_second(name: str, least: float, most: float) -> None:
    assert least < 1 / load_profile(name).work_s(PROMPT, OUTPUT) < most


def test_long_contexts_fill_the_small_cache_before_they_fill_the_device() -> None:
    small, large = load_profile("dense-27b-small-cache"), load_profile("dense-27b")
    assert small.sequences(16_000, 500) < 8 < large.sequences(16_000, 500)


def test_a_capacity_card_is_read_from_its_file(tmp_path: Path) -> None:
    capacity = load_profile(written(tmp_path, card()))
    assert capacity.prefill_tokens_per_second == 9000.5
    assert capacity.kv_blocks == 100
    assert capacity.blocks(785) == 2 + 2
    assert (capacity.token_budget, capacity.max_sequences) == (2048, 64)


def test_an_unknown_name_is_refused_with_those_that_exist() -> None:
    message = refused("dense-270b").message
    assert "'dense-270b'" in message
    assert all(name in message for name in profile_names())


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("nothing of JSON", "is not a capacity card"),
        ([], "is not a capacity card"),
        ({"kind": "Plan"}, "is not a capacity card"),
        ({**card(), "kvBlocks": "many"}, "kvBlocks"),
        (card(kvBlocks=1), "`kvBlocks` as 0"),
        (card(cacheGroups=()), "`cacheGroups` as 0"),
        (card(stepBaseSeconds=fitted("quick")), "states a value that is no number"),
        (card(stepBaseSeconds=fitted("nan")), "`stepBaseSeconds` as nan"),
        (card(secondsPerKvToken=fitted("-1")), "`secondsPerKvToken` as -1"),
        (" " * 1_000_001, "has more than"),
    ],
)
def test_a_file_that_is_no_card_of_a_replica_is_refused(
    content: Any, said: str, tmp_path: Path
) -> None:
    assert said in refused(written(tmp_path, content)).message


def test_a_folder_is_refused_as_a_name_is(tmp_path: Path) -> None:
    assert "no file" in refused(str(tmp_path)).message
