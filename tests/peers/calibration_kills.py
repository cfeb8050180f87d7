"""Calibrations that are killed, and taken up again; run in the quantize environment.

    python calibration_kills.py CASES.json ANSWERS.json

CASES is a list of `{"source", "quantization", "output", "moments": [NUMBER or null, ...]}`. For
each a process of its own calibrates until it has changed its output directory (a file opened,
renamed or removed there) or told its progress so many times, and is killed; null lets it end.
`spoilt`, a list of `[FOLDER, PATTERN, TEXT or null]`, is done to the first file that fits, before.
ANSWERS gets for each case what each process left and, of one that ended, what it answered and how
many moments it had.
"""

import json
import os
import signal
import sys
from collections.abc import Callable
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


def in_a_process(work: Callable[[], Any], answer: Path) -> None:
    """Run `work` in a copy of this process; its result goes to `answer` if it lives that long."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            answer.write_text(json.dumps(work()))
            code = 0
        finally:
            os._exit(code)
    os.waitpid(child, 0)


def killed(case: dict[str, Any], last: int | None) -> dict[str, Any]:
    """One process of a case, and what it left."""
    output = Path(case["output"])
    answer = output.with_name(f"{output.name}.answer")
    answer.unlink(missing_ok=True)

    def work() -> Any:
        moments = Moments(str(output), last)
        sys.addaudithook(moments.tell)
        return calibrated(case, moments.happen) | {"moments": moments.count}

    in_a_process(work, answer)
    left = sorted(path.name for path in output.iterdir()) if output.exists() else []
    ended = json.loads(answer.read_text()) if answer.exists() else None
    return {"left": left, "ended": ended}


def spoil(folder: Path, pattern: str, text: str | None) -> None:
    """Give a file another content, or take it away."""
    path = min(folder.glob(pattern))
    if text is None:
        path.unlink()
    else:
        path.write_text(text)


def main(cases: Path, answers: Path) -> None:
    """Answer every case of a file."""
    found = []
    for case in json.loads(cases.read_text()):
        for folder, pattern, text in case.get("spoilt", []):
            spoil(Path(folder), pattern, text)
        found.append([killed(case, last) for last in case["moments"]])
    answers.write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
