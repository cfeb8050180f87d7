"""What installs the node tier's packages.

We test these aspects:
- a machine without them and without apt is told what is missing, and fails;
- where apt fails, what it says is passed on.
"""

import os
import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT


def run_tool(path: Path) -> tuple[int, str]:
    command = [sys.executable, "-m", "tools.packages"]
    settings = {**os.environ, "PATH": str(path)}
    done = subprocess.run(
        command, cwd=ROOT, env=settings, capture_output=True, text=True, check=False
    )
    return done.returncode, done.stderr


def test_what_cannot_be_installed_is_named(tmp_path: Path) -> None:
    code, said = run_tool(tmp_path)
    assert code == 1
    assert "buildah" in said
    assert "run it as root on Debian" in said


def test_a_failing_apt_ends_it_with_what_apt_says(tmp_path: Path) -> None:
    apt = tmp_path / "apt-get"
    apt.write_text("#!/bin/sh\necho no mirror >&2\nexit 100\n")
    apt.chmod(0o755)
    code, said = run_tool(tmp_path)
    assert code == 1
    assert "buildah" in said
    asked = os.geteuid() == 0  # nobody else may install
    assert ("no mirror" in said) == asked
    assert ("update` failed" in said) == asked
