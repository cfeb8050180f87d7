"""`halftone quantize` with statistics or with a plan: what is looked at first, and what is said.

The statistics are made by hand. We test these aspects:
- a refused plan says why, and a data-free one needs no statistics and takes none, all unread
- `--scale-search` makes one plan of `halftone plan` and of `halftone quantize`, and is named where
  only one of the two was given it
- statistics in the output itself, in a file, or that cannot be read get a sentence
- `--plan` makes the same bytes from a source that lies elsewhere, and settles all else
- a source whose shards were written since the calibration is told of
"""

import json
import shutil
from pathlib import Path

import pytest

from halftone.plan.planning import Planned
from halftone.spec.documents import CheckpointDocument, Plan
from halftone.spec.job import Recipe, ScaleSearch
from halftone.spec.recipes import load_recipe
from tests.builders import write_checkpoint, write_statistics
from tests.commands import Outcome, files_of, halftone, plan_directory, write_recipe
from tests.refusals import sentence_of

CALIBRATED = {
    "precision": {"Mlp": "NVFP4"},
    "calibration": {"dataset": {"path": "rows.jsonl"}, "samples": 4},
}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("source") / "model", "qwen3")


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    return write_recipe(tmp_path / "recipe.yaml", **CALIBRATED)


def planned_with(source: Path, recipe: Path, search: ScaleSearch) -> Planned:
    chosen: Recipe = load_recipe(str(recipe))
    return plan_directory(source, chosen.model_copy(update={"scaleSearch": search}))


@pytest.fixture
def statistics(source: Path, recipe: Path, tmp_path: Path) -> Path:
    """Of the plan of `source` under `recipe`."""
    return write_statistics(planned_with(source, recipe, ScaleSearch.MinMax), tmp_path / "stats")


@pytest.fixture
def unreadable(tmp_path: Path) -> Path:
    """A folder whose document nobody can read, whoever runs the tests: it is a folder itself."""
    (tmp_path / "unreadable" / "statistics.json").mkdir(parents=True)
    return tmp_path / "unreadable"


def quantize(source: Path, output: Path, *options: str | Path) -> Outcome:
    return halftone("quantize", source, output, "--workers", "1", *options)


def test_a_refused_plan_says_why_before_statistics_are_read(
    source: Path, unreadable: Path, tmp_path: Path
) -> None:
    wrong = write_recipe(tmp_path / "wrong.yaml", precision={"Experts": "NVFP4"})

    ended = quantize(source, tmp_path / "out", "--recipe", wrong, "--statistics", unreadable)

    assert "quantizes Experts, but the model has the roles" in sentence_of(ended)
    assert not (tmp_path / "out").exists()


def test_a_data_free_plan_takes_no_statistics_and_reads_none(
    source: Path, unreadable: Path, tmp_path: Path
) -> None:
    options = ("--recipe", "nvfp4a16-mlp", "--statistics", unreadable)

    ended = quantize(source, tmp_path / "out", *options)

    said = sentence_of(ended)
    assert "The recipe 'nvfp4a16-mlp' is data-free on this model" in said
    assert "leave `--statistics` out" in said
    assert not (tmp_path / "out").exists()


def test_a_calibrated_plan_without_statistics_says_what_measures_them(
    source: Path, recipe: Path, tmp_path: Path
) -> None:
    ended = quantize(source, tmp_path / "out", "--recipe", recipe)

    assert "give what it wrote with `--statistics`" in sentence_of(ended)


def test_the_search_of_the_plan_is_that_of_its_statistics(
    source: Path, recipe: Path, tmp_path: Path
) -> None:
    search = ("--scale-search", "MeanSquaredError")
    plan = tmp_path / "plan.json"
    assert halftone("plan", source, "--recipe", recipe, *search, "--output", plan).code == 0
    measured = write_statistics(
        planned_with(source, recipe, ScaleSearch.MeanSquaredError), tmp_path / "stats"
    )

    without = quantize(source, tmp_path / "out", "--recipe", recipe, "--statistics", measured)

    said = sentence_of(without)
    assert "was measured for another plan" in said
    assert f"({Plan.load(plan).digest[:12]}, this one is " in said
    assert "without the `--scale-search` or `--max-shard-bytes` of this one" in said
    assert "or its file with `--plan`; or run `halftone calibrate`" in said
    both = {
        "out": ("--recipe", recipe, *search),
        "again": ("--plan", plan),
    }
    for name, options in both.items():
        ended = quantize(source, tmp_path / name, *options, "--statistics", measured)
        assert ended.code == 0, ended.err
    assert files_of(tmp_path / "out") == files_of(tmp_path / "again")
    document = CheckpointDocument.load(tmp_path / "out" / "checkpoint.json")
    assert document.planDigest == Plan.load(plan).digest


def test_a_search_that_was_not_planned_with_is_named(
    source: Path, recipe: Path, statistics: Path, tmp_path: Path
) -> None:
    options = ("--recipe", recipe, "--scale-search", "Exhaustive", "--statistics", statistics)

    assert "`--scale-search`" in sentence_of(quantize(source, tmp_path / "out", *options))


def test_statistics_are_no_place_for_the_checkpoint(
    source: Path, recipe: Path, statistics: Path, tmp_path: Path
) -> None:
    link = tmp_path / "link"
    link.symlink_to(statistics)
    before = files_of(statistics)
    for output in (statistics, link):
        ended = quantize(source, output, "--recipe", recipe, "--statistics", statistics)
        assert sentence_of(ended) == (
            f"'{output}' is the directory of `--statistics` too; give the checkpoint another one."
        )
    assert files_of(statistics) == before
    inside = quantize(source, statistics / "out", "--recipe", recipe, "--statistics", statistics)
    assert inside.code == 0, inside.err


def test_statistics_in_a_file_or_nowhere_are_told(
    source: Path, recipe: Path, statistics: Path, tmp_path: Path
) -> None:
    file = statistics / "statistics.json"
    for place, said in ((file, f"Directory '{file}' is a file."), (tmp_path / "x", "not exist.")):
        ended = quantize(source, tmp_path / "out", "--recipe", recipe, "--statistics", place)
        assert ended.code == 2
        assert said in ended.err
        assert not (tmp_path / "out").exists()


def test_statistics_that_cannot_be_read_are_a_fault_of_the_place(
    source: Path, recipe: Path, unreadable: Path, tmp_path: Path
) -> None:
    ended = quantize(source, tmp_path / "out", "--recipe", recipe, "--statistics", unreadable)

    path = unreadable / "statistics.json"
    told = f"halftone: '{path}' cannot be read (Is a directory); mend this and try again.\n"
    assert (ended.code, ended.failure) == (3, told)
    assert not (tmp_path / "out").exists()


def test_a_plan_is_carried_out_wherever_its_source_lies(
    source: Path, recipe: Path, statistics: Path, tmp_path: Path
) -> None:
    plan = tmp_path / "plan.json"
    assert halftone("plan", source, "--recipe", recipe, "--output", plan).code == 0
    first = quantize(source, tmp_path / "out", "--recipe", recipe, "--statistics", statistics)
    assert first.code == 0, first.err
    moved = shutil.copytree(source, tmp_path / "elsewhere" / "copy")

    ended = quantize(moved, tmp_path / "again", "--plan", plan, "--statistics", statistics)

    assert ended.code == 0, ended.err
    assert files_of(tmp_path / "again") == files_of(tmp_path / "out")
    other = write_checkpoint(tmp_path / "other", "llama")
    wrong = quantize(other, tmp_path / "wrong", "--plan", plan, "--statistics", statistics)
    assert "is not the file that the plan was made for" in sentence_of(wrong)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "Give one of `--recipe` and `--plan`."),
        (["--recipe", "nvfp4a16", "--plan", "plan.json"], "Give one of `--recipe` and `--plan`."),
        (["--plan", "plan.json", "--scale-search", "MinMax"], "settled in the file of `--plan`"),
        (["--plan", "plan.json", "--max-shard-bytes", "9"], "settled in the file of `--plan`"),
    ],
)
def test_a_plan_settles_what_a_recipe_would(
    options: list[str], said: str, source: Path, tmp_path: Path
) -> None:
    ended = quantize(source, tmp_path / "out", *options)

    assert ended.code == 2
    assert said in " ".join(ended.err.split())


def test_a_plan_that_was_refused_says_why_again(source: Path, tmp_path: Path) -> None:
    refused = plan_directory(source, load_recipe("nvfp4a16"), precision=())
    refused.plan.save(tmp_path / "plan.json")

    ended = quantize(source, tmp_path / "out", "--plan", tmp_path / "plan.json")

    assert refused.plan.refusal is not None
    assert sentence_of(ended) == refused.plan.refusal.message


def test_shards_that_were_written_since_are_told_of(
    source: Path, recipe: Path, statistics: Path, tmp_path: Path
) -> None:
    document = json.loads((statistics / "statistics.json").read_text())
    for stamp, warned in (("f" * 64, True), (None, False)):
        (statistics / "statistics.json").write_text(json.dumps(document | {"sourceStamp": stamp}))
        ended = quantize(
            source, tmp_path / str(warned), "--recipe", recipe, "--statistics", statistics
        )
        assert ended.code == 0, ended.err
        assert ("unless it is a copy, calibrate again" in ended.err) is warned
