"""A whole job, from its file to the artifact: `halftone run`, and its stages one by one.

We test these aspects:
- relative paths, documents of the work directory, the artifact
- running again does nothing; a killed run is taken up
- what stops a job before it publishes
"""

import json
import shutil
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import yaml

from halftone.spec.artifacts import Artifact
from halftone.spec.documents import CheckpointDocument, Plan
from halftone.spec.reports import Verdict
from tests.builders import drop_tensors, write_checkpoint
from tests.commands import Outcome, files_of, halftone, start, wait_until, wide_config

DOCUMENTS = {"job.json", "plan.json", "checkpoint.json", "report.json", "artifact.json"}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A directory with a model and a job file beside it."""
    write_checkpoint(tmp_path / "project" / "model", "qwen3_5")
    write_job(tmp_path / "project")
    return tmp_path / "project"


def write_job(project: Path, **changes: Any) -> Path:
    spec: dict[str, Any] = {
        "source": {"directory": {"path": "model"}},
        "quantization": {"preset": "nvfp4a16"},
        "publish": {"directory": {"path": "published/small"}},
    }
    document = {
        "apiVersion": "halftone.dev/v1alpha1",
        "kind": "QuantizationJob",
        "metadata": {"name": "small"},
        "spec": spec | changes,
    }
    path = project / "job.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


def run(project: Path, workdir: Path) -> Outcome:
    return halftone("run", project / "job.yaml", "--workdir", workdir)


def stage(name: str, workdir: Path, *options: str) -> Outcome:
    return halftone("stage", name, "--workdir", workdir, *options)


def publish(workdir: Path) -> Outcome:
    """Publish with the digest of the report that lies there, as whoever ran the gates has it."""
    path = workdir / "report.json"
    digest = sha256(path.read_bytes()).hexdigest() if path.is_file() else "0" * 64
    return stage("publish", workdir, "--report-digest", digest)


def stamps(directory: Path) -> dict[str, tuple[int, int]]:
    return {
        str(path.relative_to(directory)): (path.stat().st_ino, path.stat().st_mtime_ns)
        for path in directory.rglob("*")
        if path.is_file()
    }


def stable(files: dict[str, bytes]) -> dict[str, bytes]:
    """Without what says when the gates ran, and what carries a digest of that."""
    timed = {"report.json", "report.html", "provenance.json", "artifact.json", "README.md"}
    return {name: data for name, data in files.items() if Path(name).name not in timed}


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


def test_the_stages_one_by_one_give_what_run_gives(project: Path, tmp_path: Path) -> None:
    assert run(project, tmp_path / "whole").code == 0
    whole = files_of(project / "published")
    shutil.rmtree(project / "published")

    work = tmp_path / "work"
    job = project / "job.yaml"
    assert halftone("stage", "plan", "--workdir", work, "--job", job).code == 0
    for name in ("quantize", "quantize"):
        ended = stage(name, work)
        assert (ended.code, ended.out) == (0, ""), ended.err
    digests = [stage("validate", work).out.strip() for _ in range(2)]
    assert digests[0] == digests[1]
    for _ in range(2):
        ended = stage("publish", work, "--report-digest", digests[0])
        assert (ended.code, ended.out) == (0, ""), ended.err

    assert stable(files_of(project / "published")) == stable(whole)


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
    process = start("run", project / "job.yaml", "--workdir", work)
    wait_until(lambda: any(work.glob(".checkpoint.partial/*.writing")), process)
    process.kill()
    process.communicate()
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


def test_a_calibrated_job_is_planned_and_then_says_what_it_needs(
    project: Path, tmp_path: Path
) -> None:
    write_job(project, quantization={"preset": "nvfp4-mlp"})

    ended = run(project, tmp_path / "work")

    assert ended.code == 2
    assert "needs calibration statistics" in ended.err
    assert Plan.load(tmp_path / "work" / "plan.json").refusal is None
    assert not (tmp_path / "work" / "checkpoint").exists()


@pytest.mark.parametrize("name", ["plan", "quantize", "validate", "publish"])
def test_a_stage_in_an_empty_work_directory_says_how_to_begin(name: str, tmp_path: Path) -> None:
    ended = stage(name, tmp_path / "work")

    assert ended.code == 2
    assert "has no job.json; start with `halftone stage plan --job JOB.yaml`" in ended.err


@pytest.mark.parametrize(
    ("name", "missing"),
    [("quantize", "plan.json"), ("publish", "checkpoint.json"), ("validate", "checkpoint")],
)
def test_a_stage_that_comes_too_early_names_what_is_missing(
    name: str, missing: str, project: Path, tmp_path: Path
) -> None:
    work = tmp_path / "work"
    job = project / "job.yaml"
    assert halftone("stage", "plan", "--workdir", work, "--job", job).code == 0
    if name == "quantize":
        (work / "plan.json").unlink()

    ended = stage(name, work)

    assert ended.code == 2
    assert missing in ended.err
    assert "Traceback" not in ended.err


def test_a_checkpoint_without_a_report_is_not_published(project: Path, tmp_path: Path) -> None:
    assert run(project, tmp_path / "work").code == 0
    shutil.rmtree(project / "published")
    (tmp_path / "work" / "report.json").unlink()

    ended = publish(tmp_path / "work")

    assert ended.code == 1
    assert "report.json" in ended.err
    assert not (project / "published").exists()


def test_a_report_that_was_edited_opens_nothing(project: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"
    drop_tensors(project / "model", "mtp.")
    assert run(project, work).code == 1
    honest = sha256((work / "report.json").read_bytes()).hexdigest()
    forged = (work / "report.json").read_text().replace('"Failed"', '"Passed"')
    (work / "report.json").write_text(forged)

    ended = stage("publish", work, "--report-digest", honest)
    without = stage("publish", work)

    assert (ended.code, without.code) == (1, 1)
    assert "report" in ended.err
    assert not (project / "published").exists()


def test_gates_are_not_repeated_for_the_same_checkpoint(project: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"
    assert run(project, work).code == 0
    before = stamps(work)["report.json"]

    assert stage("validate", work).code == 0

    assert stamps(work)["report.json"] == before


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


def test_a_shard_that_was_changed_after_its_gates_is_not_published(
    project: Path, tmp_path: Path
) -> None:
    work = tmp_path / "work"
    assert run(project, work).code == 0
    shutil.rmtree(project / "published")
    shard = work / "checkpoint" / "model.safetensors"
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)

    ended = publish(work)

    assert ended.code == 1
    assert "'model.safetensors'" in ended.err
    assert "nothing is published" in ended.err
    assert not (project / "published").exists()


def test_a_plan_that_is_not_the_checkpoints_is_not_published_with_it(
    project: Path, tmp_path: Path
) -> None:
    work = tmp_path / "work"
    assert run(project, work).code == 0
    shutil.rmtree(project / "published")
    halftone("plan", project / "model", "--recipe", "fp8-block", "--output", work / "plan.json")

    ended = publish(work)

    assert ended.code == 2
    assert "plan.json" in ended.err
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


@pytest.mark.parametrize(("document", "maker"), [("plan", "plan"), ("checkpoint", "quantize")])
def test_a_damaged_document_is_refused_by_its_name(
    document: str, maker: str, project: Path, tmp_path: Path
) -> None:
    work = tmp_path / "work"
    assert run(project, work).code == 0
    shutil.rmtree(project / "published")
    (work / f"{document}.json").write_text("{")

    ended = publish(work)

    assert ended.code == 2
    assert f"'{work / document}.json' is not a" in ended.err
    assert f"remove it and run `halftone stage {maker}`, which writes it" in ended.err


def test_a_plan_that_was_edited_is_not_carried_out(project: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"
    job = project / "job.yaml"
    assert halftone("stage", "plan", "--workdir", work, "--job", job).code == 0
    plan = json.loads((work / "plan.json").read_text())
    plan["output"]["carried"].append("secrets.txt")
    (work / "plan.json").write_text(json.dumps(plan))

    ended = stage("quantize", work)

    assert ended.code == 2
    assert f"'{work / 'plan.json'}' was changed after it was planned" in ended.err
    assert not (work / "checkpoint").exists()


def test_a_job_may_clear_what_its_preset_says(project: Path, tmp_path: Path) -> None:
    write_job(project, quantization={"preset": "nvfp4-mlp", "kvCache": None})

    run(project, tmp_path / "work")

    recipe = Plan.load(tmp_path / "work" / "plan.json").recipe
    assert recipe is not None
    assert recipe.kvCache is None
