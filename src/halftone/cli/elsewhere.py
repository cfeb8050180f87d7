"""Stages that need an environment which this process does not have are run in that one.

vLLM and llm-compressor cannot share an environment, and neither belongs into ours. The same stage
is started there as `halftone stage NAME --workdir DIR`, with our standard error, and says on
standard output, in its last line, what it hands on.
"""

import ctypes
import importlib.util
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

import click

from halftone.spec.errors import EnvironmentFault
from halftone.spec.names import SERVE_PYTHON, Reason

# Asked of an interpreter before a stage is left to it; a stage without vLLM would ask another.
_PROBE: Final = (
    "import importlib.util as u; raise SystemExit(not all(map(u.find_spec, ('halftone', 'vllm'))))"
)
_PR_SET_PDEATHSIG: Final = 1
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
    found = f"`{SERVE_PYTHON}` names '{named}', which" if named else "it"
    if not python.is_file():
        lacks = "is not there"
    elif not _has_both(python):
        lacks = "has no vLLM beside Halftone, or cannot be run"
    else:
        return python
    raise EnvironmentFault(
        Reason.MissingDependency,
        SERVE_PYTHON,
        f"Engine gates need the environment with vLLM, and {found} {lacks}; make it with "
        f"`make setup`, or set {SERVE_PYTHON} to the Python of an environment with "
        "'halftone[serve,evaluate,report]' and vLLM.",
    )


def _has_both(python: Path) -> bool:
    try:
        asked = subprocess.run(  # noqa: S603  # the interpreter that was named
            [str(python), "-c", _PROBE], capture_output=True, stdin=subprocess.DEVNULL, check=False
        )
    except OSError:  # no program, or not ours to run
        return False
    return asked.returncode == 0


def _end_with_us() -> Callable[[], None]:
    """What a child does first, so that the kernel kills it when this process is gone."""
    prctl = ctypes.CDLL(None).prctl  # looked up here: between fork and exec nothing is loaded

    def end_with_us() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)

    return end_with_us


def run_stage(name: str, workdir: Path, python: Path, *options: str) -> str:
    """Run stage `name` on `workdir` with `python`; return the last line that it printed.

    Raises click's Exit with the stage's status when it fails: it has said why.
    """
    command = [str(python), "-m", "halftone", "stage", name, "--workdir", str(workdir), *options]
    sys.stdout.flush()
    # Without us nobody would take the report's digest over, and the next run would find it at work.
    done = subprocess.run(  # noqa: S603  # the interpreter that was named
        command, stdout=subprocess.PIPE, text=True, check=False, preexec_fn=_end_with_us()
    )
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
