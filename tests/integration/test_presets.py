"""The calibrated presets, from a job to a published folder that vLLM loads, on tiny models.

One process measures all of them, and one of vLLM loads all that was published; gates here read
files. We test these aspects of `nvfp4-mlp` on Gemma 4, `nvfp4-language` and
`nvfp4-language-fp8-linear-attention` on Qwen3.5 with its vision, and `fp8-block-a16`:
- plan, calibrate, quantize, validate and publish each end well, images and texts measured together
- the report and the card say what was measured on, and no folder of this machine
- the artifact carries its statistics, bound by digests and by provenance; it verifies, and groups
  made again from the source with those statistics are equal
- an artifact without its statistics, with others, or with one byte changed does not verify
- vLLM loads the published folder although it holds safetensors of another kind in a folder, and
  answers as it does for the checkpoint
"""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from halftone.spec.documents import CheckpointDocument
from halftone.spec.reports import Report
from halftone.spec.statistics import StatisticsDocument
from tests.artifacts import flip, reseal
from tests.builders import tiny_config, write_checkpoint
from tests.builders.datasets import chat_rows, text_rows, write_images, write_rows
from tests.commands import halftone
from tests.environments import ask
from tests.jobs import publish, stage, write_job

pytestmark = pytest.mark.quantize_env

PROMPT = [[11, 45, 87, 200, 301, 52]]


@dataclass(frozen=True)
class Case:
    """A preset, the tiny model that it is for, and what is measured."""

    preset: str
    model: str
    changes: dict[str, Any] = field(default_factory=dict)
    modalities: tuple[str, ...] = ("Text", "Image")
    mended: bool = False  # vLLM 0.32 as released does not load weight-only FP8 blocks


CASES = {
    case.preset: case
    for case in (
        Case("nvfp4-mlp", "gemma4_unified"),
        Case("nvfp4-language", "qwen3_5"),
        Case("nvfp4-language-fp8-linear-attention", "qwen3_5"),
        Case("fp8-block-a16", "qwen3", {"hidden_size": 256}, ("Text",), mended=True),
    )
}
FORMATS = {
    "nvfp4-mlp": ("modelopt", {"NVFP4"}),
    "nvfp4-language": ("modelopt", {"NVFP4"}),
    "nvfp4-language-fp8-linear-attention": ("compressed-tensors", {"NVFP4", "FP8_DYNAMIC"}),
    "fp8-block-a16": ("compressed-tensors", {"FP8_BLOCK_A16"}),
}


@dataclass(frozen=True)
class Project:
    """A job and everything that became of it."""

    folder: Path

    @property
    def work(self) -> Path:
        return self.folder / "work"

    @property
    def published(self) -> Path:
        return self.folder / "published" / "small"

    @property
    def source(self) -> Path:
        return self.folder / "model"


@pytest.fixture(scope="module")
def projects(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Project]:
    """All presets, published."""
    made = {name: Project(tmp_path_factory.mktemp("private") / name) for name in CASES}
    for name, project in made.items():
        _plan(CASES[name], project)
    measured = [["stage", "calibrate", "--workdir", str(p.work)] for p in made.values()]
    work = tmp_path_factory.mktemp("request")
    for answer in ask("quantize", "halftone_commands.py", measured, work=work, timeout_s=280):
        assert answer["code"] == 0, answer["err"]
    for project in made.values():
        for name in ("quantize", "validate"):
            done = stage(name, project.work)
            assert done.code == 0, done.err
        done = publish(project.work)
        assert done.code == 0, done.err
    return made


def _plan(case: Case, project: Project) -> None:
    """A model, data beside it, and a plan."""
    write_checkpoint(project.source, tiny_config(case.model, **case.changes))
    images = write_images(project.folder / "data" / "images", 2)
    rows = [*text_rows(6), *chat_rows(2)]
    rows += chat_rows(4, images=images) if "Image" in case.modalities else []
    write_rows(project.folder / "data" / "rows.jsonl", rows)
    calibration = {
        "dataset": {"path": "data/rows.jsonl"},
        "samples": 4,
        "maxSequenceLength": 256,
        "modalities": list(case.modalities),
    }
    job = write_job(
        project.folder,
        quantization={"preset": case.preset, "calibration": calibration},
        validation={"gates": [{"name": "weights", "metric": "WeightError", "maximum": "0.12"}]},
    )
    done = halftone("stage", "plan", "--workdir", project.work, "--job", job)
    assert done.code == 0, done.err


@pytest.fixture(params=CASES)
def project(request: pytest.FixtureRequest, projects: dict[str, Project]) -> Project:
    return projects[request.param]


def test_the_report_says_what_was_measured_on(project: Project) -> None:
    report = Report.load(project.work / "report.json")
    case = CASES[project.folder.name]
    assert (report.verdict, report.method) == ("Passed", "Calibrated")
    assert [data.modality for data in report.calibration] == list(case.modalities)
    for data in report.calibration:
        assert (data.uri, data.samples) == ("rows.jsonl", 4)
        assert data.images == (4 if data.modality == "Image" else 0)
        assert data.tokens > 0
    page = (project.work / "report.html").read_text()
    assert "Calibrated on" in page
    assert "of rows.jsonl (Text)" in page
    assert all(data.sha256 in page for data in report.calibration)


def test_the_card_names_the_data_and_no_folder_of_this_machine(project: Project) -> None:
    card = (project.published / "README.md").read_text()
    report = Report.load(project.work / "report.json")
    assert "## What it was calibrated on" in card
    assert "`rows.jsonl`" in card
    assert "path: rows.jsonl" in card
    for data in report.calibration:
        assert f"| {data.tokens:,} |" in card
        assert data.sha256 in card
    assert str(project.folder.parent) not in card.replace(str(project.published), "")


def test_formats_and_layout_are_the_presets_own(project: Project) -> None:
    method, formats = FORMATS[project.folder.name]
    inspected = halftone("inspect", project.published, "--source", project.source, "--json")
    assert inspected.code == 0, inspected.err
    found = json.loads(inspected.out)
    assert found["quantMethod"] == method
    assert found["defects"] == found["warnings"] == []
    assert {role["format"] for role in found["roles"]} - {"BF16", "F32"} == formats
    assert (project.published / "hf_quant_config.json").is_file() is (method == "modelopt")


def test_the_artifact_carries_the_statistics_that_its_scales_came_from(project: Project) -> None:
    statistics = StatisticsDocument.load(project.published / "calibration" / "statistics.json")
    document = CheckpointDocument.load(project.published / "checkpoint.json")
    assert document.statisticsDigest == statistics.digest == statistics.compute_digest()
    data = (project.published / "calibration" / "statistics.safetensors").read_bytes()
    assert sha256(data).hexdigest() == statistics.file.sha256
    statement = json.loads((project.published / "provenance.json").read_text())
    rows = statement["predicate"]["buildDefinition"]["resolvedDependencies"]
    named = {row.get("name"): row for row in rows}
    tensors = named["calibration/statistics.safetensors"]
    assert tensors["digest"]["sha256"] == statistics.file.sha256
    assert [row["digest"]["samplesSha256"] for row in rows if row.get("name") == "rows.jsonl"] == [
        part.sha256 for part in statistics.data
    ]
    assert "calibration/statistics.json" in named


def test_it_verifies_and_its_groups_are_made_again(project: Project) -> None:
    ended = halftone(
        "verify", project.published, "--rebuild", "1000", "--source", project.source, "--json"
    )
    assert ended.code == 0, ended.err
    found = json.loads(ended.out)
    document = CheckpointDocument.load(project.published / "checkpoint.json")
    assert found["statisticsDigest"] == document.statisticsDigest
    assert found["rebuilt"]["of"] == len(found["rebuilt"]["groups"])
    measured = [name for name in found["rebuilt"]["groups"] if name.endswith("_scale")]
    assert bool(measured) is (project.folder.name in {"nvfp4-mlp", "fp8-block-a16"})


def _without(artifact: Path) -> None:
    (artifact / "calibration" / "statistics.json").unlink()


def _others(artifact: Path) -> None:
    path = artifact / "calibration" / "statistics.json"
    document = StatisticsDocument.load(path).model_copy(update={"seed": 7})
    document.sealed().save(path)


def _beside(artifact: Path) -> None:
    (artifact / "calibration" / "more.safetensors").write_bytes(b"more")


@pytest.mark.parametrize(
    ("change", "subject"),
    [
        (_without, "calibration/statistics.json"),
        (_others, "statistics.json"),
        (_beside, "calibration/more.safetensors"),
        (
            lambda a: flip(a / "calibration" / "statistics.safetensors", -1),
            "calibration/statistics.safetensors",
        ),
    ],
    ids=["without", "others", "one more", "a changed one"],
)
def test_an_artifact_with_other_statistics_does_not_verify(
    projects: dict[str, Project], tmp_path: Path, change: Callable[[Path], None], subject: str
) -> None:
    artifact = tmp_path / "forged"
    shutil.copytree(projects["nvfp4-mlp"].published, artifact)
    change(artifact)
    reseal(artifact)  # all that takes no key

    ended = halftone("verify", artifact, "--json")

    assert ended.code == 1
    assert json.loads(ended.out)["subject"] == subject


def test_statistics_that_were_edited_publish_nothing(
    projects: dict[str, Project], tmp_path: Path
) -> None:
    work = tmp_path / "work"
    shutil.copytree(
        projects["nvfp4-language"].work, work, ignore=shutil.ignore_patterns("artifact*")
    )
    _edit(work / "statistics.json")

    ended = publish(work)

    assert ended.code == 2
    assert "statistics.json does not belong to the documents beside it" in ended.err


def _edit(path: Path) -> None:
    document = StatisticsDocument.load(path)
    document.model_copy(update={"seed": 7}).sealed().save(path)


@pytest.mark.serve_env
def test_vllm_loads_what_was_published(projects: dict[str, Project], tmp_path: Path) -> None:
    """Once as it was published and once as the bare checkpoint: the answers are the same."""
    cases = [
        {
            "directory": str(folder),
            "prompts": PROMPT,
            "activations": {},
            "cache": {},
            "modal": CASES[name].model != "qwen3",
            "mended": CASES[name].mended,
        }
        for name, project in projects.items()
        for folder in (project.published, project.work / "checkpoint")
    ]
    answers = ask("serve", "engine_linear.py", cases, work=tmp_path, timeout_s=280)
    for case, answer in zip(cases, answers, strict=True):
        assert answer["error"] is None, (case["directory"], answer["error"])
        assert answer["kernels"]
    pairs = zip(answers[::2], answers[1::2], strict=True)
    assert all(one["logProbabilities"] == other["logProbabilities"] for one, other in pairs)
