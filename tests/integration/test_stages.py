"""The stages of a job one by one: what each needs, and what keeps publishing shut.

We test these aspects:
- stages give what a run gives, and may be repeated
- a stage that comes too early, damaged documents, a shard that changed
- a report that is missing, failed or edited opens nothing
"""

import json
import shutil
from hashlib import sha256
from pathlib import Path

import pytest

from tests.builders import drop_tensors
from tests.commands import files_of, halftone
from tests.jobs import make_project, publish, run, stage, stamps


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return make_project(tmp_path / "project")


def stable(files: dict[str, bytes]) -> dict[str, bytes]:
    """Without what says when the gates ran, and what carries a digest of that."""
    timed = {"report.json", "report.html", "provenance.json", "artifact.json", "README.md"}
    return {name: data for name, data in files.items() if Path(name).name not in timed}


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
    assert f"name one that `halftone stage {maker}` wrote or, in a work directory" in ended.err


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
