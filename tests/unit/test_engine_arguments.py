"""What the reference models are served with, from their full-size headers.

We test these aspects: every mode on every device is as in the golden tables; each way in which the
five reference models are served can be asked for; what the endpoint states itself wins.
"""

from typing import Any

import pytest

from halftone.serve.arguments.case import Case
from halftone.serve.arguments.checkpoint_facts import CheckpointFacts, read_facts
from halftone.serve.arguments.engine_arguments import arguments_of, engine_arguments
from halftone.serve.served_model import ServedModel
from halftone.spec.serving import ServingMode
from tests.served_models import DEVICES, REFERENCES, endpoint, served_model
from tests.serving_goldens import DRAFT_PLACE, drafts_of, golden, table_of

S0_ROOM = {"max_model_len": 262_144, "kv_cache_dtype": "fp8", "max_num_seqs": 2}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ServedModel]:
    folder = tmp_path_factory.mktemp("references")
    return {name: served_model(folder, name) for name in REFERENCES}


@pytest.fixture(scope="module")
def references(models: dict[str, ServedModel]) -> dict[str, CheckpointFacts]:
    return {name: read_facts(model) for name, model in models.items()}


@pytest.fixture(scope="module")
def drafts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, CheckpointFacts]:
    return drafts_of(tmp_path_factory.mktemp("drafts"))


def served(
    model: CheckpointFacts, device: str, draft: CheckpointFacts | None = None, **fields: Any
) -> dict[str, Any]:
    if draft is not None:
        fields["draft"] = {"uri": "s3://models/draft"}
    chosen = DEVICES[device]
    case = Case(endpoint(accelerator=chosen.accelerator, **fields), model, draft, chosen)
    return arguments_of(case, None if draft is None else DRAFT_PLACE)


@pytest.mark.parametrize("name", REFERENCES)
def test_every_mode_on_every_device_is_as_in_the_golden_table(
    references: dict[str, CheckpointFacts], drafts: dict[str, CheckpointFacts], name: str
) -> None:
    assert table_of(references[name], drafts) == golden(name), (
        "if this is meant, write the table anew with `python -m tests.serving_goldens`"
    )


def test_s0_is_served_as_its_row_says(references: dict[str, CheckpointFacts]) -> None:
    """Text only, multimodal, tools, three tokens of its own head, 256K tokens for two sequences."""
    alone = served(references["S0"], "B200", modes=["text", "tools", "speculative", "longContext"])
    assert alone["language_model_only"] is True
    seeing = served(
        references["S0"], "B200", modes=["multimodal", "tools", "speculative", "longContext"]
    )
    assert seeing["limit_mm_per_prompt"] == {"image": 4}
    assert "language_model_only" not in seeing
    for arguments in (alone, seeing):
        assert S0_ROOM.items() <= arguments.items()
        assert arguments["tool_call_parser"] == "qwen3_coder"
        assert arguments["speculative_config"] == {"method": "mtp", "num_speculative_tokens": 3}


def test_s1_is_served_as_its_row_says(references: dict[str, CheckpointFacts]) -> None:
    """16K tokens of context."""
    arguments = served(references["S1"], "H100", maxModelLen=16_384)
    assert arguments["max_model_len"] == 16_384
    assert "kv_cache_dtype" not in arguments


def test_s2_is_served_as_its_row_says(
    references: dict[str, CheckpointFacts], drafts: dict[str, CheckpointFacts]
) -> None:
    """Its own FP8 cache, parsers for reasoning and tools, and a draft model."""
    assert references["S2"].fp8_cache
    for draft, method in (("assistant", "mtp"), ("small", "draft_model")):
        arguments = served(
            references["S2"], "B200", drafts[draft], modes=["text", "tools", "speculative"]
        )
        assert (arguments["tool_call_parser"], arguments["reasoning_parser"]) == (
            "gemma4",
            "gemma4",
        )
        assert arguments["speculative_config"] == {
            "method": method,
            "model": DRAFT_PLACE,
            "num_speculative_tokens": 3,
        }


def test_s3_is_served_as_its_row_says(references: dict[str, CheckpointFacts]) -> None:
    """Over two GPUs."""
    arguments = served(references["S3"], "B200", tensorParallel=2)
    assert arguments["tensor_parallel_size"] == 2


def test_s4_is_served_as_its_row_says(references: dict[str, CheckpointFacts]) -> None:
    """Text only, multimodal, tools, and two tokens of its own head."""
    for modes in (["text", "tools", "speculative"], ["multimodal", "tools", "speculative"]):
        arguments = served(references["S4"], "H100", modes=modes)
        assert arguments["speculative_config"]["num_speculative_tokens"] == 2
        assert arguments["enable_auto_tool_choice"] is True


def test_tools_without_a_word_of_images_leave_the_towers_out(
    references: dict[str, CheckpointFacts],
) -> None:
    assert served(references["S0"], "B200", modes=["tools"])["language_model_only"] is True


def test_fields_win_over_modes_and_arguments_over_all(
    references: dict[str, CheckpointFacts],
) -> None:
    modes = ["text", "longContext", "speculative"]
    arguments = served(
        references["S0"], "B200", modes=modes, maxNumSeqs=8, draftTokens=1, gpuMemoryPercent=80
    )
    assert arguments["max_num_seqs"] == 8
    assert arguments["speculative_config"]["num_speculative_tokens"] == 1
    assert arguments["gpu_memory_utilization"] == 0.8
    won = served(
        references["S0"],
        "GB10",
        modes=modes,
        engineArguments={"max_num_seqs": 16, "kv_cache_dtype": "auto", "block_size": 32},
    )
    assert (won["max_num_seqs"], won["kv_cache_dtype"], won["block_size"]) == (16, "auto", 32)
    assert won["gpu_memory_utilization"] == 0.85  # the memory is the CPU's too


def test_a_draft_is_split_as_its_model_is(
    references: dict[str, CheckpointFacts], drafts: dict[str, CheckpointFacts]
) -> None:
    arguments = served(
        references["S2"], "B200", drafts["small"], modes=["speculative"], tensorParallel=2
    )
    assert arguments["speculative_config"]["draft_tensor_parallel_size"] == 2


def test_a_cpu_gets_a_cache_that_holds_what_was_asked(
    references: dict[str, CheckpointFacts],
) -> None:
    small = served(references["S0"], "CPU", maxModelLen=1024)
    large = served(references["S0"], "CPU", modes=["longContext"])
    assert small["kv_cache_memory_bytes"] < large["kv_cache_memory_bytes"]
    tokens, layers = 262_144, 16
    assert large["kv_cache_memory_bytes"] > 2 * tokens * layers * 4 * 256 * 2  # two requests, FP8
    chosen = served(references["S0"], "CPU", engineArguments={"kv_cache_memory_bytes": 1 << 30})
    assert chosen["kv_cache_memory_bytes"] == 1 << 30


def test_the_arguments_of_an_artifact_are_read_from_its_directory(
    models: dict[str, ServedModel],
) -> None:
    found = engine_arguments(endpoint(modes=["tools"]), models["S3"], None, DEVICES["B200"])
    rows = golden("S3")["B200"]
    assert found == rows[ServingMode.Tools.value]
