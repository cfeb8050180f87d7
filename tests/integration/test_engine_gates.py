"""The pocket model through real engine gates: the honest checkpoint, and plain rounding to 2 bits.

A whole job is run from the command line, which starts the stage in the environment with vLLM. The
source is loaded once, and what it answered is kept for the later runs. We test these aspects:
- the honest checkpoint passes with its real numbers, is published as `Emulated` and verifies; its
  page draws all evidence
- plain rounding to 2 bits fails `KlDivergence` and, by itself, `Task`; each names its culprit
- in a work directory the gates that read files stop it before a model is loaded
"""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from halftone.spec.documents import CheckpointDocument, Plan
from halftone.spec.names import CACHE_DIRECTORY, SERVE_PYTHON
from halftone.spec.reports import GateResult, Platform, Report, Verdict
from tests.builders import sabotage
from tests.commands import halftone, quantize_directory
from tests.conftest import ROOT, is_foreign
from tests.environments import ask, python_of
from tests.jobs import write_job

pytestmark = [pytest.mark.serve_env, pytest.mark.timeout(300)]

EXAMPLE = ROOT / "examples" / "pocket-model"
MODEL = EXAMPLE / "checkpoint"
LOADS = {"name": "loads", "metric": "EngineLoads"}
DIVERGENCE = {"name": "divergence", "metric": "KlDivergence", "maximum": "0.02"}
# 120 items decide 90 % even where another processor answers some of them differently.
ARITHMETIC = {
    "name": "arithmetic",
    "metric": "Task",
    "task": str(EXAMPLE / "arithmetic.yaml"),
    "sampleLimit": 120,
    "minRecoveryPercent": 90,
}
# Matrices that are rounded: all that a layer multiplies with.
ROUNDED = (".mlp.", ".self_attn.", ".linear_attn.in_proj", ".linear_attn.out_proj")


@dataclass(frozen=True)
class Ended:
    """How a command ended in a process of its own."""

    code: int
    out: str
    err: str


@dataclass(frozen=True)
class Honest:
    """The honest job, done: its files and what the run said."""

    folder: Path
    ended: Ended
    cache: Path

    @property
    def workdir(self) -> Path:
        return self.folder / "work"

    @property
    def report(self) -> Report:
        return Report.load(self.workdir / "report.json")

    def gate(self, name: str) -> GateResult:
        [found] = [gate for gate in self.report.gates if gate.name == name]
        return found


@dataclass(frozen=True)
class Judged:
    """What one list of gates says of the checkpoint that was rounded to 2 bits."""

    results: list[dict[str, Any]]
    evidence: dict[str, dict[str, Any]]
    platform: Platform


def command(cache: Path, *arguments: str | Path) -> Ended:
    """Run `halftone` as a user does, with nothing of this machine's settings."""
    environment = {name: value for name, value in os.environ.items() if not is_foreign(name)} | {
        CACHE_DIRECTORY: str(cache),
        SERVE_PYTHON: str(python_of("serve")),
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": "2",
        "OMP_WAIT_POLICY": "PASSIVE",
    }
    done = subprocess.run(
        [sys.executable, "-m", "halftone", *map(str, arguments)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    return Ended(done.returncode, done.stdout, done.stderr)


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Honest:
    folder, cache = tmp_path_factory.mktemp("honest"), tmp_path_factory.mktemp("cache")
    job = write_job(
        folder,
        source={"directory": {"path": str(MODEL)}},
        validation={"gates": [LOADS, DIVERGENCE, ARITHMETIC]},
    )
    # In this process, so that kernels which other tests have compiled are not compiled again.
    for stage in (("plan", "--job", job), ("quantize",)):
        done = halftone("stage", *stage, "--workdir", folder / "work")
        assert done.code == 0, done.err
    return Honest(folder, command(cache, "run", job, "--workdir", folder / "work"), cache)


@pytest.fixture(scope="module")
def rounded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The pocket model rounded to 2 bits a row, and a work directory with its NVFP4A16."""
    folder = tmp_path_factory.mktemp("rounded")
    source = folder / "source"
    shutil.copytree(MODEL, source)
    names = json.loads((source / "model.safetensors.index.json").read_text())["weight_map"]
    layers = (name for name in names if "language_model" in name)
    for name in layers:
        is_matrix = len(sabotage.shape_of(source, name)) == 2
        if is_matrix and any(part in name for part in ROUNDED):
            sabotage.round_to_two_bits(source, name)
    work = folder / "work"
    quantize_directory(source, work / "checkpoint", "nvfp4a16")
    (work / "checkpoint" / "checkpoint.json").rename(work / "checkpoint.json")
    return source, work


@pytest.fixture(scope="module")
def two_bits(
    honest: Honest, rounded: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Judged]:
    """Both gates on the rounded model, each by itself, against the model that it was rounded of."""
    assert honest.ended.code == 0, honest.ended.err
    source, work = rounded
    request = {
        "source": str(source),
        "judged": str(MODEL),
        "workdir": str(work),
        "cache": str(honest.cache),
        "validations": [{"gates": [DIVERGENCE]}, {"gates": [ARITHMETIC]}],
    }
    folder = tmp_path_factory.mktemp("request")
    answers = ask("serve", "engine_gates.py", request, work=folder, timeout_s=280)
    judged = (
        Judged(answer["results"], answer["evidence"], Platform(**answer["platform"]))
        for answer in answers
    )
    return dict(zip(("divergence", "arithmetic"), judged, strict=True))


def test_the_honest_checkpoint_passes_with_its_real_numbers(honest: Honest) -> None:
    assert honest.ended.code == 0, honest.ended.err
    assert honest.report.verdict is Verdict.Emulated
    names = ["structure", "weight-error", "loads", "divergence", "arithmetic"]
    assert [(gate.name, gate.outcome) for gate in honest.report.gates] == [
        (name, "Passed") for name in names
    ]
    divergence, arithmetic = honest.gate("divergence"), honest.gate("arithmetic")
    assert divergence.score is not None
    assert 0.0005 < float(divergence.score) < 0.02
    assert arithmetic.items == 120
    assert arithmetic.interval is not None
    assert float(arithmetic.interval.lower) > 90
    assert arithmetic.sourceScore is not None
    assert 0.75 < float(arithmetic.sourceScore) < 0.95


def test_the_source_against_itself_lies_far_below_the_quantized_model(honest: Honest) -> None:
    evidence = json.loads((honest.workdir / "evidence" / "divergence.json").read_text())

    assert 0 <= evidence["noiseFloor"]["mean"] < evidence["mean"] / 10


def test_the_report_says_where_it_was_measured(honest: Honest) -> None:
    platform = honest.report.platform
    assert platform is not None
    assert platform.emulated
    assert platform.engine.startswith("vllm ")
    assert any("Halftone" in kernel for kernel in platform.kernels)


def test_the_page_draws_the_evidence_of_every_gate(honest: Honest) -> None:
    page = (honest.workdir / "report.html").read_text()

    assert "has another form" not in page
    assert "KL divergence from the source" in page
    assert all(gate.name in page for gate in honest.report.gates)


def test_an_emulated_verdict_publishes_and_is_not_taken_for_a_real_device(
    honest: Honest,
) -> None:
    published = honest.folder / "published" / "small"

    assert halftone("verify", published).code == 0
    required = halftone("verify", published, "--require", "platform")

    assert required.code == 1
    assert "emulated" in required.err


def test_plain_rounding_to_two_bits_fails_the_divergence_gate(
    two_bits: dict[str, Judged],
) -> None:
    [result] = two_bits["divergence"].results

    assert result["outcome"] == "Failed"
    assert float(result["score"]) > 0.2
    prompts = two_bits["divergence"].evidence["divergence"]["prompts"]
    worst = max(prompts, key=lambda prompt: prompt["meanKl"])
    assert result["culprit"] == worst["id"]
    assert f"`{worst['id']}`" in result["message"]


def test_plain_rounding_to_two_bits_fails_the_task_by_itself(two_bits: dict[str, Judged]) -> None:
    [result] = two_bits["arithmetic"].results

    assert result["outcome"] == "Failed"
    assert float(result["interval"]["upper"]) < 90
    assert float(result["score"]) < 85
    items = two_bits["arithmetic"].evidence["arithmetic"]["items"]
    lost = {str(item["id"]) for item in items if item["source"] > item["quantized"]}
    assert result["culprit"].split(" ")[0] in lost


def test_the_source_was_loaded_once_for_all_of_them(
    honest: Honest, rounded: tuple[Path, Path], two_bits: dict[str, Judged]
) -> None:
    assert (honest.workdir / "logs" / "source.log").is_file()
    assert (rounded[1] / "logs" / "quantized.log").is_file()
    assert not (rounded[1] / "logs" / "source.log").exists()


def test_the_gates_that_read_files_stop_it_before_a_model_is_loaded(
    honest: Honest, rounded: tuple[Path, Path], tmp_path: Path
) -> None:
    work = tmp_path / "work"
    shutil.copytree(honest.workdir, work, ignore=shutil.ignore_patterns("logs", "artifact*"))
    shutil.rmtree(work / "checkpoint")
    shutil.copytree(rounded[1] / "checkpoint", work / "checkpoint")
    coarse = CheckpointDocument.load(rounded[1] / "checkpoint.json")
    planned = Plan.load(work / "plan.json").digest
    coarse.model_copy(update={"planDigest": planned}).save(work / "checkpoint.json")

    ended = command(honest.cache, "stage", "validate", "--workdir", work)

    assert ended.code == 1, ended.err
    report = Report.load(work / "report.json")
    assert report.verdict is Verdict.Failed
    engine = [gate for gate in report.gates if gate.name in ("loads", "divergence", "arithmetic")]
    assert [gate.outcome for gate in engine] == ["NotRun"] * 3
    assert not (work / "logs").exists()
