"""What a verb hands over to the environment with llm-compressor, and what comes back.

The other interpreter is a program of ours, which says what it was asked and does as a test wants.
`test_calibrate_command.py` and `test_sweep.py` go to the real one.

We test these aspects:
- the same verb is started there, with the same arguments;
- its messages and its progress reach the user while it works, its output does not;
- its exit code is ours, without a word of our own; a signal that ended it is told;
- an environment that is missing, is none, or never answers, is told with the command that makes it.
"""

from dataclasses import replace
from pathlib import Path

import pytest

from halftone.cli.elsewhere import QUANTIZE, run_verb
from halftone.spec.errors import EnvironmentFault
from halftone.spec.names import QUANTIZE_PYTHON
from tests.builders import write_checkpoint, write_statistics
from tests.builders.datasets import text_rows, write_rows
from tests.commands import halftone, plan_directory, write_recipe
from tests.jobs import stage, write_job

PROGRESS = '{"stage": "calibrate", "stepsDone": 2, "stepsTotal": 4, "secondsLeft": 6}'
DATA = {"dataset": {"path": "rows.jsonl"}, "samples": 2}


class Work:
    """A model, its data, a plan that has to be measured, and an interpreter."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.source = write_checkpoint(folder / "model", "llama")
        write_rows(folder / "rows.jsonl", text_rows(2))
        mlp = {"Mlp": "NVFP4"}
        recipe = write_recipe(folder / "recipe.yaml", precision=mlp, calibration=DATA)
        self.plan = folder / "plan.json"
        self.planned = plan_directory(self.source, recipe)
        self.planned.full_document().save(self.plan)
        self.python = folder / "python"

    def does(self, *lines: str) -> None:
        """What the interpreter does when it is started on a verb; it has both packages."""
        asked = f'echo "$*" >> {self.folder}/asked'
        program = ("#!/bin/sh", '[ "$1" = -c ] && exit 0', asked, *lines)
        self.python.write_text("\n".join(program) + "\n")
        self.python.chmod(0o755)

    @property
    def asked(self) -> list[str]:
        """The command lines that it was started with."""
        return (self.folder / "asked").read_text().splitlines()


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Work:
    made = Work(tmp_path)
    monkeypatch.setenv(QUANTIZE_PYTHON, str(made.python))
    return made


def test_the_same_verb_with_the_same_arguments_is_started_there(
    work: Work, capfd: pytest.CaptureFixture[str]
) -> None:
    measured = write_statistics(work.planned, work.folder / "measured")
    output = work.folder / "output"
    work.does(f"echo '{PROGRESS}' >&2", f"cp -r {measured} {output}", "echo noise; echo more")

    ended = halftone("calibrate", work.plan, "--output", output)

    assert ended.code == 0, ended.err
    assert work.asked == [f"-m halftone calibrate {work.plan} --output {output}"]
    assert capfd.readouterr() == ("", f"{PROGRESS}\n")
    assert "noise" not in ended.out
    assert f"{output / 'statistics.json'}: digest " in ended.out


@pytest.mark.parametrize("code", [1, 2, 3])
def test_its_exit_code_and_its_sentence_are_all_that_is_said(
    code: int, work: Work, capfd: pytest.CaptureFixture[str]
) -> None:
    work.does("echo 'halftone: no.' >&2", f"exit {code}")

    ended = halftone("calibrate", work.plan, "--output", work.folder / "output")

    assert (ended.code, ended.out, ended.err) == (code, "", "")
    assert capfd.readouterr().err == "halftone: no.\n"


def test_a_stage_is_handed_over_with_its_work_directory(
    work: Work, capfd: pytest.CaptureFixture[str]
) -> None:
    measured = {"preset": "nvfp4-mlp", "calibration": DATA}
    write_job(work.folder, quantization=measured, publish=None)
    assert stage("plan", work.folder / "work", "--job", str(work.folder / "job.yaml")).code == 0
    work.does("echo 'halftone: no.' >&2; exit 2")

    ended = stage("calibrate", work.folder / "work")

    assert (ended.code, ended.err) == (2, "")
    assert work.asked == [f"-m halftone stage calibrate --workdir {work.folder / 'work'}"]
    assert capfd.readouterr().err == "halftone: no.\n"


def test_the_last_line_is_what_it_hands_on(work: Work) -> None:
    work.does("echo first; echo; echo last")
    assert run_verb(work.python, "stage", "validate", "--workdir", "w") == "last"
    work.does(":")
    assert run_verb(work.python, "stage", "plan") == ""


def test_a_process_that_the_system_ended_is_told(work: Work) -> None:
    work.does("kill -9 $$")

    ended = halftone("calibrate", work.plan, "--output", work.folder / "output")

    assert (ended.code, ended.out) == (3, "")
    assert "`halftone calibrate` was ended by signal 9" in ended.err
    assert "run the same command again" in ended.err


def test_an_environment_that_is_not_there_is_told_with_what_makes_it(work: Work) -> None:
    ended = halftone("calibrate", work.plan, "--output", work.folder / "output")

    assert (ended.code, ended.out) == (3, "")
    assert f"`{QUANTIZE_PYTHON}` names '{work.python}', which is not there" in ended.err
    assert "make it with `make setup`" in ended.err
    assert ended.err.count("\n") == 1
    assert not (work.folder / "output").exists()


def test_an_environment_without_the_library_is_told(work: Work) -> None:
    work.python.write_text("#!/bin/sh\nexit 1\n")
    work.python.chmod(0o755)

    ended = halftone("calibrate", work.plan, "--output", work.folder / "output")

    assert (ended.code, ended.out) == (3, "")
    assert "has no llm-compressor beside Halftone" in ended.err
    assert "make it with `make setup`" in ended.err


def test_an_interpreter_that_never_answers_is_none(work: Work) -> None:
    work.python.write_text("#!/bin/sh\nexec sleep 600\n")
    work.python.chmod(0o755)

    with pytest.raises(EnvironmentFault, match=r"cannot be run; make it with `make setup`"):
        replace(QUANTIZE, patience_s=0.5).python()
