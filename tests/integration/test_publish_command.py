"""The stage `publish` on work directories that somebody changed after their gates.

What people read of an artifact (model card, page) is made from files that documents prove.
"""

import shutil
from pathlib import Path

import pytest

from halftone.publish.keys import generate_key
from halftone.spec.reports import report_digest
from tests.artifacts import REAL, verified, work_directory, write_card
from tests.commands import Outcome, halftone
from tests.jobs import make_project, publish, run, stage, write_job


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project that was published; nobody may change it."""
    project = make_project(tmp_path_factory.mktemp("done"))
    assert run(project, project / "work").code == 0
    return project


@pytest.fixture
def project(done: Path, tmp_path: Path) -> Path:
    """A copy of `done` whose job publishes into the copy."""
    shutil.copytree(done, tmp_path / "project")
    work = tmp_path / "project" / "work"
    text = (work / "job.json").read_text()
    (work / "job.json").write_text(text.replace(str(done), str(tmp_path / "project")))
    return tmp_path / "project"


def published_by(job: Path, workdir: Path) -> Outcome:
    """`halftone publish` to the target of another job of the same source and recipe."""
    digest = report_digest(workdir / "report.json")
    return halftone("publish", workdir, "--report-digest", digest, "--job", job)


@pytest.mark.parametrize("content", ["", "[1", "[1]", '{"checked": 42}'])
@pytest.mark.parametrize(
    "name", ["evidence/structure.json", "checkpoint/config.json", "checkpoint/README.md"]
)
def test_a_file_that_the_card_is_made_from_is_proven_first(
    name: str, content: str, project: Path
) -> None:
    shutil.rmtree(project / "published")
    (project / "work" / name).write_text(content)

    ended = publish(project / "work")

    assert ended.code == 1
    assert ended.err.splitlines()[-1].startswith(f"halftone: '{name.removeprefix('checkpoint/')}'")
    assert "is not the file that was written" in ended.err
    assert not (project / "published").exists()


def test_a_page_that_was_edited_is_not_published(project: Path) -> None:
    page = project / "work" / "report.html"
    honest = page.read_bytes()
    shutil.rmtree(project / "published")
    page.write_bytes(honest.replace(b"Unmeasured", b"Passed"))

    assert publish(project / "work").code == 0

    assert (project / "published" / "small" / "report.html").read_bytes() == honest


def test_a_job_that_lost_its_target_publishes_nothing_and_says_so(project: Path) -> None:
    write_job(project, publish=None)
    ended = published_by(project / "job.yaml", project / "work")

    assert ended.code == 0
    assert ended.out.strip() == "the job has no `publish` block, so nothing was published"


@pytest.mark.parametrize("target", ["work", "work/artifact", "work/out"])
def test_a_target_in_the_work_directory_is_refused_even_after_planning(
    target: str, project: Path
) -> None:
    job = write_job(project, publish={"directory": {"path": target}})

    ended = published_by(job, project / "work")

    assert ended.code == 2
    assert "may not lie in one another" in ended.err


@pytest.mark.parametrize("digest", [(), ("--report-digest", " ")])
def test_no_report_digest_opens_nothing_and_the_option_is_named(
    digest: tuple[str, ...], project: Path
) -> None:
    ended = stage("publish", project / "work", *digest)

    assert ended.code == 1
    assert "No report digest was handed over" in ended.err
    assert "give `--report-digest`" in ended.err


def test_cards_that_nobody_signed_do_not_break_a_signed_artifact(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = work_directory(tmp_path, platform=REAL)
    text = write_job(tmp_path, source={"directory": {"path": "source"}}).read_text()
    (work.directory / "job.json").write_text(text.replace("published", str(tmp_path / "published")))
    generate_key(tmp_path / "key")
    monkeypatch.setenv("HALFTONE_SIGNING_KEY_FILE", str(tmp_path / "key"))
    assert publish(work.directory).code == 0
    monkeypatch.delenv("HALFTONE_SIGNING_KEY_FILE")
    write_card(work)

    ended = publish(work.directory)

    assert ended.code == 0
    assert "so they were not added" in ended.err
    published = tmp_path / "published" / "small"
    assert not (published / "capacity").exists()
    assert verified(published, tmp_path / "key").code == 0
