"""Validating what has a report already, from two sides at once, and where vLLM is not.

We test these aspects:
- a report is taken again only while nothing that decided it has changed
- one process at a time validates a work directory
- what could only fail after everything else was measured is refused first
- an interpreter that cannot serve is named, and is not asked to ask another
"""

import fcntl
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from time import monotonic, sleep
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest

from halftone.spec.names import SERVE_PYTHON
from halftone.spec.reports import Platform, Report
from halftone.stores import open_source
from halftone.validate import earlier
from halftone.validate.engine_gates import SourceAnswers
from halftone.validate.serving.prompts import prompt_set
from halftone.validate.serving.session import EngineOptions
from tests.commands import halftone
from tests.jobs import make_project, run, stage, stamps, write_job

if TYPE_CHECKING:
    from halftone.validate.validating import Subject

LOADS = {"name": "loads", "metric": "EngineLoads"}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return make_project(tmp_path / "project")


@pytest.fixture
def work(project: Path, tmp_path: Path) -> Path:
    """A work directory whose job has been run, gates and all."""
    write_job(project, publish=None)
    assert run(project, tmp_path / "work").code == 0
    return tmp_path / "work"


def flip(path: Path, at: int = -5) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 0x40
    path.write_bytes(data)


def test_a_damaged_checkpoint_keeps_neither_its_good_report_nor_later_its_bad_one(
    work: Path,
) -> None:
    """The byte is one of a code, which no other gate would notice."""
    shard = work / "checkpoint" / "model.safetensors"
    flip(shard)

    damaged = stage("validate", work)

    assert damaged.code == 1
    assert "'model.safetensors' is not the file whose SHA-256" in damaged.err
    [structure] = [g for g in Report.load(work / "report.json").gates if g.name == "structure"]
    assert structure.culprit == "model.safetensors"
    flip(shard)
    assert stage("validate", work).code == 0


def test_a_shard_that_nobody_planned_is_found(work: Path) -> None:
    """Without an index vLLM loads it beside the others, over the weights of the same names."""
    shard = work / "checkpoint" / "model.safetensors"
    (work / "checkpoint" / "zz.safetensors").write_bytes(shard.read_bytes())

    ended = stage("validate", work)

    assert ended.code == 1
    assert "'zz.safetensors' lies in the checkpoint, but" in ended.err


@pytest.mark.parametrize(
    "change",
    [
        lambda work: flip(work / "evidence" / "weight-error.json"),
        lambda work: (work / "evidence" / "structure.json").unlink(),
        lambda work: (work / "report.html").unlink(),
        lambda work: (work.parent / "project" / "model" / "model.safetensors").touch(),
    ],
    ids=["evidence edited", "evidence gone", "page gone", "source written again"],
)
def test_a_report_whose_ground_has_changed_is_made_anew(
    work: Path, change: Callable[[Path], object]
) -> None:
    before = stamps(work)["report.json"]
    change(work)

    assert stage("validate", work).code == 0

    assert stamps(work)["report.json"] != before
    again = stamps(work)["report.json"]
    assert stage("validate", work).code == 0
    assert stamps(work)["report.json"] == again


@pytest.mark.parametrize(
    ("engine", "emulated", "device", "taken"),
    [
        ("vllm 0.32.0+cpu", True, "CPU of another host", True),
        ("vllm 0.31.0+cpu", True, "CPU", False),
        ("vllm 0.32.0+cpu", False, "NVIDIA H100 80GB HBM3", True),
        ("vllm 0.32.0+cpu", False, "NVIDIA B200", False),
    ],
)
def test_a_report_of_another_engine_or_gpu_is_not_taken(
    engine: str,
    emulated: bool,
    device: str,
    taken: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "0000:01").mkdir()
    (tmp_path / "0000:01" / "information").write_text("Model: \t\t NVIDIA H100 80GB HBM3\nIRQ: 7\n")
    monkeypatch.setattr(earlier, "_DEVICES", tmp_path)
    monkeypatch.setattr(earlier, "version", lambda _name: "0.32.0+cpu")
    platform = Platform(device=device, emulated=emulated, engine=engine)

    assert earlier._is_here(platform) is taken
    assert not earlier._is_here(None)


def test_what_a_source_scored_on_one_gpu_is_not_taken_for_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Machines with the same number of GPUs may share a cache."""
    model = tmp_path / "model"
    for folder in (model, tmp_path / "0000:01"):
        folder.mkdir()
    monkeypatch.setattr(earlier, "_DEVICES", tmp_path)
    source = open_source(model)
    keys = []
    for name in ("NVIDIA H100 80GB HBM3", "NVIDIA B200"):
        (tmp_path / "0000:01" / "information").write_text(f"Model: \t\t {name}\n")
        subject = cast("Subject", SimpleNamespace(workdir=tmp_path, source=source))
        answers = SourceAnswers(subject, [], model, prompt_set(None, sees=False), EngineOptions())
        keys.append(answers._key({"task": "gsm8k"}))
    assert keys[0] != keys[1]


def test_one_process_at_a_time_validates_a_work_directory(work: Path) -> None:
    before = stamps(work)["report.json"]
    with (work / ".validate.lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        ended = stage("validate", work)

    assert ended.code == 3
    assert f"Another process is validating '{work}'" in ended.err
    assert stamps(work)["report.json"] == before
    assert stage("validate", work).code == 0


@pytest.mark.parametrize(
    ("validation", "told"),
    [
        ({"gates": [], "promptFile": "none.jsonl"}, "a relative path starts at the folder"),
        ({"gates": [], "promptFile": "job.yaml"}, "Line 1 of `job.yaml` is no JSON object"),
        (
            {"gates": [{**LOADS, "metric": "Task", "task": "gsm8k", "minRecoveryPercent": 100}]},
            "leave a margin",
        ),
    ],
)
def test_what_cannot_be_decided_is_refused_before_any_work(
    validation: dict[str, object], told: str, project: Path, work: Path, tmp_path: Path
) -> None:
    job = write_job(project, publish=None, validation=validation)
    report = stamps(work)["report.json"]

    planned = halftone("stage", "plan", "--workdir", tmp_path / "new", "--job", job)
    validated = halftone("validate", work, "--job", job)

    assert (planned.code, validated.code) == (2, 2)
    assert told in planned.err
    assert told in validated.err
    assert not (tmp_path / "new" / "plan.json").exists()
    assert stamps(work)["report.json"] == report


@pytest.mark.parametrize("python", [sys.executable, "/usr/bin/env", "/etc/passwd"])
def test_an_interpreter_that_cannot_serve_is_named(
    python: str, project: Path, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ours has no vLLM: asked to validate, it would look for another, and find itself."""
    write_job(project, publish=None, validation={"gates": [LOADS]})
    monkeypatch.setenv(SERVE_PYTHON, python)

    ended = halftone("validate", work, "--job", project / "job.yaml")

    assert ended.code == 3
    assert f"`{SERVE_PYTHON}` names '{python}', which has no vLLM beside Halftone" in ended.err
    assert "make setup" in ended.err


def test_a_stage_elsewhere_ends_with_the_command_that_started_it(tmp_path: Path) -> None:
    """Else it would go on alone, and the next run would find the work directory taken."""
    program = tmp_path / "python"
    program.write_text(f"#!/bin/sh\necho $$ > {tmp_path}/pid\nexec sleep 600\n")
    program.chmod(0o755)
    started = (
        "from pathlib import Path; from halftone.cli.elsewhere import run_stage\n"
        f"run_stage('validate', Path('work'), Path({str(program)!r}))"
    )
    with subprocess.Popen([sys.executable, "-c", started]) as parent:
        wait_for(lambda: (tmp_path / "pid").is_file() and (tmp_path / "pid").read_text().strip())
        parent.kill()

    command_line = Path("/proc") / (tmp_path / "pid").read_text().strip() / "cmdline"
    wait_for(lambda: not command_line.exists() or "sleep" not in command_line.read_text())


def wait_for(condition: Callable[[], object]) -> None:
    deadline = monotonic() + 240
    while not condition():
        assert monotonic() < deadline
        sleep(0.02)
