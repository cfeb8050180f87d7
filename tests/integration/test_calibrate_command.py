"""The verb `halftone calibrate PLAN --output DIR`; one process of the other environment.

We test these aspects:
- statistics are written beside whatever lies there, told in words, as JSON and by their digest;
- `halftone quantize` takes them; the same command again measures nothing; with another plan it is
  refused and leaves them as they were;
- a plan that is none, is refused, measures nothing, or names no data, is refused with the way out.
"""

import json
from pathlib import Path

import pytest

from halftone.spec.names import QUANTIZE_PYTHON
from halftone.spec.statistics import StatisticsDocument
from tests.builders import write_checkpoint
from tests.builders.datasets import text_rows, write_rows
from tests.commands import Outcome, files_of, halftone, write_recipe
from tests.environments import ask
from tests.jobs import stage, write_job
from tests.refusals import sentence_of

BOTH = ["statistics.json", "statistics.safetensors"]


class Work:
    """A model and recipes for it; what the other environment was asked, and how it ended."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.source = write_checkpoint(folder / "model", "llama")
        write_rows(folder / "rows.jsonl", text_rows(3))
        data = {"dataset": {"path": "rows.jsonl"}, "samples": 2}
        self.recipe = write_recipe(
            folder / "both.yaml",
            precision={"Mlp": "NVFP4"},
            kvCache={"format": "FP8", "scales": "Calibrated"},
            calibration=data,
        )
        self.plan = self.planned("both", self.recipe)
        other = write_recipe(
            folder / "other.yaml", precision={"Attention": "NVFP4"}, calibration=data
        )
        self.other = self.planned("other", other)

    def planned(self, name: str, recipe: Path | str) -> Path:
        path = self.folder / f"{name}.json"
        ended = halftone("plan", self.source, "--recipe", recipe, "--output", path)
        assert ended.code == 0, ended.err
        return path


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Work:
    return Work(tmp_path_factory.mktemp("calibrate"))


@pytest.fixture(scope="module")
def ended(work: Work) -> dict[str, Outcome]:
    output = work.folder / "statistics"
    output.mkdir()
    (output / "notes.txt").write_text("mine")
    commands = {
        "first": [work.plan, "--output", output],
        "again": [work.plan, "--output", output, "--json"],
        "other plan": [work.other, "--output", output],
    }
    asked = [["calibrate", *map(str, arguments)] for arguments in commands.values()]
    answers = ask("quantize", "halftone_commands.py", asked, work=work.folder, timeout_s=150)
    return {name: Outcome(**answer) for name, answer in zip(commands, answers, strict=True)}


@pytest.mark.quantize_env
def test_statistics_are_written_beside_what_lies_there(
    work: Work, ended: dict[str, Outcome]
) -> None:
    folder = work.folder / "statistics"
    document = StatisticsDocument.load(folder / "statistics.json")
    first = ended["first"]

    assert first.code == 0, first.err
    assert sorted(files_of(folder)) == ["notes.txt", *BOTH]
    assert f"2 of 3 usable rows, {document.data[0].tokens:,} tokens" in first.out
    assert first.out.endswith(f"{folder / 'statistics.json'}: digest {document.digest}\n")
    progress = [json.loads(line) for line in first.err.splitlines()]
    assert {line["stage"] for line in progress} == {"calibrate"}
    assert progress[-1]["stepsDone"] == progress[-1]["stepsTotal"] > 0
    assert progress[-1]["secondsLeft"] == 0


@pytest.mark.quantize_env
def test_the_engine_takes_them(work: Work, ended: dict[str, Outcome], tmp_path: Path) -> None:
    options = ("--recipe", work.recipe, "--statistics", work.folder / "statistics")
    quantized = halftone("quantize", work.source, tmp_path / "small", *options)

    assert quantized.code == 0, quantized.err
    assert "Mlp: NVFP4" in quantized.out


@pytest.mark.quantize_env
def test_the_same_command_again_measures_nothing_and_says_the_same(
    work: Work, ended: dict[str, Outcome]
) -> None:
    document = StatisticsDocument.load(work.folder / "statistics" / "statistics.json")

    assert (ended["again"].code, ended["again"].err) == (0, "")
    assert json.loads(ended["again"].out) == document.model_dump(mode="json")


@pytest.mark.quantize_env
def test_statistics_of_another_plan_are_in_the_way(ended: dict[str, Outcome]) -> None:
    assert "holds statistics of another plan" in sentence_of(ended["other plan"])


# Plans that cannot be measured --------------------------------------------------------------------


@pytest.fixture
def refused(work: Work, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> "Refused":
    # It would be told if anybody went there: all of these are refused before.
    monkeypatch.setenv(QUANTIZE_PYTHON, str(tmp_path / "nobody"))
    return Refused(tmp_path / "output")


class Refused:
    def __init__(self, output: Path) -> None:
        self._output = output

    def __call__(self, plan: Path) -> str:
        sentence = sentence_of(halftone("calibrate", plan, "--output", self._output))
        assert not self._output.exists()
        return sentence


def test_a_plan_that_is_not_there_is_refused(refused: Refused, tmp_path: Path) -> None:
    assert f"'{tmp_path / 'plan.json'}' is not there" in refused(tmp_path / "plan.json")


def test_a_file_that_is_no_plan_is_refused(work: Work, refused: Refused) -> None:
    assert "is not a plan.json of this version" in refused(work.recipe)


def test_a_refused_plan_is_refused_with_its_own_sentence(
    work: Work, refused: Refused, tmp_path: Path
) -> None:
    experts = {"precision": [{"role": "Experts", "format": "NVFP4"}]}
    job = write_job(work.folder, quantization=experts, publish=None)
    planned = stage("plan", tmp_path / "work", "--job", str(job))

    assert refused(tmp_path / "work" / "plan.json") == sentence_of(planned)


def test_a_plan_that_measures_nothing_is_refused(work: Work, refused: Refused) -> None:
    sentence = refused(work.planned("free", "nvfp4a16"))

    assert "there is nothing to calibrate; go on with `halftone quantize`" in sentence


def test_a_plan_that_names_no_data_is_refused(work: Work, refused: Refused) -> None:
    sentence = refused(work.planned("mute", "nvfp4-mlp"))

    assert "names no data to measure them on" in sentence
    assert "`calibration.dataset` of a recipe file" in sentence


def test_a_source_that_is_gone_is_refused(work: Work, refused: Refused, tmp_path: Path) -> None:
    moved = write_checkpoint(tmp_path / "moved", "llama")
    plan = tmp_path / "plan.json"
    assert halftone("plan", moved, "--recipe", work.recipe, "--output", plan).code == 0
    moved.rename(tmp_path / "away")

    assert str(moved) in refused(plan)


@pytest.mark.parametrize("arguments", [[], ["plan.json"]])
def test_a_plan_and_an_output_must_be_given(arguments: list[str]) -> None:
    ended = halftone("calibrate", *arguments)

    assert ended.code == 2
    assert "Missing" in ended.err
