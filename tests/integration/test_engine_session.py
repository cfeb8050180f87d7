"""A model in a process of its own: loaded by real vLLM, asked, judged, and dying in every way.

The pocket model, its NVFP4A16 checkpoint and a sabotaged one are each loaded once. We test these
aspects:
- the facts: blocks, cache groups, kernels, platform; greedy answers; what vLLM prints is no answer
- the gates on an honest checkpoint and on one whose merged layer has two global scales, which vLLM
  mentions in its log, and whose divergence is higher
- a process that is killed, asked nonsense, or ended with its parent; a checkpoint that vLLM
  refuses; an environment without vLLM; a limit of time: each one sentence, and no process left
- no secret of the environment reaches the process
"""

import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import pytest

from halftone.spec.errors import CheckFailed, EnvironmentFault, RefusedInput
from halftone.spec.gates import EngineLoads, KlDivergence, Metric, TopOneAgreement
from halftone.spec.names import CREDENTIALS_PREFIX, Reason
from halftone.spec.reports import Outcome
from halftone.stores.credentials import GivenFor
from halftone.validate.gates import divergence, engine_loads
from halftone.validate.gates.token_divergence import Divergence
from halftone.validate.serving.prompts import PromptSet, can_see, prompt_set
from halftone.validate.serving.session import EngineFacts, EngineOptions, EngineSession
from tests.builders.damage import drop_tensors
from tests.builders.sabotage import double_global_scale
from tests.commands import quantize_directory
from tests.conftest import ROOT
from tests.environments import python_of
from tests.quantizing import recipe

pytestmark = pytest.mark.serve_env

MODEL = ROOT / "examples" / "pocket-model" / "checkpoint"
# The processes of tests share a machine with others.
QUIET = {"OMP_NUM_THREADS": "2", "CUDA_VISIBLE_DEVICES": ""}
OPTIONS = EngineOptions(maxSequences=32, environment=QUIET)
QUERY = "model.language_model.layers.3.self_attn.q_proj"


@dataclass(frozen=True)
class Measured:
    """What one model answered; `divergence` is from the source."""

    facts: EngineFacts
    generated: list[dict[str, Any]]
    log: str
    divergence: Divergence


@pytest.fixture(scope="module")
def prompts() -> PromptSet:
    return prompt_set(None, sees=can_see(MODEL))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sessions")


@pytest.fixture(scope="module")
def source(prompts: PromptSet, root: Path) -> dict[str, Any]:
    """The source's answers: facts, generated, score, floor."""
    with session(MODEL, root / "source.log") as opened:
        score = opened.ask("score", prompts=prompts.rows, topK=64)
        floor = opened.ask(
            "follow", prompts=prompts.rows, source=score["prompts"], reversed=True, together=4
        )
        generated = opened.ask("generate", prompts=prompts.rows, maxTokens=8)["generated"]
        return {
            "facts": opened.facts,
            "generated": generated,
            "score": score,
            "floor": floor,
            "log": opened.log_text(),
        }


@pytest.fixture(scope="module")
def honest(source: dict[str, Any], prompts: PromptSet, root: Path) -> Measured:
    quantize_directory(MODEL, root / "honest", recipe(Attention="NVFP4A16", Mlp="NVFP4A16"))
    return measured(root / "honest", root / "honest.log", source, prompts)


@pytest.fixture(scope="module")
def sabotaged(honest: Measured, source: dict[str, Any], prompts: PromptSet, root: Path) -> Measured:
    """One of three matrices that vLLM merges has another global scale."""
    shutil.copytree(root / "honest", root / "sabotaged")
    double_global_scale(root / "sabotaged", [QUERY])
    return measured(root / "sabotaged", root / "sabotaged.log", source, prompts)


def session(model: Path, log: Path, options: EngineOptions = OPTIONS) -> EngineSession:
    return EngineSession(model, log=log, options=options, python=python_of("serve"))


def measured(model: Path, log: Path, source: dict[str, Any], prompts: PromptSet) -> Measured:
    with session(model, log) as opened:
        followed = opened.ask("follow", prompts=prompts.rows, source=source["score"]["prompts"])
        generated = opened.ask("generate", prompts=prompts.rows, maxTokens=8)["generated"]
        facts, text = opened.facts, opened.log_text()
    found = divergence.compare(
        source["score"], followed, source["floor"], prompts.kinds, prompts.sha256
    )
    return Measured(facts, generated, text, found)


def loads(one: Measured) -> Any:
    gate = EngineLoads(name="loads", metric=Metric.EngineLoads)
    return engine_loads.judge(
        gate, one.facts, one.generated, one.log, calibrated=False, formats=["NVFP4A16"]
    )


def test_the_facts_are_those_of_the_loaded_engine(source: dict[str, Any]) -> None:
    facts: EngineFacts = source["facts"]
    assert facts.engine.startswith("vllm 0.32")
    assert facts.emulated
    assert facts.device.startswith("CPU ")
    assert facts.kvBlocks > 100
    assert facts.maxSequences == 32
    assert facts.vocabulary == 1536
    assert facts.sees
    assert facts.loadSeconds > 0
    kinds = [(group["kind"], group["layers"]) for group in facts.cacheGroups]
    assert sorted(kinds) == [("FullAttentionSpec", 1), *[("MambaSpec", 1)] * 3]
    pinned = {group["kind"]: group["blocksPerRequest"] for group in facts.cacheGroups}
    assert pinned == {"FullAttentionSpec": 0, "MambaSpec": 1}
    assert facts.engineArguments["quantization"] == "none"
    assert facts.kernels == ()


def test_what_vllm_prints_lands_in_the_log(source: dict[str, Any]) -> None:
    assert "INFO" in source["log"]
    assert "Loading safetensors checkpoint shards" in source["log"]


def test_every_shipped_prompt_is_answered_pictures_too(
    source: dict[str, Any], prompts: PromptSet
) -> None:
    assert [row["id"] for row in source["generated"]] == [p.id for p in prompts.prompts]
    assert {p.kind for p in prompts.prompts} >= {"image", "code", "arithmetic"}
    assert all(row["finite"] and row["tokens"] for row in source["generated"])


def test_the_source_against_itself_is_the_noise_floor(
    source: dict[str, Any], prompts: PromptSet
) -> None:
    found = divergence.compare(
        source["score"], source["floor"], source["floor"], prompts.kinds, prompts.sha256
    )
    document = divergence.evidence(found)
    assert document["noiseFloor"]["mean"] == pytest.approx(document["mean"])
    assert document["mean"] < 1e-3
    assert document["topOneAgreementPercent"] > 97


def test_the_honest_checkpoint_loads_with_our_kernels(honest: Measured) -> None:
    result, document = loads(honest)
    assert result.outcome is Outcome.Passed, result.message
    assert honest.facts.kernels
    assert honest.facts.engineArguments["quantization"] == "compressed-tensors"
    assert document["kernels"] == list(honest.facts.kernels)
    assert len(document["generated"]) == len(honest.generated)


def test_the_honest_checkpoint_diverges_a_little(honest: Measured) -> None:
    gate = KlDivergence(name="kl", metric=Metric.KlDivergence, maximum="0.05")
    result = divergence.judge(gate, honest.divergence)
    assert result.outcome is Outcome.Passed, result.message
    document = divergence.evidence(honest.divergence)
    assert document["mean"] > 3 * document["noiseFloor"]["mean"]
    assert sum(document["histogram"]["counts"]) == sum(p["tokens"] for p in document["prompts"])


def test_two_global_scales_in_a_merged_layer_are_found_in_the_log(sabotaged: Measured) -> None:
    result, _ = loads(sabotaged)
    assert result.outcome is Outcome.Failed
    assert "different global scales" in result.message


def test_two_global_scales_in_a_merged_layer_diverge(honest: Measured, sabotaged: Measured) -> None:
    worse, better = (d.divergence.clustered("kl")[0] for d in (sabotaged, honest))
    assert worse > 2 * better
    limit = f"{(worse + better) / 2:.6f}"
    gate = KlDivergence(name="kl", metric=Metric.KlDivergence, maximum=limit)
    result = divergence.judge(gate, sabotaged.divergence)
    assert result.outcome is Outcome.Failed
    assert result.culprit in {prompt.id for prompt in sabotaged.divergence.prompts}
    every = TopOneAgreement(name="top", metric=Metric.TopOneAgreement, minPercent=100)
    assert divergence.judge(every, sabotaged.divergence).outcome is Outcome.Failed


def test_a_killed_process_is_one_sentence_and_leaves_nothing(root: Path) -> None:
    """Refusals first, because each needs a loaded model; the kill ends it."""
    question = {"prompts": [{"id": "a", "text": "1+1="}], "maxTokens": 1}
    with session(MODEL, root / "killed.log") as opened:
        with pytest.raises(CheckFailed, match="failed to answer `nonsense`"):
            opened.ask("nonsense")
        with pytest.raises(RefusedInput, match=r"`long` has \d+ tokens; it must have 2 to 2047"):
            opened.ask("generate", prompts=[{"id": "long", "text": "x = 1\n" * 900}], maxTokens=1)
        assert len(opened.ask("generate", **question)["generated"]) == 1
        process = opened.pid
        os.kill(process, signal.SIGKILL)
        with pytest.raises(EnvironmentFault) as fault:
            opened.ask("generate", **question)
    assert fault.value.reason is Reason.EngineFailed
    assert "SIGKILL" in fault.value.message
    assert "killed.log" in fault.value.message
    assert not Path(f"/proc/{process}").exists()


def test_a_checkpoint_without_a_tensor_is_refused_with_its_name(root: Path) -> None:
    """A norm: vLLM 0.32 does not miss a matrix, which it leaves uninitialized; `structure` does."""
    directory = root / "incomplete"
    shutil.copytree(MODEL, directory)
    drop_tensors(directory, "layers.1.input_layernorm")
    log = root / "incomplete.log"
    with pytest.raises(CheckFailed) as failed, session(directory, log):
        pass
    assert failed.value.reason is Reason.EngineFailed
    assert "layers.1.input_layernorm" in failed.value.message
    assert "Traceback" in log.read_text()
    gate = EngineLoads(name="loads", metric=Metric.EngineLoads)
    result, _ = engine_loads.failed_to_load(gate, failed.value)
    assert result.outcome is Outcome.Failed
    assert result.culprit is not None
    assert result.culprit.endswith("layers.1.input_layernorm.weight")


def test_an_environment_without_vllm_is_named(tmp_path: Path) -> None:
    opened = EngineSession(MODEL, log=tmp_path / "log", python=Path(sys.executable))
    with pytest.raises(EnvironmentFault) as fault, opened:
        pass
    assert fault.value.reason is Reason.MissingDependency
    assert "make .venvs/serve/ready" in fault.value.message


def test_a_model_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    options = EngineOptions(loadTimeoutSeconds=0.2, environment=QUIET)
    with pytest.raises(EnvironmentFault, match=r"did not answer within 0\.2 seconds") as fault:
        session(MODEL, tmp_path / "log", options).__enter__()
    assert fault.value.reason is Reason.EngineFailed
    assert children_of(os.getpid(), "validate.serving.worker") == []


def test_the_process_ends_with_its_parent(tmp_path: Path) -> None:
    program = (
        "from pathlib import Path; from halftone.validate.serving.session import EngineSession\n"
        f"EngineSession(Path({str(MODEL)!r}), log=Path({str(tmp_path / 'log')!r}), "
        f"python=Path({str(python_of('serve'))!r})).__enter__()"
    )
    parent = subprocess.Popen([sys.executable, "-c", program], env={**os.environ, **QUIET})
    try:
        children = awaited(lambda: children_of(parent.pid, "validate.serving.worker"))
    finally:
        parent.kill()
        parent.wait()
    assert awaited(lambda: [True] if not Path(f"/proc/{children[0]}").exists() else [])


def given_environment(folder: Path) -> str:
    """What the process would have in its environment: `env` stands for its interpreter."""
    shown, program = folder / "shown", folder / "python"
    program.write_text(f"#!/bin/sh\nenv > {shown}\nexit 7\n")
    program.chmod(0o755)
    opened = EngineSession(MODEL, log=folder / "log", python=program)
    with pytest.raises(EnvironmentFault, match="exit status 7"), opened:
        pass
    return shown.read_text()


def test_no_credential_reaches_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither those that the libraries look for themselves nor those that a pod was given."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "planted-secret")
    monkeypatch.setenv("HALFTONE_SIGNING_KEY_FILE", "planted-key")
    monkeypatch.setenv("HF_TOKEN", "planted-token")
    for use in GivenFor:
        monkeypatch.setenv(CREDENTIALS_PREFIX + use, "planted-credential")
    monkeypatch.setenv("UNRELATED", "unrelated")
    shown = given_environment(tmp_path)
    assert "UNRELATED=unrelated" in shown
    assert "HF_HUB_OFFLINE=1" in shown
    assert "planted" not in shown


def test_nobody_can_silence_what_the_gates_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """vLLM warns of a wrong scale in its log, and nowhere else."""
    monkeypatch.setenv("VLLM_LOGGING_LEVEL", "ERROR")
    monkeypatch.setenv("VLLM_CONFIGURE_LOGGING", "0")
    monkeypatch.setenv("VLLM_LOGGING_CONFIG_PATH", "planted.json")
    monkeypatch.setenv("VLLM_LOGGING_STREAM", "ext://planted")
    shown = given_environment(tmp_path)
    assert "VLLM_LOGGING_LEVEL=INFO\n" in shown
    assert "VLLM_CONFIGURE_LOGGING=1\n" in shown
    assert "planted" not in shown


def children_of(parent: int, command: str) -> list[int]:
    """Children of a process whose command line holds `command`."""
    found = []
    for pid in Path(f"/proc/{parent}/task/{parent}/children").read_text().split():
        try:
            line = Path(f"/proc/{pid}/cmdline").read_bytes().decode()
        except OSError:
            continue
        found += [int(pid)] if command in line else []
    return found


def awaited(condition: Any) -> list[Any]:
    """What `condition` gives once it is not empty; fails after some minutes."""
    deadline = monotonic() + 240
    while not (found := condition()):
        assert monotonic() < deadline
        sleep(0.05)
    return list(found)
