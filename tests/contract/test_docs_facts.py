"""What pages say of the code is so: gates, verdicts, extras, rooms, families and compared figures.

We test these aspects:
- docs/gates.md lists every metric in the order in which gates run, its fields, and whether it needs
  vLLM; every outcome; every verdict, and whether it publishes;
- docs/install.md explains every extra and every image, docs/concepts.md every room; tags of images
  in a command are of this version;
- README.md names every family of models and every format, and its figures beside others stand in
  the page that it names as their source.
"""

import re
import tomllib

import pytest

import halftone
from halftone.checkpoint.architectures import ARCHITECTURES
from halftone.spec import gates
from halftone.spec.formats import Format
from halftone.spec.gates import ENGINE_METRICS, METRIC_ORDER, Metric
from halftone.spec.recipes import presets
from halftone.spec.reports import PUBLISHABLE, Outcome, Verdict
from tests.conftest import ROOT
from tools.images import IMAGES

README = (ROOT / "README.md").read_text()
GATES = (ROOT / "docs" / "gates.md").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def section(text: str, title: str) -> str:
    """What stands under a heading of the second level."""
    found = text.partition(f"\n## {title}\n")[2]
    assert found, title
    return found.partition("\n## ")[0]


def rows(text: str) -> list[list[str]]:
    """Cells of the tables of a text, without heads and the rules below them."""
    lines = [line.strip().strip("|").split("|") for line in text.splitlines() if line[:1] == "|"]
    cells = [[cell.strip() for cell in line] for line in lines]
    is_rule = [row[0].startswith("---") for row in cells]
    below = [*is_rule[1:], False]
    return [row for row, rule, head in zip(cells, is_rule, below, strict=True) if not rule | head]


def words(cell: str) -> list[str]:
    """Everything in backquotes."""
    return re.findall(r"`([^`]+)`", cell)


def test_every_metric_is_explained() -> None:
    told = rows(section(GATES, "What can be measured"))
    assert [words(row[0])[0] for row in told] == list(METRIC_ORDER)
    for name, limits, engine, _ in told:
        metric = Metric(words(name)[0])
        assert (engine == "yes") is (metric in ENGINE_METRICS), name
        model = getattr(gates, metric, None)
        fields = set(model.model_fields) - {"name", "metric"} if model else set()
        assert set(words(limits)) == fields, name


def test_every_outcome_and_every_verdict_is_explained() -> None:
    outcomes = rows(section(GATES, "How a gate judges"))
    assert [words(row[0])[0] for row in outcomes] == list(Outcome)
    verdicts = rows(section(GATES, "The verdict"))
    assert [words(row[0])[0] for row in verdicts] == list(Verdict)
    assert {words(row[0])[0] for row in verdicts if row[2] == "yes"} == PUBLISHABLE


def test_every_extra_is_explained() -> None:
    text = (ROOT / "docs" / "install.md").read_text()
    told = [words(row[0])[0] for row in rows(section(text, "On your machine"))]
    assert sorted(told) == sorted(PROJECT["project"]["optional-dependencies"])


def test_every_image_is_explained() -> None:
    text = (ROOT / "docs" / "install.md").read_text()
    told = {
        (name, words(folder)[0], target)
        for names, folder, targets, _ in rows(section(text, "Images"))
        for name, target in zip(words(names), words(targets), strict=True)
    }
    assert told == {(name, one.folder, one.target) for name, one in IMAGES.items()}


def test_tags_of_images_are_of_this_version() -> None:
    pages = [*(ROOT / "docs").glob("*.md"), *(ROOT / "examples").rglob("*.md")]
    tags = {
        tag for page in pages for tag in re.findall(r"halftone-[a-z]+:(\d[\w.]*)", page.read_text())
    }
    assert tags == {halftone.__version__}


def test_every_room_has_its_paragraph() -> None:
    text = (ROOT / "docs" / "concepts.md").read_text()
    told = {
        one for heads in re.findall(r"(?m)^\*\*.+?\*\* \((.+?)\)", text) for one in words(heads)
    }
    layers = next(
        one for one in PROJECT["tool"]["importlinter"]["contracts"] if one["id"] == "layers"
    )
    rooms = {room for layer in layers["layers"] for room in re.findall(r"\w+", layer)}
    assert told == rooms | {"recipes", "operators", "pipelines"}
    assert len(presets()) == 9, "docs/concepts.md says how many presets there are"


def test_the_readme_names_what_there_is() -> None:
    told = section(README, "What it can read and write")
    families = {name for one in ARCHITECTURES for name in one.model_types}
    listed = next(row[1] for row in rows(told) if row[0] == "models")
    assert set(re.split(r" · ", listed)) <= families
    formats = next(row[1] for row in rows(told) if row[0] == "formats")
    assert {one for one in Format if not re.search(rf"\b{one}\b", formats)} == set()


COMPARED = rows(section(README, "Beside others"))


@pytest.mark.parametrize("row", COMPARED, ids=lambda row: f"{row[0]}: {row[1]}")
def test_a_figure_beside_others_stands_in_its_source(row: list[str]) -> None:
    figures = re.findall(r"\d+\.\d+|\d+(?= [%s]\b)", f"{row[2]} {row[3]}")
    sources = re.findall(r"\]\((docs/[\w-]+\.md)\)", row[4])
    assert not figures or sources, "a figure needs a page as its source"
    told = "".join((ROOT / name).read_text() for name in sources)
    there = set(re.findall(r"\d+(?:\.\d+)?", told))
    assert [one for one in figures if one not in there] == []
    assert row[4], "whoever compares says where it is from"


def test_there_are_peers_and_figures() -> None:
    peers = " ".join(row[0] for row in COMPARED)
    for name in ("model_free_ptq", "oneshot", "ModelOpt", "production-stack", "llm-d"):
        assert name in peers
    assert sum(len(re.findall(r"\d\.?\d* [%s]", row[2])) for row in COMPARED) >= 6
