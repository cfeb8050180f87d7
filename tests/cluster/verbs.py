"""The verbs `submit`, `watch` and `logs` as people run them: processes with a kubeconfig.

Called by tests of the API tier.
"""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from tests.cluster.control_plane import ControlPlane
from tests.commands import Outcome, start

_SECONDS = 120


def verb(kubeconfig: Path | ControlPlane, *arguments: str | Path) -> Outcome:
    """Run a verb to its end."""
    with running(kubeconfig, *arguments) as process:
        return ended(process)


@contextmanager
def running(
    kubeconfig: Path | ControlPlane, *arguments: str | Path
) -> Iterator[subprocess.Popen[str]]:
    """A verb at work; it is killed if the block ends before it."""
    path = kubeconfig.kubeconfig if isinstance(kubeconfig, ControlPlane) else kubeconfig
    process = start(*arguments, "--kubeconfig", path)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def ended(process: subprocess.Popen[str]) -> Outcome:
    """What a verb said to its end, after what was read of it before."""
    out, err = process.communicate(timeout=_SECONDS)
    return Outcome(process.returncode, out, err)


def next_line(process: subprocess.Popen[str]) -> str:
    """The next line on its standard error; raises when it says no more."""
    assert process.stderr is not None
    line = process.stderr.readline()
    if not line:
        raise AssertionError(f"the command ended with {process.wait()} and said no more")
    return line.rstrip("\n")


def write_job(path: Path, job: dict[str, Any]) -> Path:
    """A job file."""
    path.write_text(yaml.safe_dump(job, sort_keys=False))
    return path
