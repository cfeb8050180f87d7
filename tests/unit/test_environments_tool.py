"""The tool that makes environments: when it works, in which order, and what a fault leaves.

The tool is copied into an empty checkout and run there as a process, as `make` runs it. A script
stands for uv and for the interpreters; it writes down how it was called and installs nothing. What
the real uv does with these calls is seen by `make setup`.
"""

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tools.environments import interpreter

# Writes a wheel where hatchling would; fails when it is given a file with the line `broken`.
STAND_IN = """#!/bin/sh
echo "$(basename "$0") $*" >> "{log}"
for word; do
    if [ "$last" = --directory ]; then : > "$word/halftone-0-py3-none-any.whl"; fi
    if [ -f "$word" ] && grep -qx broken "$word"; then echo "no such pin" >&2; exit 7; fi
    last=$word
done
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout with the tool, pins, a stand-in for uv and two environments that were not made."""
    (tmp_path / "tools").mkdir()
    for name in ("__init__.py", "environments.py", "requirements.py"):
        shutil.copy(ROOT / "tools" / name, tmp_path / "tools" / name)
    (tmp_path / "requirements").mkdir()
    for name in ("dev", "serve"):
        (tmp_path / "requirements" / f"{name}.txt").write_text("numba==0.68.1\n")
    (tmp_path / "stubs" / "vllm-dist").mkdir(parents=True)
    for folder in (".tools/uv", ".venv", ".venvs/serve"):
        name = "uv" if folder == ".tools/uv" else "python"
        program = tmp_path / folder / "bin" / name
        program.parent.mkdir(parents=True)
        program.write_text(STAND_IN.format(log=tmp_path / "log"))
        program.chmod(0o755)
    return tmp_path


def make(checkout: Path, *names: str) -> subprocess.CompletedProcess[str]:
    """Run the tool as the Makefile does."""
    command = [sys.executable, "-m", "tools.environments", *names]
    return subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=False)


def calls(checkout: Path) -> list[str]:
    """What was asked of uv and of hatchling since the last question: the words that decide."""
    log = checkout / "log"
    lines = log.read_text().splitlines() if log.exists() else []
    log.unlink(missing_ok=True)
    return [" ".join(line.split()[1:3]) for line in lines]


def digest(checkout: Path, name: str) -> str:
    return hashlib.sha256((checkout / "requirements" / f"{name}.txt").read_bytes()).hexdigest()


BUILD = "-m hatchling"
INSTALL_SOURCES = [BUILD, "pip install"]


def test_a_new_environment_gets_its_pins_then_the_checkout_then_its_stamp(checkout: Path) -> None:
    done = make(checkout, "dev")

    assert done.returncode == 0, done.stderr
    assert done.stdout == "making .venv …\n"
    assert calls(checkout) == ["pip sync", *INSTALL_SOURCES]
    assert (checkout / ".venv" / "ready").read_text() == digest(checkout, "dev")


def test_pins_are_synced_with_their_hashes_from_the_environments_own_file(checkout: Path) -> None:
    make(checkout, "dev")

    sync = next(line for line in (checkout / "log").read_text().splitlines() if " sync " in line)
    assert "--require-hashes" in sync.split()
    assert f"--python {checkout}/.venv/bin/python" in sync
    assert sync.endswith(f"{checkout}/requirements/dev.txt")


def test_a_stamp_equal_to_the_digest_means_that_nothing_is_synced(checkout: Path) -> None:
    (checkout / ".venv" / "ready").write_text(digest(checkout, "dev"))

    done = make(checkout, "dev")

    assert (done.returncode, done.stdout) == (0, "")
    assert calls(checkout) == INSTALL_SOURCES
    assert (checkout / ".venv" / "ready").read_text() == digest(checkout, "dev")


def test_a_changed_requirement_file_means_work_again(checkout: Path) -> None:
    make(checkout, "dev")
    before = digest(checkout, "dev")
    calls(checkout)
    (checkout / "requirements" / "dev.txt").write_text("numba==0.69\n")

    done = make(checkout, "dev")

    assert done.stdout == "making .venv …\n"
    assert calls(checkout) == ["pip sync", *INSTALL_SOURCES]
    assert (checkout / ".venv" / "ready").read_text() == digest(checkout, "dev") != before


def test_stubs_are_built_into_the_environment_that_needs_them(checkout: Path) -> None:
    assert make(checkout, "serve").returncode == 0

    assert calls(checkout) == ["pip sync", BUILD, BUILD, "pip install"]


def test_a_missing_interpreter_is_made_first(checkout: Path) -> None:
    (checkout / ".venvs" / "serve" / "bin" / "python").unlink()

    assert make(checkout, "serve").returncode == 0

    assert calls(checkout)[:2] == ["venv --quiet", "pip sync"]


def test_a_failed_sync_leaves_no_stamp_and_shows_what_was_said(checkout: Path) -> None:
    (checkout / ".venv" / "ready").write_text("of another requirement file")
    (checkout / "requirements" / "dev.txt").write_text("broken\n")

    done = make(checkout, "dev")

    assert done.returncode == 1
    assert "no such pin" in done.stderr
    assert "requirements/dev.txt` failed with status 7." in done.stderr
    assert calls(checkout) == ["pip sync"]
    assert not (checkout / ".venv" / "ready").exists()


@pytest.mark.parametrize("name", ["quantize", "serve", "serve-gpu"])
def test_a_peers_interpreter_is_the_one_that_was_named_or_the_one_that_is_made(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    made = ROOT / ".venvs" / name / "bin" / "python"
    variable = f"HALFTONE_{name.upper().replace('-', '_')}_PYTHON"
    assert interpreter(name) == made
    monkeypatch.setenv(variable, "")
    assert interpreter(name) == made
    monkeypatch.setenv(variable, "/elsewhere/python")
    assert interpreter(name) == Path("/elsewhere/python")


@pytest.mark.parametrize(("version", "told"), [("3, 10", "is 3.10"), ("3, 13", "is 3.13")])
def test_another_python_is_told_before_anything_is_made(version: str, told: str) -> None:
    code = f"import sys; sys.version_info = ({version}, 0); import tools"
    command = [sys.executable, "-c", code]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert found.returncode == 1
    assert told in found.stderr
    assert 'requires-python = ">=3.11,<3.13"' in (ROOT / "pyproject.toml").read_text()
    assert "Python 3.11 or 3.12 is needed" in found.stderr
