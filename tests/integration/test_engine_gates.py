"""The pocket model through real engine gates: honest checkpoints, plain rounding, wrong scales.

A whole job is run from the command line, which starts the stage in the environment with vLLM. The
source is loaded once, and what it answered is kept for the later runs. We test these aspects:
- the honest checkpoint passes with its real numbers, those of its prediction head among them, is
  published as `Emulated` and verifies; its page draws all evidence
- plain rounding to 2 bits fails `KlDivergence` and, by itself, `Task`; each names its culprit
- in a work directory the gates that read files stop it before a model is loaded
- the second example's W4A4 with a measured FP8 cache passes with that example's limits; halved
  scales of activations, and scales of the cache eight times too small, pass every gate on files
  and fail `KlDivergence`, and nothing of them is published. (Eight times too large costs an FP8
  cache nothing that a gate could see: the format has the range to spare.)
"""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import yaml

from halftone.checkpoint.digests import checkpoint_digest
from halftone.spec.documents import CheckpointDocument, Plan
from halftone.spec.names import CACHE_DIRECTORY, SERVE_PYTHON
from halftone.spec.reports import GateResult, Platform, Report, Verdict
from tests.artifacts import written
from tests.builders import read_checkpoint, sabotage
from tests.commands import files_of, halftone, quantize_directory
from tests.conftest import ROOT, is_foreign
from tests.environments import ask, python_of
from tests.jobs import write_job

pytestmark = pytest.mark.serve_env

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
HEAD = {"name": "head", "metric": "AcceptanceLength", "minimum": "1.05"}
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
        timeout=1500,
    )
    return Ended(done.returncode, done.stdout, done.stderr)


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Honest:
    folder, cache = tmp_path_factory.mktemp("honest"), tmp_path_factory.mktemp("cache")
    job = write_job(
        folder,
        source={"directory": {"path": str(MODEL)}},
        validation={"gates": [LOADS, DIVERGENCE, ARITHMETIC, HEAD]},
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


@pytest.fixture(scope="module")
def calibrated(honest: Honest, tmp_path_factory: pytest.TempPathFactory) -> Honest:
    """The second example with fewer samples and gates, run as a user does."""
    folder = tmp_path_factory.mktemp("calibrated")
    spec = yaml.safe_load((ROOT / "examples" / "02-pocket-model-w4a4.yaml").read_text())["spec"]
    quantization = spec["quantization"]
    quantization["calibration"] |= {
        "dataset": {"path": str(EXAMPLE / "calibration.jsonl")},
        "samples": 24,
    }
    gates = [g for g in spec["validation"]["gates"] if g["name"] in ("loads", "divergence")]
    job = write_job(
        folder,
        source={"directory": {"path": str(MODEL)}},
        quantization=quantization,
        validation={"gates": gates},
    )
    return Honest(
        folder, command(honest.cache, "run", job, "--workdir", folder / "work"), honest.cache
    )


@pytest.mark.quantize_env
def test_four_bit_activations_and_a_measured_cache_pass_the_examples_limits(
    calibrated: Honest,
) -> None:
    assert calibrated.ended.code == 0, calibrated.ended.err
    report = calibrated.report
    assert (report.verdict, report.method) == (Verdict.Emulated, "Calibrated")
    score = calibrated.gate("divergence").score
    assert score is not None
    assert 0.01 < float(score) < 0.026
    assert report.platform is not None
    assert {"HalftoneCpuNvfp4Linear", "HalftoneCpuFp8KvCache"} <= {*report.platform.kernels}
    evidence = json.loads((calibrated.workdir / "evidence" / "loads.json").read_text())
    [scales] = evidence["cacheScales"]  # one layer has a cache
    assert 0 < scales["key"] != 1
    assert 0 < scales["value"] != 1
    published = calibrated.folder / "published" / "small"
    assert (published / "calibration" / "statistics.json").is_file()
    assert halftone("verify", published, "--rebuild", "4", "--source", MODEL).code == 0


@pytest.mark.quantize_env
@pytest.mark.parametrize(
    ("endings", "factor"),
    [((".input_scale",), 0.5), ((".k_scale", ".v_scale"), 0.125)],
    ids=["activation scales halved", "cache scales an eighth"],
)
def test_wrong_scales_are_caught_by_behaviour_and_publish_nothing(
    calibrated: Honest, tmp_path: Path, endings: tuple[str, ...], factor: float
) -> None:
    work, target = tmp_path / "work", calibrated.folder / "published" / "small"
    left = shutil.ignore_patterns("logs", "artifact*", "report*", "evidence")
    shutil.copytree(calibrated.workdir, work, ignore=left)
    names = [name for name in read_checkpoint(work / "checkpoint") if name.endswith(endings)]
    sabotage.multiply(work / "checkpoint", names, factor)
    restate(work)
    before = files_of(target)

    ended = command(calibrated.cache, "stage", "validate", "--workdir", work)
    published = command(
        calibrated.cache, "stage", "publish", "--workdir", work, "--report-digest", digest_of(work)
    )

    assert ended.code == 1, ended.err
    report = Report.load(work / "report.json")
    outcomes = {gate.name: gate.outcome for gate in report.gates}
    assert outcomes == {
        "structure": "Passed",
        "weight-error": "Passed",
        "loads": "Passed",
        "divergence": "Failed",
    }
    assert published.code == 1
    assert "its verdict is Failed" in published.err
    assert files_of(target) == before


def restate(work: Path) -> None:
    """Make `checkpoint.json` true of the files that lie there, so that only gates can notice."""
    before = CheckpointDocument.load(work / "checkpoint.json")
    files = tuple(
        written(file.path, (work / "checkpoint" / file.path).read_bytes()) for file in before.files
    )
    changed = {"files": files, "digest": checkpoint_digest(files)}
    before.model_copy(update=changed).save(work / "checkpoint.json")


def digest_of(work: Path) -> str:
    return sha256((work / "report.json").read_bytes()).hexdigest()


def test_the_honest_checkpoint_passes_with_its_real_numbers(honest: Honest) -> None:
    assert honest.ended.code == 0, honest.ended.err
    assert honest.report.verdict is Verdict.Emulated
    names = ["structure", "weight-error", "loads", "divergence", "arithmetic", "head"]
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
