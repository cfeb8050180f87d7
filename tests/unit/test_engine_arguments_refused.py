"""What is refused before vLLM starts, each with a sentence that names a field and the way out.

We test these aspects: every requirement of modes, formats and devices; sizes that a model does not
have; arguments that nobody may set, or that vLLM does not know; what is refused by default and can
be allowed.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from halftone.serve.arguments import settable
from halftone.serve.arguments.case import Case
from halftone.serve.arguments.checkpoint_facts import CheckpointFacts, read_facts
from halftone.serve.arguments.device import DeviceFacts, this_device
from halftone.serve.arguments.engine_arguments import arguments_of, engine_arguments
from halftone.serve.served_model import ServedModel
from halftone.spec.errors import EnvironmentFault, RefusedInput
from halftone.spec.formats import CheckpointFormat, Format
from halftone.spec.job import MultiTokenPrediction
from halftone.spec.names import Reason
from halftone.spec.serving import Accelerator
from tests.builders import drop_tensors, full_size_config, write_checkpoint
from tests.commands import plan_directory
from tests.quantizing import mixture, recipe
from tests.served_models import DEVICES, endpoint, opened, planned_model

DRAFT = {"uri": "s3://models/draft"}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> ServedModel:
    return opened(write_checkpoint(tmp_path_factory.mktemp("plain") / "plain", "qwen3_5"))


@pytest.fixture(scope="module")
def facts(plain: ServedModel) -> CheckpointFacts:
    return read_facts(plain, vocabulary=True)


def refusal(
    facts: CheckpointFacts,
    *,
    device: DeviceFacts = DEVICES["B200"],
    draft: CheckpointFacts | None = None,
    **fields: Any,
) -> RefusedInput:
    if draft is not None:
        fields["draft"] = DRAFT
    case = Case(endpoint(accelerator=device.accelerator, **fields), facts, draft, device)
    with pytest.raises(RefusedInput) as caught:
        arguments_of(case, None if draft is None else "/weights/draft")
    assert caught.value.message.endswith((".", "?"))
    return caught.value


def served(facts: CheckpointFacts, device: str = "B200", **fields: Any) -> dict[str, Any]:
    chosen = DEVICES[device]
    return arguments_of(
        Case(endpoint(accelerator=chosen.accelerator, **fields), facts, None, chosen), None
    )


# Modes --------------------------------------------------------------------------------------------


def test_speculation_without_the_head_that_the_job_dropped(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "source", "qwen3_5")
    dropping = recipe({"multiTokenPrediction": MultiTokenPrediction.Drop}, Mlp="NVFP4A16")
    planned = plan_directory(source, dropping)
    found = read_facts(planned_model(source, tmp_path / "out", planned))
    said = refusal(found, modes=["speculative"])
    assert said.reason is Reason.NotSupported
    assert "the job dropped the prediction head" in said.message
    assert "`multiTokenPrediction: Keep`" in said.message


def test_speculation_with_a_head_that_is_promised_and_not_there(tmp_path: Path) -> None:
    directory = write_checkpoint(tmp_path / "broken", "qwen3_5")
    drop_tensors(directory, "mtp.")
    said = refusal(read_facts(opened(directory)), modes=["speculative"])
    assert "promises a prediction head in `config.json` and has no weights" in said.message


def test_speculation_without_head_and_without_draft(facts: CheckpointFacts) -> None:
    without = replace(facts, head=False, head_layers=0)
    assert "no prediction head" in refusal(without, modes=["speculative"]).message
    other = replace(facts, family="llama")
    assert "in `draft`" in refusal(other, modes=["speculative"]).message


def test_a_draft_with_another_vocabulary(facts: CheckpointFacts) -> None:
    assert facts.vocabulary is not None
    draft = replace(facts, name="draft", sections=False, vocabulary="other")
    said = refusal(facts, draft=draft, modes=["speculative"])
    assert "`draft` has other ids for its tokens" in said.message
    assert facts.vocabulary_size is not None
    larger = replace(draft, vocabulary=None, vocabulary_size=facts.vocabulary_size + 1)
    said = refusal(facts, draft=larger, modes=["speculative"])
    assert f"{facts.vocabulary_size + 1} tokens and not {facts.vocabulary_size}" in said.message


def test_a_draft_with_rotary_sections(facts: CheckpointFacts) -> None:
    draft = replace(facts, name="draft", sections=True)
    assert "(M-RoPE)" in refusal(facts, draft=draft, modes=["speculative"]).message


def test_images_for_a_model_that_sees_nothing(facts: CheckpointFacts) -> None:
    blind = refusal(replace(facts, towers=False), modes=["multimodal"])
    assert blind.reason is Reason.ModalityNotSupported
    assert "take 'text'" in blind.message
    for lacking in (replace(facts, tower_weights=False), replace(facts, processor=False)):
        said = refusal(lacking, modes=["multimodal"])
        assert said.reason is Reason.ModalityNotSupported


def test_tools_without_parsers_or_template(facts: CheckpointFacts) -> None:
    said = refusal(replace(facts, family="llama"), modes=["tools"])
    assert "`tool_call_parser`" in said.message
    without = replace(facts, chat_template=False)
    assert "chat_template.jinja" in refusal(without, modes=["tools"]).message
    own = {"chat_template": "/templates/own.jinja"}
    assert served(without, modes=["tools"], engineArguments=own)["tool_call_parser"]


def test_a_long_context_that_the_model_does_not_have(facts: CheckpointFacts) -> None:
    said = refusal(replace(facts, context=40_960), modes=["longContext"])
    assert said.reason is Reason.SequenceTooLong
    assert "40,960" in said.message
    assert "`maxModelLen`" in said.message


# Formats and devices ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fmt", "device", "way"),
    [
        (Format.NVFP4, "H100", "serve NVFP4A16"),
        (Format.NVFP4, "A100", "10.0 or later"),
        (Format.FP8_DYNAMIC, "A100", "8.9 or later"),
        (Format.FP8_BLOCK, "A100", "`weightOnlyFallback: Allow`"),
        (Format.FP8, "A100", "`weightOnlyFallback: Allow`"),
    ],
)
def test_few_bit_activations_without_units_for_them(
    facts: CheckpointFacts, fmt: Format, device: str, way: str
) -> None:
    quantized = replace(facts, formats=frozenset({fmt}))
    said = refusal(quantized, device=DEVICES[device])
    assert (said.reason, said.subject) == (Reason.NotSupported, "weightOnlyFallback")
    assert way in said.message
    assert served(quantized, device, weightOnlyFallback="Allow")["tensor_parallel_size"] == 1
    assert served(quantized, "CPU")["enforce_eager"] is True  # our plugin computes as a B200 would


def test_a_drafts_format_counts_too(facts: CheckpointFacts) -> None:
    draft = replace(facts, name="draft", sections=False, formats=frozenset({Format.NVFP4}))
    said = refusal(facts, device=DEVICES["H100"], draft=draft, modes=["speculative"])
    assert "`draft` has NVFP4 layers" in said.message


@pytest.mark.parametrize("fmt", [Format.NVFP4A16, Format.FP8_BLOCK_A16])
def test_weight_only_formats_are_meant_to_be_served_so(facts: CheckpointFacts, fmt: Format) -> None:
    assert served(replace(facts, formats=frozenset({fmt}), layout=None), "A100")


def test_weight_only_blocks_stop_this_vllm(facts: CheckpointFacts) -> None:
    blocks = replace(
        facts,
        formats=frozenset({Format.FP8_BLOCK_A16}),
        layout=CheckpointFormat.CompressedTensors,
    )
    assert "serve FP8_BLOCK" in refusal(blocks).message
    later = replace(DEVICES["B200"], engine="vllm 0.33.0")
    assert arguments_of(Case(endpoint(), blocks, None, later), None)


def test_an_old_vllm_and_an_old_gpu(facts: CheckpointFacts) -> None:
    said = refusal(facts, device=replace(DEVICES["B200"], engine="vllm 0.31.2"))
    assert said.reason is Reason.EngineNotSupported
    assert "update vLLM" in said.message
    turing = replace(DEVICES["A100"], name="Tesla T4", capability="7.5")
    assert "8.0 or later" in refusal(facts, device=turing).message


def test_a_process_without_vllm_is_told_where_there_is_one() -> None:
    with pytest.raises(EnvironmentFault) as caught:
        this_device(Accelerator.CPU)  # the tests' own environment has none
    assert caught.value.reason is Reason.MissingDependency
    assert "`halftone-endpoint`" in caught.value.message


def test_a_gpu_that_no_table_knows_is_not_judged(facts: CheckpointFacts) -> None:
    later = replace(DEVICES["B200"], capability="13.0")
    quantized = replace(facts, formats=frozenset({Format.NVFP4}))
    assert arguments_of(Case(endpoint(), quantized, None, later), None)


def test_measured_cache_scales_that_are_missing(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "source", "qwen3_5")
    planned = plan_directory(source, mixture(CheckpointFormat.CompressedTensors))
    model = planned_model(source, tmp_path / "out", planned)
    whole = read_facts(model)
    assert (whole.fp8_cache, whole.measured_cache) == (True, True)
    assert served(whole)
    dropped = drop_tensors(tmp_path / "out", "v_scale")
    for spoiled in (opened(model.path, model.plan), opened(model.path)):
        broken = read_facts(spoiled)
        said = refusal(broken)
        assert (said.reason, said.subject) == (Reason.MalformedCheckpoint, dropped[0])
        assert "would take 1.0" in said.message
        wide = {"kv_cache_dtype": "bfloat16"}
        assert served(broken, engineArguments=wide)["kv_cache_dtype"] == "bfloat16"


# Sizes --------------------------------------------------------------------------------------------


def test_a_tensor_parallel_size_that_does_not_divide(facts: CheckpointFacts) -> None:
    wide = replace(
        facts, config=facts.config | {"text_config": full_size_config("27B")["text_config"]}
    )
    said = refusal(replace(wide, matrices=()), tensorParallel=3)
    assert said.subject == "tensorParallel"
    assert "16 linear-attention key heads cannot be dealt out to 3 ranks" in said.message
    assert said.message.endswith("Take one of 1, 2, 4, 8.")


def test_more_pipeline_stages_than_layers(facts: CheckpointFacts) -> None:
    assert facts.layers is not None
    assert served(facts, pipelineParallel=facts.layers)["pipeline_parallel_size"] == facts.layers
    said = refusal(facts, pipelineParallel=facts.layers + 1)
    assert said.subject == "pipelineParallel"


def test_a_context_beyond_the_models_own(facts: CheckpointFacts) -> None:
    assert facts.context is not None
    said = refusal(facts, maxModelLen=facts.context + 1)
    assert (said.reason, said.subject) == (Reason.SequenceTooLong, "maxModelLen")
    stretched = replace(facts, context=None)
    assert served(stretched, maxModelLen=facts.context + 1)


def test_tokens_that_a_head_of_several_layers_cannot_draft(facts: CheckpointFacts) -> None:
    deep = replace(facts, head_layers=2)
    said = refusal(deep, modes=["speculative"], draftTokens=3)
    assert said.subject == "draftTokens"
    assert served(deep, modes=["speculative"], draftTokens=4)


def test_cached_states_and_speculation_do_not_go_together_on_a_cpu(
    facts: CheckpointFacts,
) -> None:
    assert served(facts, "CPU", modes=["speculative"])["enable_prefix_caching"] is False
    said = refusal(
        facts,
        device=DEVICES["CPU"],
        modes=["speculative"],
        engineArguments={"enable_prefix_caching": True},
    )
    assert said.subject == "engineArguments.enable_prefix_caching"


# Arguments of the endpoint itself -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "subject"),
    [
        ({"maxModelLen": 64, "engineArguments": {"max_model_len": 64}}, "maxModelLen"),
        ({"maxNumSeqs": 64, "engineArguments": {"max_num_seqs": 64}}, "maxNumSeqs"),
        (
            {"gpuMemoryPercent": 64, "engineArguments": {"gpu_memory_utilization": 0.6}},
            "gpuMemoryPercent",
        ),
        (
            {
                "modes": ["speculative"],
                "draftTokens": 2,
                "engineArguments": {"speculative_config": {"method": "ngram"}},
            },
            "draftTokens",
        ),
    ],
)
def test_what_is_said_twice(facts: CheckpointFacts, fields: dict[str, Any], subject: str) -> None:
    said = refusal(facts, **fields)
    assert (said.reason, said.subject) == (Reason.InvalidEndpoint, subject)


def test_a_model_that_is_in_truth_a_draft_of_another(facts: CheckpointFacts) -> None:
    naming = {"speculators_config": {"verifier": {"name_or_path": "org/other"}}}
    said = refusal(replace(facts, config=facts.config | naming))
    assert (said.reason, said.subject) == (Reason.NotSupported, "speculators_config")
    assert "`artifact`" in said.message


def test_a_share_of_gpu_memory_on_a_cpu(facts: CheckpointFacts) -> None:
    said = refusal(facts, device=DEVICES["CPU"], gpuMemoryPercent=90)
    assert "`engineArguments.kv_cache_memory_bytes`" in said.message


@pytest.mark.parametrize(
    ("arguments", "subject", "instead"),
    [
        ({"speculative_config": {"model": "org/draft"}}, "speculative_config.model", "`draft`"),
        ({"speculative_config": {"model": "gpt2"}}, "speculative_config.model", "`draft`"),
        ({"speculative_config": {"code-revision": "main"}}, "speculative_config.code_revision", ""),
        (
            {"structured_outputs_config": {"reasoning_parser_plugin": "/tmp/own.py"}},
            "structured_outputs_config.reasoning_parser_plugin",
            "no code",
        ),
        ({"lora_modules": ["own=/adapters/own"]}, "lora_modules", "verified"),
        ({"default_mm_loras": {"image": "org/own"}}, "default_mm_loras", "verified"),
        (
            {"generation_config": "org/other"},
            "generation_config",
            "to anything but 'auto' or 'vllm' in `engineArguments`",
        ),
    ],
)
def test_nothing_that_nobody_verified_comes_in_by_an_argument(
    plain: ServedModel, arguments: dict[str, Any], subject: str, instead: str
) -> None:
    with pytest.raises(RefusedInput) as caught:
        engine_arguments(endpoint(engineArguments=arguments), plain, None, DEVICES["B200"])
    assert caught.value.reason is Reason.InvalidEndpoint
    assert caught.value.subject == f"engineArguments.{subject}"
    assert instead in caught.value.message


def test_every_argument_that_nobody_may_set_is_one_of_vllm() -> None:
    table = yaml.safe_load(Path(settable.__file__).with_name("reserved_arguments.yaml").read_text())
    names = {name.partition(".")[0] for row in table for name in row["names"]}
    assert names <= settable.known_arguments()


def test_a_method_without_a_draft_and_neutral_defaults_may_be_set(plain: ServedModel) -> None:
    given = {"generation_config": "vllm", "speculative_config": {"method": "ngram"}}
    asked = endpoint(engineArguments=given)
    assert given.items() <= engine_arguments(asked, plain, None, DEVICES["B200"]).items()


@pytest.mark.parametrize(
    ("name", "instead"),
    [
        ("model", "`artifact`"),
        ("served_model_name", "`servedModelName`"),
        ("trust_remote_code", "no code"),
        ("api_key", "`VLLM_API_KEY`"),
        ("download_dir", "`cache`"),
        ("load_format", "`cache`"),
        ("tensor_parallel_size", "`tensorParallel`"),
        ("worker_extension_cls", "check at start"),
        ("data_parallel_size", "`replicas`"),
        ("max_modle_len", "`max_model_len`"),
        ("no such thing", "leave it out"),
    ],
)
def test_arguments_that_nobody_may_set(plain: ServedModel, name: str, instead: str) -> None:
    asked = endpoint(engineArguments={name: 1})
    with pytest.raises(RefusedInput) as caught:
        engine_arguments(asked, plain, None, DEVICES["B200"])
    assert caught.value.reason is Reason.InvalidEndpoint
    assert caught.value.subject == f"engineArguments.{name}"
    assert instead in caught.value.message
