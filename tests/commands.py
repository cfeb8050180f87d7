"""The program as tests run it: the command line, in this process or in one of its own.

Called by tests of every tier. `halftone` goes through `main`, so exit codes and messages are
what a user gets; `start` is for what only a process of its own can show. `start_and_stop` is for
kills and signals at an exact point, however fast or busy the machine is.
`plan_directory` and `quantize_directory` go in below the command line, where a test needs the plan.
"""

import io
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic, sleep
from typing import Any

import yaml

from halftone.cli.main import main
from halftone.plan.layout import MAX_SHARD_BYTES
from halftone.plan.planning import Planned, plan_checkpoint
from halftone.quantize.statistics import Statistics, read_statistics
from halftone.spec.documents import CheckpointDocument, Method
from halftone.spec.job import Recipe
from halftone.spec.recipes import load_recipe
from halftone.stores import open_source
from tests.builders import Config, tiny_config, write_statistics


@dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def failure(self) -> str:
        """What was said on standard error beside warnings of the plan."""
        lines = self.err.splitlines(keepends=True)
        return "".join(line for line in lines if not line.startswith("halftone: warning: "))


@dataclass(frozen=True)
class Made:
    """A quantized checkpoint, and the plan that it was made by."""

    directory: Path
    planned: Planned
    document: CheckpointDocument


def halftone(*arguments: str | Path) -> Outcome:
    """Run a command in this process."""
    out, err = io.StringIO(), io.StringIO()
    code = 0
    with redirect_stdout(out), redirect_stderr(err):
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
    return Outcome(code, out.getvalue(), err.getvalue())


def start(*arguments: str | Path) -> subprocess.Popen[str]:
    """Start a command in a process of its own; the caller waits for it or ends it."""
    return subprocess.Popen(
        [sys.executable, "-m", "halftone", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


# Stops itself right before it asks the system for something, and when that is done goes on.
_STOPPING = """
import re, signal, sys, threading
left, event = int(sys.argv[1]), re.compile(sys.argv[2])
def tell(name, arguments):
    global left
    if name in ("open", "os.rename") and event.match(f"{name} {arguments}"):
        left -= 1
        if left == 0:
            # This thread at once; of a signal to the process another may be the first to know.
            signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)
sys.addaudithook(tell)
from halftone.cli.main import main
main(sys.argv[3:])
"""
# The engine has written the entry of a finished shard, and will now rename it into its journal.
JOURNALED = r"os\.rename .*/journal/"


def start_and_stop(times: int, event: str, *arguments: str | Path) -> subprocess.Popen[str]:
    """A command that stands still before an audit event of Python, the `times`th that fits.

    `event` is a regular expression for its name and arguments, as `open ('/path', 'rb', ...)`. The
    caller looks around, then kills the command, or sends SIGCONT and waits for it.
    """
    command = [*stopping(times, event), *map(str, arguments)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    return stopped(process, f"{times} times `{event}`")


def stopping(times: int, event: str) -> list[str]:
    """What stands in for `halftone` in a command line of `start_and_stop`."""
    return [sys.executable, "-c", _STOPPING, str(times), event]


def stopped(process: subprocess.Popen[str], expected: str) -> subprocess.Popen[str]:
    """`process`, once it stands still."""
    ended = os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
    assert ended is not None
    if ended.si_code != os.CLD_STOPPED:
        out, err = process.communicate()
        raise AssertionError(f"the command ended before {expected}:\n{out}{err}")
    return process


def go_on(process: subprocess.Popen[str]) -> tuple[str, str]:
    """Let a command that stands still go on to its end; what it said."""
    process.send_signal(signal.SIGCONT)
    return process.communicate()


def kill(process: subprocess.Popen[str]) -> None:
    """End a command where it is, as a power cut does."""
    process.kill()
    process.communicate()


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Return once `condition` holds or `process` has ended."""
    deadline = monotonic() + 240
    while not condition() and process.poll() is None:
        if monotonic() > deadline:
            process.kill()
            raise AssertionError("the command neither ended nor came to the expected point")
        sleep(0.002)


def plan_directory(source: Path | str, recipe: str | Path | Recipe, **changes: Any) -> Planned:
    """Plan as `halftone plan` does, refused or not; `changes` are made to the recipe's fields."""
    from halftone.checkpoint.index import read_checkpoint

    with closing(open_source(source)) as opened:
        chosen = _recipe(recipe).model_copy(update=changes)
        return plan_checkpoint(read_checkpoint(opened), chosen)


def quantize_directory(
    source: Path | str,
    output: Path,
    recipe: str | Path | Recipe = "nvfp4a16",
    *,
    statistics: Path | None = None,
    workers: int = 2,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> Made:
    """Plan and carry out, as `halftone quantize` does.

    A calibrated recipe takes the statistics in `statistics`, by default some made by hand.
    """
    from halftone.checkpoint.index import read_checkpoint
    from halftone.quantize.engine import quantize

    with closing(open_source(source)) as opened:
        checkpoint = read_checkpoint(opened)
        planned = plan_checkpoint(checkpoint, _recipe(recipe), max_shard_bytes)
        measured = _statistics(planned, statistics)
        document = quantize(planned, checkpoint, output, statistics=measured, workers=workers)
    return Made(output, planned, document)


def _statistics(planned: Planned, folder: Path | None) -> Statistics | None:
    if planned.plan.refusal is not None or planned.plan.method is Method.DataFree:
        return None
    if folder is not None:
        return read_statistics(folder, planned)
    with TemporaryDirectory() as made:
        return read_statistics(write_statistics(planned, Path(made)), planned)


def _recipe(recipe: str | Path | Recipe) -> Recipe:
    return recipe if isinstance(recipe, Recipe) else load_recipe(str(recipe))


def write_recipe(path: Path, **fields: Any) -> Path:
    """A recipe file; `precision` is given as {role: format}."""
    lines = fields.pop("precision", None)
    if lines is not None:
        fields["precision"] = [{"role": role, "format": fmt} for role, fmt in lines.items()]
    path.write_text(yaml.safe_dump(fields, sort_keys=False))
    return path


def wide_config(layers: int = 2) -> Config:
    """A model whose groups are larger than one tile, so that both passes are taken apart."""
    return tiny_config(
        "llama",
        hidden_size=1024,
        intermediate_size=3072,
        num_hidden_layers=layers,
        num_attention_heads=16,
        num_key_value_heads=4,
    )


def files_of(directory: Path) -> dict[str, bytes]:
    """Every file below `directory` by its path."""
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


def fill_disk(path: Path) -> None:
    """Take all the space that is left where `path` lies."""
    with path.open("wb") as file:
        size = 0
        for step in (1 << 20, 1 << 12):
            try:
                while True:
                    os.posix_fallocate(file.fileno(), size, step)
                    size += step
            except OSError:
                continue
