"""`EngineLoads` and `AcceptanceLength`: what the log, the kernels and the counters mean.

The lines of the log are vLLM 0.32's own, copied from where it writes them; real ones are read in
`tests/integration/test_engine_session.py`.
"""

from dataclasses import replace
from typing import Any

import pytest

from halftone.spec.errors import CheckFailed
from halftone.spec.gates import METRIC_ORDER, AcceptanceLength, EngineLoads, Metric
from halftone.spec.names import Reason
from halftone.spec.reports import GateResult, Outcome
from halftone.validate.gates import acceptance_length, engine_loads
from halftone.validate.serving.log_text import last_lines
from halftone.validate.serving.session import EngineFacts

CPU = EngineFacts(
    loadSeconds=3.5,
    kvBlocks=4096,
    cacheGroups=({"kind": "MambaSpec", "layers": 3, "blockTokens": 2048, "blocksPerRequest": 1},),
    device="CPU of a test",
    driver=None,
    capability=None,
    emulated=True,
    engine="vllm 0.32.0+cpu",
    kernels=("HalftoneNvFp4",),
    maxModelLen=2048,
    maxSequences=64,
    tokenBudget=2048,
    vocabulary=1536,
    sees=True,
    engineArguments={"dtype": "bfloat16"},
)
B200 = replace(
    CPU,
    device="NVIDIA B200",
    driver="580.65.06",
    capability="10.0",
    emulated=False,
    engine="vllm 0.32.0",
    kernels=("FlashInferCutlassNvFp4LinearKernel",),
)
PREFIX = "(EngineCore pid=7) WARNING 11-21 14:36:01 [compressed_tensors_w4a4_nvfp4.py:102] "
WEIGHTS = (
    f"{PREFIX}In NVFP4 linear, the weight global scale is different for parallel layers (e.g. "
    "q_proj, k_proj, v_proj). This  will likely result in reduced accuracy."
)
INPUTS = WEIGHTS.replace("weight global", "input global")
EXPERTS = (
    f"{PREFIX}w1_weight_global_scale must match w3_weight_global_scale. Accuracy may be affected."
)
QUARK = f"{PREFIX}In NVFP4 linear, the global scale for weight are different for parallel layers"
SHARED = (
    f"{PREFIX}In NVFP4 linear, the activation global scale for inputs are different for MOE w13 "
    "(gate_up_proj) layer or MOE w2 (down_proj). Using a13_scale = a13_scale.max()"
)
MODELOPT = [
    f"{PREFIX}In {what} scale differs across parallel layers (e.g. q_proj, k_proj, v_proj)."
    for what in ("NVFP4 linear, the global weight", "NVFP4 linear, the global input")
] + [f"{PREFIX}In FP8 linear, the static input scale differs across parallel layers"]
CACHE = f"{PREFIX}Using KV cache scaling factor 1.0 for fp8_e4m3. If this is unintended, verify"
LOST = (
    f"{PREFIX}Found k_scale in the checkpoint (e.g. model.layers.3.self_attn.k_scale), but not "
    "found the expected name in the model (e.g. x). k_scale is not loaded."
)
SCALED = ({"layer": "model.layers.3.self_attn.attn", "key": 0.02, "value": 1.0},)
UNSCALED = (*SCALED, {"layer": "model.layers.7.self_attn.attn", "key": 1.0, "value": 1.0})
ANSWERS = [{"id": "a", "text": "x", "tokens": [5], "finite": True}]


def loads(
    facts: EngineFacts = CPU,
    generated: list[dict[str, Any]] | None = None,
    log: str = "INFO all is well\n",
    calibrated: bool = False,
    formats: tuple[str, ...] = ("NVFP4",),
) -> tuple[GateResult, dict[str, Any]]:
    gate = EngineLoads(name="loads", metric=Metric.EngineLoads)
    answers = ANSWERS if generated is None else generated
    return engine_loads.judge(gate, facts, answers, log, calibrated=calibrated, formats=formats)


def test_a_quiet_log_and_finite_answers_pass() -> None:
    result, document = loads()
    assert result.outcome is Outcome.Passed
    assert "on a CPU with our kernels" in result.message
    assert document["kvBlocks"] == 4096
    assert document["platform"]["engine"] == "vllm 0.32.0+cpu"
    assert document["warnings"] == []


@pytest.mark.parametrize("line", [WEIGHTS, INPUTS, EXPERTS, QUARK, *MODELOPT])
def test_different_global_scales_in_the_log_fail(line: str) -> None:
    result, document = loads(log=f"INFO x\n{line}\nINFO y\n")
    assert result.outcome is Outcome.Failed
    assert "different global scales" in result.message
    assert "EngineCore" not in result.message
    assert len(document["warnings"]) == 1


def test_a_layer_that_the_log_names_is_the_culprit() -> None:
    result, _ = loads(log=f"{WEIGHTS} model.layers.3.self_attn.qkv_proj\n")
    assert result.culprit == "model.layers.3.self_attn.qkv_proj"
    assert loads(log=WEIGHTS)[0].culprit is None


def test_experts_with_input_scales_of_their_own_are_a_warning() -> None:
    result, document = loads(log=SHARED)
    assert result.outcome is Outcome.Passed
    assert "activation global scale" in document["warnings"][0]


@pytest.mark.parametrize(
    ("log", "scales", "said"),
    [
        ("", SCALED, ""),
        (CACHE, SCALED, "uses 1.0 for at least one layer"),
        (LOST, SCALED, "k_scale is not loaded"),
        ("", UNSCALED, "first `model.layers.7.self_attn.attn`"),
        ("", (), "keeps no cache in FP8"),
    ],
)
def test_unit_scales_fail_a_calibrated_cache_only(
    log: str, scales: tuple[dict[str, Any], ...], said: str
) -> None:
    facts = replace(CPU, cacheScales=scales)
    calibrated, document = loads(facts, log=log, calibrated=True)
    assert calibrated.outcome is (Outcome.Failed if said else Outcome.Passed)
    assert said in calibrated.message
    assert document["cacheScales"] == [*scales]
    assert loads(facts, log=log)[0].outcome is Outcome.Passed


def test_answers_that_are_no_numbers_fail_and_name_the_prompt() -> None:
    broken = [*ANSWERS, {"id": "b", "text": "!", "tokens": [0], "finite": False}]
    result, _ = loads(generated=broken)
    assert (result.outcome, result.culprit) == (Outcome.Failed, "b")


def test_silence_fails() -> None:
    result, _ = loads(generated=[{"id": "b", "text": "", "tokens": [], "finite": True}])
    assert (result.outcome, result.culprit) == (Outcome.Failed, "b")
    assert loads(generated=[])[0].outcome is Outcome.Failed


@pytest.mark.parametrize(
    ("facts", "formats", "culprit", "said"),
    [
        (B200, ("NVFP4",), None, "loaded"),
        (B200, ("NVFP4", "FP8_DYNAMIC"), None, "No layer is served by a kernel for FP8_DYNAMIC"),
        (replace(B200, kernels=("MarlinNvFp4LinearKernel",)), ("NVFP4",), None, "for NVFP4"),
        (
            replace(B200, kernels=(*B200.kernels, "EmulationNvFp4LinearKernel")),
            ("NVFP4",),
            "EmulationNvFp4LinearKernel",
            "not a kernel for NVFP4",
        ),
        (replace(B200, capability="9.0"), ("NVFP4",), None, "No layer is served"),
        (
            replace(B200, capability="9.0", kernels=("MarlinNvFp4LinearKernel",)),
            ("NVFP4",),
            None,
            "loaded",
        ),
        (replace(B200, kernels=("CutlassFP8ScaledMMLinearKernel",)), ("FP8",), None, "loaded"),
        (replace(B200, capability="8.0", kernels=("Anything",)), ("NVFP4",), None, "loaded"),
        (replace(B200, engine="vllm 0.31.2"), ("NVFP4",), None, "older than 0.32.0"),
        (replace(CPU, kernels=("Anything",)), ("NVFP4",), None, "loaded"),
        (replace(B200, kernels=()), (), None, "loaded"),
    ],
)
def test_kernels_are_those_of_the_table(
    facts: EngineFacts, formats: tuple[str, ...], culprit: str | None, said: str
) -> None:
    result, _ = loads(facts, formats=formats)
    assert (result.outcome is Outcome.Passed) is (said == "loaded")
    assert said in result.message
    assert result.culprit == culprit


def test_a_refused_checkpoint_is_a_failed_gate() -> None:
    gate = EngineLoads(name="loads", metric=Metric.EngineLoads)
    said = "vLLM does not load `x`: not initialized: {'model.layers.1.mlp.down_proj.weight'}"
    result, document = engine_loads.failed_to_load(
        gate, CheckFailed(Reason.EngineFailed, "x", said)
    )
    assert (result.outcome, result.culprit) == (
        Outcome.Failed,
        "model.layers.1.mlp.down_proj.weight",
    )
    assert document["error"] == said


@pytest.mark.parametrize(
    ("drafts", "accepted", "outcome", "score", "said"),
    [
        (1000, 494, Outcome.Passed, "1.4940", "at least 1.4"),
        (1000, 399, Outcome.Failed, "1.3990", "below 1.4"),
        (1000, 0, Outcome.Failed, "1.0000", "the head is dead"),
        (0, 0, Outcome.Failed, None, "no draft at all"),
        (99, 99, Outcome.Inconclusive, "2.0000", "too few"),
    ],
)
def test_acceptance_is_accepted_drafts_a_step(
    drafts: int, accepted: int, outcome: Outcome, score: str | None, said: str
) -> None:
    gate = AcceptanceLength(name="mtp", metric=Metric.AcceptanceLength, minimum="1.4")
    answer = {"drafts": drafts, "accepted": accepted, "tokens": drafts}
    result, document = acceptance_length.judge(gate, B200, answer)
    assert document["device"] == B200.device
    assert (result.outcome, result.score) == (outcome, score)
    assert said in result.message
    assert (result.culprit is not None) is (outcome is Outcome.Failed)


def test_acceptance_comes_last_because_it_ends_the_session_of_the_others() -> None:
    assert METRIC_ORDER[-1] is Metric.AcceptanceLength


def test_a_log_ends_with_what_was_said_and_not_with_progress() -> None:
    log = (
        "(EngineCore pid=9) INFO 11-21 14:36:01 [core.py:1] starting\n"
        "Processed prompts: 100%|████| 1/1 [00:00<00:00, 101.81it/s]\n"
        "Traceback (most recent call last):\n"
        "    raise ValueError(x)\n"
        "          ^^^^^^^^^^^^^\n"
        "\x1b[31mValueError: weights are missing\x1b[0m\n\n"
    )
    assert last_lines(log, 2) == "raise ValueError(x) | ValueError: weights are missing"
    assert last_lines(log).startswith("INFO [core.py:1] starting | Traceback")
    assert last_lines("") == "(nothing)"
    assert len(last_lines("word " * 10_000)) <= 900
