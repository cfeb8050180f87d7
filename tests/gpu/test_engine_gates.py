"""What only a GPU shows of the engine gates: kernels of the table, the V2 runner, speculation.

`make test-gpu` runs it where there is a GPU, with the vLLM of `.venvs/serve-gpu`; anywhere else it
is not run. It has not been run on a GPU yet.
We test these aspects on the pocket model: fixed token ids come from vLLM's public interface and are
at the noise floor; the kernels that serve a quantized checkpoint are those of `kernels.yaml`; the
multi-token-prediction head is alive.
"""

import shutil
from pathlib import Path

import pytest

from halftone.spec.gates import AcceptanceLength, EngineLoads, Metric
from halftone.spec.reports import Outcome
from halftone.validate.gates import acceptance_length, divergence, engine_loads
from halftone.validate.serving.prompts import prompt_set
from halftone.validate.serving.scoring import PUBLIC
from halftone.validate.serving.session import EngineOptions, EngineSession
from tests.commands import quantize_directory
from tests.conftest import ROOT
from tests.environments import python_of
from tests.quantizing import recipe

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.serve_env,
    pytest.mark.skipif(shutil.which("nvidia-smi") is None, reason="NOT RUN: there is no GPU here"),
]

MODEL = ROOT / "examples" / "pocket-model" / "checkpoint"


def session(model: Path, log: Path, options: EngineOptions | None = None) -> EngineSession:
    return EngineSession(model, log=log, options=options, python=python_of("serve-gpu"))


def test_fixed_ids_are_vllms_own_and_the_source_is_at_its_noise_floor(tmp_path: Path) -> None:
    prompts = prompt_set(None, sees=False)
    with session(MODEL, tmp_path / "log") as opened:
        assert not opened.facts.emulated
        score = opened.ask("score", prompts=prompts.rows, topK=64)
        again = opened.ask(
            "follow", prompts=prompts.rows, source=score["prompts"], reversed=True, together=4
        )
    assert again["method"] == PUBLIC
    found = divergence.compare(score, again, again, prompts.kinds, prompts.sha256)
    assert divergence.evidence(found)["mean"] < 1e-3


@pytest.mark.parametrize("name", ["NVFP4A16", "FP8_DYNAMIC"])
def test_the_kernels_are_those_of_the_table(name: str, tmp_path: Path) -> None:
    quantize_directory(MODEL, tmp_path / "made", recipe(Attention=name, Mlp=name))
    rows = prompt_set(None, sees=False).rows[:4]
    with session(tmp_path / "made", tmp_path / "log") as opened:
        generated = opened.ask("generate", prompts=rows, maxTokens=8)["generated"]
        facts, log = opened.facts, opened.log_text()
    gate = EngineLoads(name="loads", metric=Metric.EngineLoads)
    result, _ = engine_loads.judge(gate, facts, generated, log, calibrated=False, formats=[name])
    assert facts.kernels
    assert result.outcome is Outcome.Passed, result.message


def test_the_pocket_models_head_is_alive(tmp_path: Path) -> None:
    options = EngineOptions(arguments=acceptance_length.engine_arguments())
    rows = prompt_set(None, sees=False).rows
    with session(MODEL, tmp_path / "log", options) as opened:
        answer = opened.ask("accept", prompts=rows, maxTokens=64)
        facts = opened.facts
    gate = AcceptanceLength(name="mtp", metric=Metric.AcceptanceLength, minimum="1.05")
    result, _ = acceptance_length.judge(gate, facts, answer)
    assert result.outcome is Outcome.Passed, result.message
