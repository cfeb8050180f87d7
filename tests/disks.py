"""Small file systems of their own, for tests of a full disk.

Called by integration tests. Mounting takes root; where it cannot be done the test fails and says
so, since nothing else shows what a kernel really answers.
"""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def small_disk(directory: Path, nbytes: int) -> Iterator[Path]:
    """`directory`, made, with a file system of `nbytes`; taken away whatever lies on it."""
    directory.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={nbytes}", "tmpfs", str(directory)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.fail(f"this test mounts a tmpfs, which takes root: {done.stderr.strip()}")
    try:
        yield directory
    finally:
        subprocess.run(["umount", str(directory)], check=True)
