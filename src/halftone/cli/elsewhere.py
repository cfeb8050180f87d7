"""Stages that need an environment which this process does not have are run in that one.

vLLM and llm-compressor cannot share an environment, and neither belongs into ours. The same stage
is started there as `halftone stage NAME --workdir DIR`, with our standard error, and says on
standard output, in its last line, what it hands on.
"""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Final

import click

from halftone.spec.errors import EnvironmentFault
from halftone.spec.names import SERVE_PYTHON, Reason

# From the package up to the checkout that it is installed from (editable), if it is.
_CHECKOUT: Final = Path(__file__).resolve().parents[3]


def has_engine() -> bool:
    """Whether vLLM can be imported here."""
    return importlib.util.find_spec("vllm") is not None


def serve_python() -> Path:
    """The interpreter of the environment that has vLLM.

    Raises EnvironmentFault(MissingDependency) with the command that makes it.
    """
    named = os.environ.get(SERVE_PYTHON)
    python = Path(named) if named else _CHECKOUT / ".venvs" / "serve" / "bin" / "python"
    if not python.is_file():
        told = (
            f"`{SERVE_PYTHON}` names '{named}', which is not there" if named else "it is not there"
        )
        raise EnvironmentFault(
            Reason.MissingDependency,
            SERVE_PYTHON,
            f"Engine gates need the environment with vLLM, and {told}; make it with `make setup`, "
            f"or set {SERVE_PYTHON} to the Python of an environment with 'halftone[serve,evaluate,"
            "report]' and vLLM.",
        )
    return python


def run_stage(name: str, workdir: Path, python: Path, *options: str) -> str:
    """Run stage `name` on `workdir` with `python`; return the last line that it printed.

    Raises click's Exit with the stage's status when it fails: it has said why.
    """
    command = [str(python), "-m", "halftone", "stage", name, "--workdir", str(workdir), *options]
    sys.stdout.flush()
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)  # noqa: S603
    if done.returncode < 0:
        raise EnvironmentFault(
            Reason.EngineFailed,
            name,
            f"`halftone stage {name}` was ended by signal {-done.returncode}; see what the system "
            "says about memory, and run the same command again.",
        )
    if done.returncode:
        raise click.exceptions.Exit(done.returncode)
    lines = done.stdout.strip().splitlines()
    return lines[-1] if lines else ""
