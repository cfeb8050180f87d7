"""Which `vllm serve` lines a checkpoint gets: only those for parts that it has.

We test these aspects: towers, processors, heads, caches and context length each open their mode and
close it when they are gone; a family without known parsers gets no line for tools. Whether vLLM
takes the lines is in `tests/integration/test_card_serving_lines.py`.
"""

from typing import Any

import pytest

from halftone.publish.card.serving import serving_modes
from halftone.spec.documents import Plan
from halftone.spec.job import KvCache, KvCacheFormat, KvCacheScales
from halftone.spec.roles import Role
from tests.carding import Documents, documents_of


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory) -> Documents:
    return documents_of(tmp_path_factory.mktemp("modes"))


def titles(plan: Plan, config: dict[str, Any]) -> list[str]:
    return [mode.title for mode in serving_modes(plan, config, "org/name")]


def changed(plan: Plan, **fields: Any) -> Plan:
    return plan.model_copy(update=fields)


def without(plan: Plan, role: Role) -> Plan:
    return changed(plan, roles=tuple(line for line in plan.roles if line.role is not role))


def test_a_whole_hybrid_model_is_served_in_four_modes(documents: Documents) -> None:
    assert titles(documents.plan, documents.config) == [
        "Text only",
        "Images and text",
        "Tools and reasoning",
        "Speculative decoding",
    ]


def test_without_a_vision_tower_there_is_no_image_and_nothing_to_leave_out(
    documents: Documents,
) -> None:
    modes = serving_modes(without(documents.plan, Role.Vision), documents.config, "org/name")
    assert modes[0].command == "vllm serve org/name"
    assert "Images and text" not in [mode.title for mode in modes]


def test_without_a_processor_no_image_can_be_prepared(documents: Documents) -> None:
    assert documents.plan.output is not None
    output = documents.plan.output.model_copy(update={"carried": ("tokenizer.json",)})
    assert "Images and text" not in titles(changed(documents.plan, output=output), documents.config)


def test_a_dropped_head_predicts_nothing(documents: Documents) -> None:
    plan = without(documents.plan, Role.MultiTokenPrediction)
    assert "Speculative decoding" not in titles(plan, documents.config)


def test_a_head_that_the_configuration_does_not_promise_is_not_offered(
    documents: Documents,
) -> None:
    config = documents.config | {
        "text_config": documents.config["text_config"] | {"mtp_num_hidden_layers": 0}
    }
    assert "Speculative decoding" not in titles(documents.plan, config)


@pytest.mark.parametrize(
    ("scales", "told"), [(KvCacheScales.Unit, "1.0"), (KvCacheScales.Calibrated, "measured")]
)
def test_an_fp8_cache_is_offered_where_the_configuration_asks_for_it(
    documents: Documents, scales: KvCacheScales, told: str
) -> None:
    assert documents.plan.recipe is not None
    cache = KvCache(format=KvCacheFormat.FP8, scales=scales)
    plan = changed(
        documents.plan, recipe=documents.plan.recipe.model_copy(update={"kvCache": cache})
    )
    modes = {mode.title: mode for mode in serving_modes(plan, documents.config, "org/name")}
    assert told in modes["FP8 KV cache"].remark


@pytest.mark.parametrize(
    ("tokens", "offered"), [(262_144, True), (1_010_000, True), (262_143, False), (None, False)]
)
def test_a_long_context_is_offered_where_the_model_has_it(
    documents: Documents, tokens: int | None, offered: bool
) -> None:
    config = documents.config | {
        "text_config": documents.config["text_config"] | {"max_position_embeddings": tokens}
    }
    assert ("Context of 256K tokens" in titles(documents.plan, config)) == offered


def test_a_family_of_many_chat_formats_gets_no_line_for_tools(documents: Documents) -> None:
    plan = changed(documents.plan, architecture="llama")
    assert "Tools and reasoning" not in titles(plan, documents.config)


def test_without_a_configuration_nothing_that_depends_on_it_is_offered(
    documents: Documents,
) -> None:
    assert titles(documents.plan, {}) == ["Text only", "Images and text", "Tools and reasoning"]


def test_a_path_with_spaces_is_quoted(documents: Documents) -> None:
    modes = serving_modes(documents.plan, documents.config, "/a b/$(c)")
    assert all(mode.command.startswith("vllm serve '/a b/$(c)'") for mode in modes)
