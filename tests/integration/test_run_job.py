"""A whole job, from its file to the artifact: `halftone run`, and its stages one by one.

We test these aspects:
- relative paths, documents of the work directory, the artifact
- running again does nothing; a killed run is taken up
- what stops a job before it publishes, and a missing environment before the work begins
"""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from halftone.spec.artifacts import Artifact
from halftone.spec.documents import CheckpointDocument, Plan
from halftone.spec.names import QUANTIZE_PYTHON, SERVE_PYTHON
from halftone.spec.reports import Verdict
from tests.builders import drop_tensors, write_checkpoint
from tests.commands import files_of, halftone, kill, start_and_stop, wide_config
from tests.jobs import make_project, publish, run, stage, stamps, write_job

DOCUMENTS = {"job.json", "plan.json", "checkpoint.json", "report.json", "artifact.json"}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return make_project(tmp_path / "project")


def test_a_job_ends_in_an_artifact_beside_its_file(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # paths of a job start at its file, wherever one stands

    ended = run(project, tmp_path / "work")

    assert ended.code == 0, ended.err
    published = project / "published" / "small"
    artifact = Artifact.load(published / "artifact.json")
    assert artifact.uri == str(published)
    plan = Plan.load(tmp_path / "work" / "plan.json")
    assert plan.source is not None
    assert plan.source.uri == str(project / "model")
    document = CheckpointDocument.load(tmp_path / "work" / "checkpoint.json")
    assert document.planDigest == artifact.planDigest == plan.digest
    assert document.digest == artifact.checkpointDigest
    assert {path.name for path in (tmp_path / "work").iterdir()} >= DOCUMENTS
    weights = files_of(tmp_path / "work" / "checkpoint")
    copies = files_of(published)
    kept = weights.keys() - {"README.md"}  # the source's card gives way to the artifact's
    assert {name: copies[name] for name in kept} == {name: weights[name] for name in kept}
    assert copies.keys() - weights.keys() == {
        "artifact.json",
        "checkpoint.json",
        "evidence/structure.json",
        "evidence/weight-error.json",
        "plan.json",
        "provenance.json",
        "report.html",
        "report.json",
    }
    assert (artifact.verdict, artifact.signature) == (Verdict.Unmeasured, None)
    assert f"published {published}, unsigned, verdict Unmeasured, digest {document.digest}" in (
        ended.out
    )
    assert halftone("verify", published).code == 0
    assert [path.name for path in (project / "published").iterdir()] == ["small"]


def test_a_job_writes_the_checkpoint_that_quantize_writes(project: Path, tmp_path: Path) -> None:
    assert run(project, tmp_path / "work").code == 0
    direct = halftone(
        "quantize", project / "model", tmp_path / "direct", "--recipe", "nvfp4a16", "--json"
    )

    document = CheckpointDocument.load(tmp_path / "work" / "checkpoint.json")
    assert json.loads(direct.out)["digest"] == document.digest


def test_running_a_finished_job_again_writes_no_weight(project: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"
    assert run(project, work).code == 0
    checkpoint, published = stamps(work / "checkpoint"), stamps(project / "published")
    documents = {name: data for name, data in files_of(work).items() if name in DOCUMENTS}

    again = run(project, work)

    assert again.code == 0
    assert stamps(work / "checkpoint") == checkpoint
    assert stamps(project / "published") == published
    assert {n: data for n, data in files_of(work).items() if n in DOCUMENTS} == documents


def test_a_job_without_publish_ends_with_its_checkpoint(project: Path, tmp_path: Path) -> None:
    write_job(project, publish=None)

    ended = run(project, tmp_path / "work")

    assert ended.code == 0
    assert "so nothing was published" in ended.out
    assert not (tmp_path / "work" / "artifact.json").exists()


def test_a_killed_job_is_taken_up(tmp_path: Path) -> None:
    project = tmp_path / "project"
    write_checkpoint(project / "model", wide_config())
    write_job(project, quantization={"preset": "nvfp4a16", "scaleSearch": "Exhaustive"})
    assert run(project, tmp_path / "undisturbed").code == 0
    expected = files_of(tmp_path / "undisturbed" / "checkpoint")
    shutil.rmtree(project / "published")
    work = tmp_path / "work"
    written = r"os\.rename .*\.writing'"  # a shard is whole, and still where it was written
    kill(start_and_stop(1, written, "run", project / "job.yaml", "--workdir", work))
    assert not (work / "checkpoint").exists()
    assert not (work / "checkpoint.json").exists()
    assert not (project / "published").exists()

    ended = run(project, work)

    assert ended.code == 0, ended.err
    assert files_of(work / "checkpoint") == expected
    assert not list(work.glob(".*.partial"))


def test_defects_stop_a_job_before_it_publishes(project: Path, tmp_path: Path) -> None:
    """The source promises a multi-token-prediction head that it does not have."""
    drop_tensors(project / "model", "mtp.")
    work = tmp_path / "work"

    ended = run(project, work)

    assert ended.code == 1
    assert "Gate 'structure' failed, so nothing is published: " in ended.err.splitlines()[-1]
    assert not (project / "published").exists()
    assert (work / "report.json").is_file()
    later = publish(work)
    assert later.code == 1
    assert "its verdict is Failed" in later.err
    assert not (project / "published").exists()
    assert not (work / "artifact.json").exists()


def test_a_refused_plan_stops_a_job_and_is_kept(project: Path, tmp_path: Path) -> None:
    write_job(project, quantization={"precision": [{"role": "Experts", "format": "NVFP4A16"}]})

    ended = run(project, tmp_path / "work")

    assert ended.code == 2
    assert "halftone: The recipe 'small' quantizes Experts, but the model has" in ended.err
    plan = Plan.load(tmp_path / "work" / "plan.json")
    assert plan.refusal is not None
    assert plan.refusal.message in ended.err
    quantized = stage("quantize", tmp_path / "work")
    assert (quantized.code, quantized.err) == (2, f"halftone: {plan.refusal.message}\n")


def test_a_job_that_was_refused_may_be_corrected_in_its_work_directory(
    project: Path, tmp_path: Path
) -> None:
    write_job(project, quantization={"preset": "nvfp5"})
    assert run(project, tmp_path / "work").code == 2
    write_job(project)

    assert run(project, tmp_path / "work").code == 0


def test_a_calibrated_job_without_data_is_refused_before_anything_is_written(
    project: Path, tmp_path: Path
) -> None:
    write_job(project, quantization={"preset": "nvfp4-mlp"})

    ended = run(project, tmp_path / "work")

    assert ended.code == 2
    assert "names no data to measure them on" in ended.err
    assert "`quantization.calibration.dataset`" in ended.err
    assert [path.name for path in (tmp_path / "work").iterdir()] == ["job.json"]


def test_other_gates_make_another_report_of_the_same_checkpoint(
    project: Path, tmp_path: Path
) -> None:
    work = tmp_path / "work"
    assert run(project, work).code == 0
    shutil.rmtree(project / "published")
    checkpoint = stamps(work / "checkpoint")
    gate = {"name": "weights", "metric": "WeightError", "maximum": "0.01"}
    write_job(project, validation={"gates": [gate]})

    ended = run(project, work)

    assert ended.code == 1
    assert "Gate 'weights' failed" in ended.err
    assert stamps(work / "checkpoint") == checkpoint
    assert not (project / "published").exists()


def test_a_work_directory_belongs_to_one_job(project: Path, tmp_path: Path) -> None:
    assert run(project, tmp_path / "work").code == 0
    write_job(project, quantization={"preset": "fp8-block"})

    ended = run(project, tmp_path / "work")

    assert ended.code == 2
    assert f"'{tmp_path / 'work'}' belongs to another job" in ended.err
    assert "choose another work directory" in ended.err


def test_a_target_that_holds_another_artifact_is_refused(project: Path, tmp_path: Path) -> None:
    assert run(project, tmp_path / "first").code == 0
    before = files_of(project / "published")
    write_job(project, quantization={"preset": "fp8-block"})

    ended = run(project, tmp_path / "second")

    assert ended.code == 2
    assert "`publish.existing: Replace`" in ended.err
    assert files_of(project / "published") == before


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"source": {}}, "`spec.source`: exactly one of `huggingFace`, `s3` and `directory`"),
        ({"source": {"directory": {"path": ""}}}, "`spec.source.directory.path`"),
        ({"source": {"s3": {"uri": "models/base"}}}, "`spec.source.s3.uri`"),
        ({"quantization": {"preset": "nvfp5"}}, "'nvfp5', which is not one of"),
        ({"quantisation": {}}, "`spec.quantisation`: there is no such field; there are source,"),
        ({"publish": {"s3": {"uri": "a/b"}}}, "`spec.publish.s3.uri`"),
    ],
)
def test_a_job_that_is_wrong_is_refused_by_its_field(
    changes: dict[str, Any], words: str, project: Path, tmp_path: Path
) -> None:
    write_job(project, **changes)

    ended = run(project, tmp_path / "work")

    assert ended.code == 2
    assert words in ended.err
    assert not (tmp_path / "work" / "plan.json").exists()


def test_a_job_may_clear_what_its_preset_says(project: Path, tmp_path: Path) -> None:
    write_job(project, quantization={"preset": "fp8-block-a16", "kvCache": None})

    run(project, tmp_path / "work")

    recipe = Plan.load(tmp_path / "work" / "plan.json").recipe
    assert recipe is not None
    assert recipe.kvCache is None


@pytest.mark.parametrize(
    ("variable", "changes", "told"),
    [
        (
            SERVE_PYTHON,
            {"validation": {"gates": [{"name": "loads", "metric": "EngineLoads"}]}},
            "Engine gates need the environment with vLLM",
        ),
        (
            QUANTIZE_PYTHON,
            {"quantization": {"preset": "nvfp4-mlp", "calibration": {"dataset": {"path": "rows"}}}},
            "Calibration needs the environment with llm-compressor",
        ),
    ],
)
def test_an_environment_that_is_missing_is_told_before_the_work(
    variable: str,
    changes: dict[str, Any],
    told: str,
    project: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (project / "rows").mkdir()
    rows = "".join(f'{{"text": "row {number}"}}\n' for number in range(600))
    (project / "rows" / "data.jsonl").write_text(rows)
    write_job(project, **changes)
    monkeypatch.setenv(variable, str(tmp_path / "nowhere"))

    ended = run(project, tmp_path / "work")

    assert ended.code == 3
    assert told in ended.err
    assert sorted(path.name for path in (tmp_path / "work").iterdir()) == ["job.json", "plan.json"]
