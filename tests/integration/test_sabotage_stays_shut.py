"""From a ruined checkpoint to a target that stays empty: the gates name what is wrong.

The documents are made true of the ruined files, so that nothing but the gates can notice. Each
target has been probed when the job was planned, and is looked at more closely than a reader could.
We test these aspects, for a directory, a bucket of a real S3 server, and the Hub's double:
- each sabotage is caught and named, and its report opens nothing
- neither does an edited report, nor an honest report of another checkpoint or another job
- a checkpoint that is ruined after its gates is not published
- the honest checkpoint passes, is published and verifies
"""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from halftone.checkpoint.digests import checkpoint_digest, file_sha256
from halftone.spec.documents import CheckpointDocument, Method, Plan, WrittenFile
from halftone.spec.reports import Report, Verdict
from tests.builders import drop_tensors, sabotage, write_checkpoint, write_statistics
from tests.builders.datasets import text_rows, write_rows
from tests.commands import Outcome, halftone, plan_directory
from tests.destinations import Destination, in_bucket, in_directory, on_hub
from tests.jobs import stage, write_job
from tests.servers.versitygw import VersityGateway

LAYERS = "model.language_model.layers"
EXPERT, OTHER = (f"{LAYERS}.0.mlp.experts.{number}.down_proj." for number in (0, 1))
ROUTER = f"{LAYERS}.0.mlp.gate.weight"


@dataclass(frozen=True)
class Sabotage:
    """What is done to the checkpoint of `model`, and what message and report must name."""

    name: str
    change: Callable[[Path], object]
    culprit: str
    model: str = "qwen3_5"


def exchange_experts(checkpoint: Path) -> None:
    """Let two experts do each other's work; their tensors are all well formed."""
    for part in ("weight_packed", "weight_scale", "weight_global_scale"):
        sabotage.exchange(checkpoint, EXPERT + part, OTHER + part)


def each_expert_its_own(checkpoint: Path) -> None:
    """Give the experts of a layer input scales of their own; each alone is as good as before."""
    for number in range(8):
        name = f"{LAYERS}.0.mlp.experts.{number}.down_proj.input_scale"
        sabotage.multiply(checkpoint, [name], 2.0 ** -(number % 3))


ZEROED_ROW = Sabotage(
    "one row of lm_head zeroed",
    lambda d: sabotage.zero_row(d, "lm_head.weight", 5),
    "lm_head.weight",
)
SABOTAGES = (
    Sabotage(
        "a fused group's global scale doubled",
        lambda d: sabotage.double_global_scale(
            d, [f"{LAYERS}.3.self_attn.{letter}_proj" for letter in "qkv"]
        ),
        f"{LAYERS}.3.self_attn",
    ),
    Sabotage(
        "nibble order swapped",
        lambda d: sabotage.swap_nibbles(d, f"{LAYERS}.0.mlp.down_proj"),
        f"{LAYERS}.0.mlp.down_proj.weight",
    ),
    Sabotage("MTP head dropped but promised", lambda d: drop_tensors(d, "mtp."), "mtp."),
    ZEROED_ROW,
    Sabotage("two experts exchanged", exchange_experts, f"{EXPERT}weight", "qwen3_5_moe"),
    Sabotage(
        "router turned", lambda d: sabotage.reverse_rows(d, ROUTER), ROUTER, model="qwen3_5_moe"
    ),
    Sabotage(
        "an input scale for each expert",
        each_expert_its_own,
        f"{LAYERS}.0.mlp.experts.1.down_proj.input_scale",
        "calibrated",
    ),
    Sabotage(
        "an input scale missing",
        lambda d: drop_tensors(d, "layers.3.self_attn.o_proj.input_scale"),
        f"{LAYERS}.3.self_attn.o_proj",
        "calibrated",
    ),
    Sabotage(
        "a cache without its scale",
        lambda d: drop_tensors(d, ".v_proj.v_scale"),
        f"{LAYERS}.3.self_attn.v_proj.v_scale",
        "calibrated",
    ),
)
FIXTURES = {"qwen3_5": "dense", "qwen3_5_moe": "experts", "calibrated": "calibrated"}


@dataclass(frozen=True)
class Made:
    """A model and a work directory with its checkpoint, before any gate; and the job's recipe."""

    model: Path
    workdir: Path
    quantization: dict[str, Any]


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make(tmp_path_factory.mktemp("dense"), "qwen3_5")


@pytest.fixture(scope="module")
def experts(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make(tmp_path_factory.mktemp("experts"), "qwen3_5_moe", experts="Fused")


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Experts in 4 bits with 4-bit activations and a measured cache; statistics made by hand."""
    folder = tmp_path_factory.mktemp("calibrated")
    rows = write_rows(folder / "rows.jsonl", text_rows(4))
    quantization = {
        "preset": "nvfp4-language",
        "kvCache": {"format": "FP8", "scales": "Calibrated"},
        "calibration": {"dataset": {"path": str(rows)}, "samples": 4},
    }
    return make(folder, "qwen3_5_moe", quantization, experts="Fused")


@pytest.fixture(params=["directory", "bucket", "hub"])
def destination(
    request: pytest.FixtureRequest, tmp_path: Path, s3_server: VersityGateway
) -> Destination:
    """An empty target of each kind."""
    if request.param == "bucket":
        return in_bucket(s3_server, request.getfixturevalue("bucket"))
    if request.param == "hub":
        return on_hub(request.getfixturevalue("hub"))
    return in_directory(tmp_path / "shelf")


def make(
    folder: Path, model: str, quantization: dict[str, Any] | None = None, **layout: Any
) -> Made:
    """Plan and quantize; the job has no target yet."""
    chosen = quantization or {"preset": "nvfp4a16"}
    write_checkpoint(folder / "model", model, **layout)
    job = write_job(folder, publish=None, quantization=chosen)
    planned = halftone("stage", "plan", "--workdir", folder / "work", "--job", job)
    assert planned.code == 0, planned.err
    plan = Plan.load(folder / "work" / "plan.json")
    if plan.method is Method.Calibrated:
        assert plan.recipe is not None
        write_statistics(plan_directory(folder / "model", plan.recipe), folder / "work")
    quantized = stage("quantize", folder / "work")
    assert quantized.code == 0, quantized.err
    return Made(folder / "model", folder / "work", chosen)


def work_for(destination: Destination, made: Made, folder: Path, **changes: Any) -> Path:
    """A copy of the work directory whose job publishes to `destination`, planned again for it."""
    shutil.copytree(made.workdir, folder / "work")
    source = {"directory": {"path": str(made.model)}}
    changes = {"quantization": made.quantization} | changes
    job = write_job(folder, source=source, publish=destination.publish, **changes)
    planned = halftone("stage", "plan", "--workdir", folder / "work", "--job", job)
    assert planned.code == 0, planned.err
    assert destination.contents() == []
    return folder / "work"


def ruin(workdir: Path, done: Sabotage) -> None:
    """Sabotage the checkpoint, and make its document true of what lies there now."""
    checkpoint = workdir / "checkpoint"
    before = CheckpointDocument.load(workdir / "checkpoint.json")
    done.change(checkpoint)
    files = tuple(
        WrittenFile(path=file.path, sizeBytes=path.stat().st_size, sha256=file_sha256(path))
        for file in before.files
        if (path := checkpoint / file.path).is_file()
    )
    digest = checkpoint_digest(files)
    assert digest != before.digest
    before.model_copy(update={"files": files, "digest": digest}).save(workdir / "checkpoint.json")


def publish(workdir: Path, digest: str) -> Outcome:
    return stage("publish", workdir, "--report-digest", digest)


def digest_of(report: Path) -> str:
    return sha256(report.read_bytes()).hexdigest()


def assert_shut(ended: Outcome, workdir: Path, destination: Destination, why: str) -> None:
    """Publishing was refused for a reason, and nothing at all has reached the target."""
    assert ended.code == 1, ended.err
    assert why in ended.err
    assert "Traceback" not in ended.err
    assert destination.contents() == []
    assert not (workdir / "artifact.json").exists()


@pytest.mark.parametrize("done", SABOTAGES, ids=lambda done: done.name)
def test_a_sabotage_is_named_and_nothing_of_it_is_published(
    done: Sabotage, destination: Destination, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    made = request.getfixturevalue(FIXTURES[done.model])
    work = work_for(destination, made, tmp_path)
    ruin(work, done)

    validated = stage("validate", work)

    assert validated.code == 1
    assert done.culprit in validated.err.splitlines()[-1]
    report = Report.load(work / "report.json")
    assert report.verdict is Verdict.Failed
    [failed] = [gate for gate in report.gates if gate.outcome == "Failed"]
    assert failed.culprit is not None
    assert done.culprit in failed.culprit
    assert report.checkpointDigest == CheckpointDocument.load(work / "checkpoint.json").digest
    digest = validated.out.strip()
    assert digest == digest_of(work / "report.json")
    assert_shut(publish(work, digest), work, destination, "its verdict is Failed")


def test_a_report_that_was_edited_to_say_passed_opens_nothing(
    dense: Made, destination: Destination, tmp_path: Path
) -> None:
    work = work_for(destination, dense, tmp_path)
    ruin(work, ZEROED_ROW)
    handed_over = stage("validate", work).out.strip()
    report = work / "report.json"
    honest = report.read_text()

    report.write_text(honest.replace('"Failed"', '"Passed"'))
    edited = publish(work, handed_over)
    unasked = stage("publish", work)
    contradicting = json.loads(honest) | {"verdict": "Passed"}
    report.write_text(json.dumps(contradicting))
    own = publish(work, digest_of(report))

    assert_shut(edited, work, destination, "it was edited or replaced")
    assert_shut(unasked, work, destination, "No report digest was handed over")
    assert_shut(own, work, destination, "the gate 'structure' is Failed, the verdict Passed")


@pytest.mark.parametrize("whose", ["the same job's", "another job's"])
def test_an_honest_report_of_another_checkpoint_opens_nothing(
    whose: str, dense: Made, destination: Destination, tmp_path: Path
) -> None:
    work = work_for(destination, dense, tmp_path)
    if whose == "the same job's":
        other = work
    else:
        job = {"quantization": {"preset": "fp8-dynamic"}, "publish": None}
        project = tmp_path / "other"
        shutil.copytree(dense.model, project / "model")
        assert halftone("run", write_job(project, **job), "--workdir", project / "work").code == 0
        other = project / "work"
    handed_over = stage("validate", other).out.strip()
    ruin(work, ZEROED_ROW)
    if other is not work:
        for name in ("report.json", "report.html"):
            shutil.copy(other / name, work / name)
        shutil.copytree(other / "evidence", work / "evidence")
    assert Report.load(work / "report.json").verdict is Verdict.Unmeasured

    ended = publish(work, handed_over)

    assert_shut(ended, work, destination, "it is about another checkpoint")


def test_a_checkpoint_that_is_ruined_after_its_gates_is_not_published(
    dense: Made, destination: Destination, tmp_path: Path
) -> None:
    work = work_for(destination, dense, tmp_path)
    validated = stage("validate", work)
    assert validated.code == 0, validated.err
    ZEROED_ROW.change(work / "checkpoint")

    ended = publish(work, validated.out.strip())

    assert_shut(ended, work, destination, "nothing is published")


def test_the_honest_checkpoint_passes_is_published_and_verifies(
    dense: Made, destination: Destination, tmp_path: Path
) -> None:
    gate = {"name": "weights", "metric": "WeightError", "maximum": "0.12"}
    work = work_for(destination, dense, tmp_path, validation={"gates": [gate]})

    validated = stage("validate", work)
    published = publish(work, validated.out.strip())

    assert validated.code == 0, validated.err
    report = Report.load(work / "report.json")
    assert report.verdict is Verdict.Passed
    [weights] = [gate for gate in report.gates if gate.name == "weights"]
    assert weights.score is not None
    assert 0.08 < float(weights.score) < 0.12
    assert published.code == 0, published.err
    assert destination.contents() != []
    verified = halftone("verify", destination.uri, "--require", "verdict", "--json")
    assert verified.code == 0, verified.err
    document = CheckpointDocument.load(work / "checkpoint.json")
    assert json.loads(verified.out)["checkpointDigest"] == document.digest
