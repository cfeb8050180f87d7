"""Stages that need an environment which this process does not have are run in that one.

vLLM and llm-compressor cannot share an environment, and neither belongs into ours. The same stage
is started there as `halftone stage NAME --workdir DIR`, with our standard error, and says on
standard output, in its last line, what it hands on. When we are to end, it is told, and says so.
"""

import ctypes
import importlib.util
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import click

from halftone.cli.signals import HandedOn
from halftone.spec.errors import EnvironmentFault
from halftone.spec.names import QUANTIZE_PYTHON, SERVE_PYTHON, Reason

_PR_SET_PDEATHSIG: Final = 1
# From the package up to the checkout that it is installed from (editable), if it is.
_CHECKOUT: Final = Path(__file__).resolve().parents[3]


@dataclass(frozen=True)
class Environment:
    """An environment with one heavy package: how it is named, found and made."""

    folder: str  # below `.venvs` of a checkout
    variable: str  # names another interpreter
    package: str  # what must be importable there beside Halftone
    library: str  # what people call that package
    purpose: str  # "... need the environment with vLLM"
    extras: str
    patience_s: float = 60  # for an interpreter on a slow disk; one that hangs is none

    @property
    def is_here(self) -> bool:
        """Whether this process already runs where the package is."""
        return importlib.util.find_spec(self.package) is not None

    def python(self) -> Path:
        """The interpreter of the environment.

        Raises EnvironmentFault(MissingDependency) with the command that makes it.
        """
        named = os.environ.get(self.variable)
        python = Path(named) if named else _CHECKOUT / ".venvs" / self.folder / "bin" / "python"
        found = f"`{self.variable}` names '{named}', which" if named else "it"
        if not python.is_file():
            lacks = "is not there"
        elif not self._has_both(python):
            lacks = f"has no {self.library} beside Halftone, or cannot be run"
        else:
            return python
        raise EnvironmentFault(
            Reason.MissingDependency,
            self.variable,
            f"{self.purpose} the environment with {self.library}, and {found} {lacks}; make it "
            f"with `make setup`, or set {self.variable} to the Python of an environment with "
            f"{self.extras}.",
        )

    def _has_both(self, python: Path) -> bool:
        """Asked before a stage is left to it: without the package it would ask another."""
        probe = (
            "import importlib.util as u; raise SystemExit(not all(map(u.find_spec, "
            f"('halftone', '{self.package}'))))"
        )
        try:
            asked = subprocess.run(  # noqa: S603  # the interpreter that was named
                [str(python), "-c", probe],
                capture_output=True,
                stdin=subprocess.DEVNULL,
                check=False,
                timeout=self.patience_s,
            )
        except (OSError, subprocess.TimeoutExpired):  # no program, not ours to run, or it hangs
            return False
        return asked.returncode == 0


SERVE: Final = Environment(
    "serve",
    SERVE_PYTHON,
    "vllm",
    "vLLM",
    "Engine gates need",
    "'halftone[serve,evaluate,report]' and vLLM",
)
QUANTIZE: Final = Environment(
    "quantize",
    QUANTIZE_PYTHON,
    "llmcompressor",
    "llm-compressor",
    "Calibration needs",
    "'halftone[quantize,data-free]'",
)


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
    return run_verb(python, "stage", name, "--workdir", str(workdir), *options)


def run_verb(python: Path, *arguments: str) -> str:
    """The same for any verb of `halftone`. Raises KeyboardInterrupt if we were to end meanwhile,
    unless the verb has said it.
    """
    command = [str(python), "-m", "halftone", *arguments]
    name = " ".join(arguments[:2] if arguments[0] == "stage" else arguments[:1])
    sys.stdout.flush()
    # Not a pipe: whoever it started could hold that open when it is gone.
    with os.fdopen(os.memfd_create("output"), "w+b") as output:
        with HandedOn() as signals:
            # Without us nobody would take the report's digest over, and the next run would find it
            # at work: it ends with us.
            process = subprocess.Popen(  # noqa: S603  # the interpreter that was named
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                process_group=0,
                preexec_fn=_end_with_us(),
            )
            signals.to(process)
            process.wait()
        output.seek(0)
        lines = output.read().decode(errors="replace").strip().splitlines()
    if signals.came and process.returncode <= 0:
        raise KeyboardInterrupt
    if process.returncode < 0:
        raise EnvironmentFault(
            Reason.EngineFailed,
            name,
            f"`halftone {name}` was ended by signal {-process.returncode}; see what the system "
            "says about memory, and run the same command again.",
        )
    if process.returncode:
        raise click.exceptions.Exit(process.returncode)
    return lines[-1] if lines else ""
