"""Where an artifact may not go is said before a weight is read, in the words of publishing."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.builders import write_checkpoint
from tests.commands import Outcome, files_of, halftone


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "model", "qwen3")


def run(tmp_path: Path, target: str, workdir: str = "work", preset: str = "nvfp4a16") -> Outcome:
    job: dict[str, Any] = {
        "metadata": {"name": "small"},
        "spec": {
            "source": {"directory": {"path": "model"}},
            "quantization": {"preset": preset},
            "publish": {"directory": {"path": target}},
        },
    }
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job))
    return halftone("run", tmp_path / "job.yaml", "--workdir", tmp_path / workdir)


def refused(ended: Outcome, tmp_path: Path, workdir: str = "work") -> str:
    """The sentence of a job that ended before its plan was written."""
    assert ended.code == 2
    assert "halftone: quantize" not in ended.err
    assert {path.name for path in (tmp_path / workdir).iterdir() if path.is_file()} == {"job.json"}
    return ended.err.splitlines()[-1]


@pytest.mark.parametrize("target", ["work", "work/checkpoint", "work/deep/../deep/er", "."])
def test_the_work_directory_is_no_target_nor_what_lies_in_or_around_it(
    target: str, model: Path, tmp_path: Path
) -> None:
    sentence = refused(run(tmp_path, target), tmp_path)

    path, work = (tmp_path / target).resolve(), tmp_path / "work"
    assert sentence == (
        f"halftone: `publish.directory.path` '{path}' and the work directory '{work}' may not lie "
        "in one another; choose a directory beside it."
    )


def test_a_file_is_no_target(model: Path, tmp_path: Path) -> None:
    (tmp_path / "target").write_text("thesis")

    sentence = refused(run(tmp_path, "target"), tmp_path)

    assert sentence.endswith("/target' is a file; choose another path or remove that one.")
    assert (tmp_path / "target").read_text() == "thesis"


def test_a_directory_with_something_else_is_no_target(model: Path, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "cat.jpg").write_text("a cat")

    sentence = refused(run(tmp_path, "photos"), tmp_path)

    assert "/photos' is not empty and holds no artifact.json" in sentence
    assert sentence.endswith("choose another directory or remove that one.")
    assert files_of(photos) == {"cat.jpg": b"a cat"}


def test_another_plans_artifact_is_in_the_way_before_work_begins(
    model: Path, tmp_path: Path
) -> None:
    assert run(tmp_path, "target").code == 0

    sentence = refused(run(tmp_path, "target", "other", "fp8-dynamic"), tmp_path, "other")

    assert "/target` holds the artifact " in sentence
    assert "set `publish.existing: Replace`" in sentence


def test_the_same_plans_artifact_is_taken_from_another_work_directory(
    model: Path, tmp_path: Path
) -> None:
    assert run(tmp_path, "target").code == 0
    before = files_of(tmp_path / "target")

    assert run(tmp_path, "target", "other").code == 0

    assert files_of(tmp_path / "target") == before
    artifact = json.loads((tmp_path / "other" / "artifact.json").read_text())
    assert artifact["uri"] == str(tmp_path / "target")


def test_an_empty_directory_is_taken(model: Path, tmp_path: Path) -> None:
    (tmp_path / "target").mkdir()

    assert run(tmp_path, "target").code == 0
    assert (tmp_path / "target" / "artifact.json").is_file()


@pytest.mark.parametrize("workdir", ["model", "model/work"])
def test_the_source_is_no_work_directory(workdir: str, model: Path, tmp_path: Path) -> None:
    job = tmp_path / "job.yaml"
    run(tmp_path, "target")  # writes the job file
    before = sorted(path.name for path in model.iterdir())

    ended = halftone("run", job, "--workdir", tmp_path / workdir)

    assert ended.code == 2
    assert "may not lie in the source" in ended.err
    assert sorted(path.name for path in model.iterdir()) == before


def test_a_target_inside_the_source_is_refused(model: Path, tmp_path: Path) -> None:
    ended = run(tmp_path, "model/small")

    assert ended.code == 2
    assert "may not lie in the source" in ended.err
    assert not (model / "small").exists()
