"""The `vllm serve` lines of model cards, given to vLLM's own command line.

We test these aspects: it takes every line that any family's card can have, and reads it as meant;
a head drafts as many tokens as an endpoint's; the parsers for tools and reasoning are vLLM's.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from halftone.publish.card.serving import Mode, serving_modes
from halftone.spec.job import KvCache, KvCacheFormat
from tests.carding import documents_of
from tests.environments import ask

pytestmark = pytest.mark.serve_env

FAMILIES = ("qwen3_5", "qwen3_5_moe", "gemma4_unified", "qwen3", "qwen3_moe", "llama")
EXPECTED = {
    "Text only": {"language_model_only": True},
    "Text": {},
    "Images and text": {"limit_mm_per_prompt": {"image": 4}},
    "FP8 KV cache": {"kv_cache_dtype": "fp8"},
    "Context of 256K tokens": {"max_model_len": 262144, "max_num_seqs": 2},
}
DRAFTED = {"qwen3_5": 3, "qwen3_5_moe": 2}  # by the model's own head
Answers = list[tuple[str, Mode, dict[str, Any]]]


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> Answers:
    """Every mode of every family, and what vLLM makes of its line; asked once."""
    asked = []
    for family in FAMILIES:
        documents = documents_of(tmp_path_factory.mktemp(family), family)
        assert documents.plan.recipe is not None
        cache = {"kvCache": KvCache(format=KvCacheFormat.FP8)}
        recipe = documents.plan.recipe.model_copy(update=cache)
        plan = documents.plan.model_copy(update={"recipe": recipe})
        text = documents.config.get("text_config", {}) | {"max_position_embeddings": 262_144}
        config = documents.config | {"text_config": text}
        asked += [(family, mode) for mode in serving_modes(plan, config, "org/a model")]
    work: Path = tmp_path_factory.mktemp("asked")
    lines = [mode.command for _, mode in asked]
    found = ask("serve", "vllm_serve_lines.py", lines, work=work, timeout_s=200)
    return [(family, mode, answer) for (family, mode), answer in zip(asked, found, strict=True)]


def test_every_line_is_read_as_it_is_meant(answers: Answers) -> None:
    seen = set()
    for family, mode, answer in answers:
        assert answer["model"] == "org/a model", family
        if mode.title in EXPECTED:
            assert answer["options"] == EXPECTED[mode.title], (family, json.dumps(answer))
            seen.add(mode.title)
    assert seen == EXPECTED.keys()


def test_each_family_drafts_as_many_tokens_as_its_endpoint_does(answers: Answers) -> None:
    found = {
        family: answer["options"]["speculative_config"]
        for family, mode, answer in answers
        if mode.title == "Speculative decoding"
    }
    assert found == {
        family: {"method": "mtp", "num_speculative_tokens": tokens}
        for family, tokens in DRAFTED.items()
    }


def test_every_parser_is_one_that_vllm_has(answers: Answers) -> None:
    assert [(family, answer["unknown"]) for family, _, answer in answers if answer["unknown"]] == []
    tools = {
        family: (answer["options"]["tool_call_parser"], answer["options"]["reasoning_parser"])
        for family, mode, answer in answers
        if mode.title == "Tools and reasoning"
    }
    assert tools.keys() == set(FAMILIES) - {"llama"}
    assert all(answer["options"].get("enable_auto_tool_choice", True) for _, _, answer in answers)
