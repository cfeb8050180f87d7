"""Where compiled kernels are kept: real processes, with and without a place to write."""

import os
import subprocess
import sys
from pathlib import Path

_MEASURE = """
import numpy as np
from halftone.checkpoint.decoding import amax
print(amax(np.full((2, 40), 0x4040, np.uint16)))
"""


def run(cache: Path, home: Path) -> str:
    """The output of a process that compiles or loads one kernel."""
    environ = {**os.environ, "HALFTONE_CACHE_DIR": str(cache), "HOME": str(home)}
    done = subprocess.run(
        [sys.executable, "-c", _MEASURE], env=environ, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_compiled_code_is_kept_under_the_named_directory_and_used_again(tmp_path: Path) -> None:
    assert run(tmp_path, tmp_path) == "3.0"
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.nbc")}
    assert len(kept) == 1
    assert "halftone" in next(iter(kept)).parts
    assert run(tmp_path, tmp_path) == "3.0"
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.nbc")} == kept


def test_kernels_work_where_nothing_can_be_written(tmp_path: Path) -> None:
    blocked = tmp_path / "a-file"
    blocked.touch()
    assert run(blocked, blocked) == "3.0"
    assert list(tmp_path.iterdir()) == [blocked]
