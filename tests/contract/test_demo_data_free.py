"""The commands of `make demo-data-free`, as its job names them, and what they leave behind.

We test these aspects:
- `make` runs the commands that the job's first lines print, and makes no environment but `.venv`;
- run in an empty folder they end with status 0 and need neither torch nor vLLM;
- what they made: a smaller checkpoint with a report that passed, signed, and a page;
- the second command again goes on from what is there and changes nothing;
- `verify` finds one changed byte, and another key.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.jobs import stamps
from tools import examples

JOB = Path("examples", "pocket-model", "data-free.yaml")
COMMANDS = examples.commands(ROOT / JOB)
ARTIFACT = Path("build", "pocket-model-data-free")

# Stands before the program: whoever imports one of these has failed.
_WITHOUT = """
import sys
sys.modules.update(dict.fromkeys(("torch", "vllm", "ray", "transformers", "llmcompressor")))
from halftone.cli.main import main
main(sys.argv[1:])
"""


def ran(line: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """`halftone …` in `folder`, in a process that has none of the heavy packages."""
    words = shlex.split(line)[1:]
    # A child of the test's own interpreter finds the package where this process has it.
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-c", _WITHOUT, *words]
    return subprocess.run(
        command, cwd=folder, env=environ, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A folder in which the commands ran, and what each printed."""
    folder = tmp_path_factory.mktemp("clone")
    shutil.copytree(ROOT / JOB.parent, folder / JOB.parent)
    (folder / "build").mkdir()
    said = []
    for line in COMMANDS:
        ended = ran(line, folder)
        assert ended.returncode == 0, ended.stderr
        said.append(ended.stdout)
    return folder, said


def test_make_runs_the_commands_that_the_job_names() -> None:
    text = (ROOT / "Makefile").read_text()
    found = re.search(r"(?m)^demo-data-free: (.*) ## .*\n((?:\t.*\n)+)", text)
    assert found is not None
    assert found[1] == "$(DEV)"
    lines = [line.strip() for line in found[2].splitlines()]
    first = lines[0].removeprefix("mkdir -p build && test -f build/demo-key || ")
    assert [line.replace("$(VENV)/", "") for line in (first, *lines[1:])] == COMMANDS
    assert str(JOB) in (ROOT / "README.md").read_text()


def test_the_artifact_is_whole_smaller_and_passed(made: tuple[Path, list[str]]) -> None:
    folder, (_, told, verified) = made
    artifact = json.loads((folder / ARTIFACT / "artifact.json").read_text())
    report = json.loads((folder / ARTIFACT / "report.json").read_text())
    assert report["verdict"] == "Passed"
    assert {gate["name"] for gate in report["gates"]} == {"structure", "weights"}
    weights = sum(path.stat().st_size for path in (folder / ARTIFACT).glob("*.safetensors"))
    source = folder / JOB.parent / "checkpoint"
    assert weights < sum(path.stat().st_size for path in source.glob("*.safetensors"))
    listed = {entry["path"] for entry in artifact["files"]}
    there = {path.name for path in (folder / ARTIFACT).rglob("*") if path.is_file()}
    assert {Path(name).name for name in listed} <= there
    assert (folder / "build" / "demo-data-free" / "report.html").is_file()
    assert "verdict Passed" in told
    assert "signature: valid" in verified
    assert "rebuilt 20 of " in verified


def test_a_second_run_changes_nothing(made: tuple[Path, list[str]]) -> None:
    folder, _ = made
    before = stamps(folder / ARTIFACT)
    again = ran(COMMANDS[1], folder)
    assert again.returncode == 0, again.stderr
    assert stamps(folder / ARTIFACT) == before


def test_a_changed_byte_and_another_key_are_found(
    made: tuple[Path, list[str]], tmp_path: Path
) -> None:
    folder, _ = made
    shutil.copytree(folder / "build", tmp_path / "build")
    shutil.copytree(folder / JOB.parent, tmp_path / JOB.parent)
    assert ran("halftone keygen build/another", tmp_path).returncode == 0
    line = COMMANDS[2]
    other = ran(line.replace("demo-key.pub", "another.pub"), tmp_path)
    assert other.returncode == 1
    assert "key" in other.stderr
    weights = next((tmp_path / ARTIFACT).glob("*.safetensors"))
    with weights.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        last = file.read(1)
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last[0] ^ 1]))
    changed = ran(line, tmp_path)
    assert changed.returncode == 1
    assert weights.name in changed.stderr
