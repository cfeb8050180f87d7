"""Calibrations that meet with an accident, and are taken up again; run in the quantize environment.

    python calibration_kills.py CASES.json ANSWERS.json

CASES is a list of `{"source", "quantization", "output", "moments": [NUMBER or null, ...]}`. For
each a process of its own calibrates until it has changed its output directory (a file opened,
renamed or removed there) or told its progress so many times, and is killed; null lets it end.
`before`, a list of `[ACTION, ARGUMENT, ...]`, is done first; `at`, `[STEP, [ACTION, ...]]`, when so
many steps are done. `meanwhile` names a file: when that is opened for the first time, another
process does the same work. ANSWERS gets for each case what each process left and, of one that
ended, what it answered and how many moments it had.
"""

import json
import os
import signal
import sys
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from calibration import calibrated  # type: ignore[import-not-found]  # beside this script

# Imported here, once for all processes; none of them has computed anything when it is copied.
import halftone.quantize.calibration.measuring  # noqa: F401

_CHANGES = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "shutil.rmtree"}


class Moments:
    """Counts what happens to a directory, and kills its process at the moment that it is told."""

    def __init__(self, directory: str, last: int | None) -> None:
        self.count = 0
        self._directory = directory
        self._last = last

    def tell(self, event: str, arguments: tuple[Any, ...]) -> None:
        """For `sys.addaudithook`."""
        if event in _CHANGES and self._directory in str(arguments[0]):
            self.happen()

    def happen(self, *_: object) -> None:
        """One more moment."""
        self.count += 1
        if self.count == self._last:
            os.kill(os.getpid(), signal.SIGKILL)


def in_a_process(work: Callable[[], Any], answer: Path) -> Any:
    """The result of `work` in a copy of this process, by way of a file; None if it was killed."""
    answer.unlink(missing_ok=True)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            answer.write_text(json.dumps(work()))
            code = 0
        finally:
            os._exit(code)
    os.waitpid(child, 0)
    return json.loads(answer.read_text()) if answer.exists() else None


def killed(case: dict[str, Any], last: int | None) -> dict[str, Any]:
    """One process of a case, and what it left."""
    output = Path(case["output"])
    step, action = case.get("at", (None, None))

    def work() -> Any:
        moments = Moments(str(output), last)
        other: list[Any] = []

        def do(done: int) -> None:
            moments.happen()
            if done == step:
                act(*action)

        sys.addaudithook(moments.tell)
        if "meanwhile" in case:
            sys.addaudithook(_meanwhile(case, other))
        return calibrated(case, do) | {"moments": moments.count, "meanwhile": other}

    ended = in_a_process(work, output.with_name(f"{output.name}.answer"))
    left = sorted(path.name for path in output.iterdir()) if output.exists() else []
    return {"left": left, "ended": ended}


def _meanwhile(case: dict[str, Any], found: list[Any]) -> Callable[[str, tuple[Any, ...]], None]:
    """An audit hook that lets another process do the work of `case`, once."""
    answer = Path(f"{case['output']}.meanwhile")

    def look(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and str(arguments[0]) == case["meanwhile"] and not found:
            found.append(None)
            found[0] = in_a_process(lambda: calibrated(case), answer)

    return look


def write(folder: str, pattern: str, text: str) -> None:
    """Give the first file that fits another content."""
    _first(folder, pattern).write_text(text)


def remove(folder: str, pattern: str) -> None:
    """Take it away."""
    _first(folder, pattern).unlink()


def touch(folder: str, pattern: str) -> None:
    """Let it seem to be written now."""
    _first(folder, pattern).touch()


def move(path: str, target: str) -> None:
    """Call a file otherwise, or put it in another's place."""
    Path(path).rename(target)


def fill(folder: str) -> None:
    """Take all the space that is left on a small disk, but for a page: files can be begun."""
    filler = Path(folder) / "filler"
    with suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    os.truncate(filler, filler.stat().st_size - 4096)


def ask(address: str) -> None:
    """Ask a server of the test for something."""
    with urllib.request.urlopen(address):
        pass


def kill() -> None:
    """End as a machine does that loses power."""
    os.kill(os.getpid(), signal.SIGKILL)


def allocate() -> None:
    """Ask torch for more memory than there is."""
    import torch

    torch.empty(2**60, dtype=torch.uint8)


def _first(folder: str, pattern: str) -> Path:
    return min(Path(folder).glob(pattern))


def act(name: str, *arguments: str) -> None:
    """Do what a case wants done."""
    actions: dict[str, Callable[..., None]] = {
        "write": write,
        "remove": remove,
        "touch": touch,
        "move": move,
        "fill": fill,
        "ask": ask,
        "kill": kill,
        "allocate": allocate,
    }
    actions[name](*arguments)


def main(cases: Path, answers: Path) -> None:
    """Answer every case of a file."""
    found = []
    for case in json.loads(cases.read_text()):
        os.environ.update(case.get("environment", {}))
        for action in case.get("before", []):
            act(*action)
        found.append([killed(case, last) for last in case["moments"]])
    answers.write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
