"""We test these aspects of how `halftone serve` ends, with a Ray of its own:

- when its Ray dies, it ends with exit code 3 and a sentence that says so, and nothing of it is
  left: no process, no directory.
"""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from halftone.serve.local.leftovers import MARK, marked
from tests.endpoints import POCKET, digest_of_files
from tests.environments import python_of
from tests.servers.ports import free_port

pytestmark = [pytest.mark.serve_env, pytest.mark.timeout(300)]


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    options = ["--cpu", "--port", str(free_port()), "--digest", digest_of_files(POCKET)]
    options += ["--cache-dir", str(tmp_path / "cache")]
    process = subprocess.Popen(
        [sys.executable, "-m", "halftone", "serve", str(POCKET), *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "HALFTONE_SERVE_PYTHON": str(python_of("serve"))},
    )
    with process:
        yield process
        process.kill()  # what it started ends with it


def test_a_ray_that_dies_ends_it(serving: subprocess.Popen[str]) -> None:
    assert serving.stderr is not None
    before = []
    for line in serving.stderr:
        before.append(line)
        if line.startswith("halftone: Ray is up"):
            break
    assert serving.poll() is None, "".join(before)
    raylet, mark = raylet_of(serving.pid)
    directory = Path(tempfile.gettempdir()) / f"ht-{mark[:6]}"
    assert directory.exists()
    os.kill(raylet, signal.SIGKILL)
    _, said = serving.communicate()
    assert serving.returncode == 3, said
    last = said.splitlines()[-1]
    assert last.startswith("halftone: Ray's process raylet (SIGKILL) ended, ")
    assert marked(mark) == {}
    assert not directory.exists()


def raylet_of(parent: int) -> tuple[int, str]:
    """The raylet that `parent` started, and the mark of all that belongs to it."""
    (found,) = (child for child in children(parent) if program(child) == "raylet")
    variables = Path(f"/proc/{found}/environ").read_text().split("\0")
    (mark,) = (each.partition("=")[2] for each in variables if each.startswith(f"{MARK}="))
    return found, mark


def children(parent: int) -> list[int]:
    """Those of all its threads; one of these may just end."""
    found: list[int] = []
    for task in Path(f"/proc/{parent}/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):
            found += map(int, (task / "children").read_text().split())
    return found


def program(process: int) -> str:
    return Path(Path(f"/proc/{process}/cmdline").read_text().partition("\0")[0]).name
