"""Carries steps out, one after the other, and writes down how each ended.

Called by the program. What a step prints goes to a file of `logs`; what it took and how it ended to
`results.json`, anew after each step, so that what was cut off is on record too. An endpoint is
started before the steps that need it and ended by SIGINT after them, as Ctrl-C would. It must not
end any process that it did not start.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from tools.acceptance.asking import fault, speculation_fault
from tools.acceptance.orders import Step

RESULTS: Final = "results.json"
PASSED, FAILED, NOT_RUN = "Passed", "Failed", "NotRun"
# The weights of the largest reference model through a slow disk, and a compilation.
_UP_WITHIN_S: Final = 3600
# An answer that is under way may end, then Ray's own processes.
_DOWN_WITHIN_S: Final = 120
_LOOK_S: Final = 1.0
_HERE: Final = "127.0.0.1"
_SHOWN: Final = 500  # characters of a line that a log ends with: a refusal is shorter


@dataclass(frozen=True)
class Result:
    """How one step ended; `told` is a sentence, or the last line that it said."""

    name: str
    line: str
    outcome: str
    seconds: float
    told: str


def carry_out(steps: list[Step], output: Path, say: Callable[[str], None]) -> list[Result]:
    """All results, those of steps that were not run among them."""
    done: list[Result] = []
    for result in _results(steps, output, say):
        done.append(result)
        say(f"{result.outcome:<7} {result.name} ({result.seconds:.0f} s) {result.told}".rstrip())
        (output / RESULTS).write_text(json.dumps([asdict(one) for one in done], indent=1) + "\n")
    return done


def _results(steps: list[Step], output: Path, say: Callable[[str], None]) -> Iterator[Result]:
    gone_wrong = ""
    for step in steps:
        if gone_wrong:
            yield from _not_run(step, f"`{gone_wrong}` did not pass")
            continue
        say(f"$ {step.line}")
        found = list(_serving(step, output, say) if step.during else [_run(step, output)])
        yield from found
        if step.required and found[0].outcome != PASSED:
            gone_wrong = step.name


def _not_run(step: Step, because: str) -> Iterator[Result]:
    yield Result(step.name, step.line, NOT_RUN, 0.0, because)
    for inner in step.during:
        yield from _not_run(inner, because)


def _run(step: Step, output: Path) -> Result:
    if step.made is not None and step.made.exists():
        return Result(step.name, step.line, PASSED, 0.0, f"{step.made.name} is there already")
    if step.answers is not None:
        step.answers.unlink(missing_ok=True)  # one of another attempt
    began, log = time.monotonic(), _log(step, output)
    with log.open("wb") as file:
        try:
            status = subprocess.run(
                command(step), stdout=file, stderr=subprocess.STDOUT, check=False, env=_direct()
            ).returncode
        except OSError as error:
            return Result(step.name, step.line, FAILED, 0.0, f"{error.strerror}: {step.words[0]}")
    wrong = f"exit status {status}: {_last(log)}" if status else _judged(step)
    return Result(
        step.name, step.line, FAILED if wrong else PASSED, time.monotonic() - began, wrong or ""
    )


def _judged(step: Step) -> str | None:
    """What the answer lacks; a command without one is judged by its status alone."""
    if step.answers is None or step.asks is None:
        return None
    if not step.answers.is_file():
        return "there is no answer"
    text = step.answers.read_text(encoding="utf-8", errors="replace")
    wrong = speculation_fault(text) if step.asks == "drafts" else fault(step.asks, text)
    return f"the answer {wrong}" if wrong else None


def _serving(step: Step, output: Path, say: Callable[[str], None]) -> Iterator[Result]:
    """The endpoint's own result first, once it is up or is not; then those of steps during it."""
    began, log = time.monotonic(), _log(step, output)
    if _is_taken(step.url):
        taken = f"something else answers at {step.url}; end it, or choose another `--port`"
        yield Result(step.name, step.line, FAILED, 0.0, taken)
        for inner in step.during:
            yield from _not_run(inner, f"`{step.name}` did not pass")
        return
    with log.open("wb") as file:
        process = subprocess.Popen(
            command(step),
            stdout=file,
            stderr=subprocess.STDOUT,
            process_group=0,
            env=_direct(),
        )
        try:
            wrong = _wait(process, step.url, log)
            took = time.monotonic() - began
            yield Result(step.name, step.line, FAILED if wrong else PASSED, took, wrong or "")
            for inner in step.during:
                if wrong:
                    yield from _not_run(inner, f"`{step.name}` did not pass")
                    continue
                say(f"$ {inner.line}")
                yield _run(inner, output)
        finally:
            _end(process)


def _is_taken(url: str) -> bool:
    """Whether somebody listens where the endpoint is to be: they would be asked in its place."""
    place = urlsplit(url)
    if place.hostname is None or place.port is None:
        return False
    try:
        socket.create_connection((place.hostname, place.port), timeout=5).close()
    except OSError:
        return False
    return True


def _direct() -> dict[str, str]:
    """Our environment, in which no proxy stands between a step and the endpoint on this machine."""
    settings = dict(os.environ)
    for name in ("no_proxy", "NO_PROXY"):
        known = settings.get(name)
        settings[name] = ",".join(filter(None, (_HERE, known)))
    return settings


def _wait(process: subprocess.Popen[bytes], url: str, log: Path) -> str | None:
    """Until the endpoint answers; what went wrong otherwise."""
    until = time.monotonic() + _UP_WITHIN_S
    directly = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while time.monotonic() < until:
        if process.poll() is not None:
            return f"ended with status {process.returncode}: {_last(log)}"
        try:
            with directly.open(f"{url}/health", timeout=5):
                return None
        except (urllib.error.URLError, OSError):
            time.sleep(_LOOK_S)
    return f"did not answer within {_UP_WITHIN_S} s"


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(_DOWN_WITHIN_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def command(step: Step) -> list[str]:
    """The words to start; `halftone` is the one of this environment."""
    first, *rest = step.words
    if first == "halftone":
        return [sys.executable, "-m", "halftone", *rest]
    return [shutil.which(first) or first, *rest]


def _log(step: Step, output: Path) -> Path:
    folder = output / "logs"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{step.name.replace(' ', '-')}.log"


def _last(log: Path) -> str:
    """The last line that says something: a refusal is one sentence."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    said = [line.strip() for line in lines if line.strip() and not line.startswith("{")]
    return said[-1][:_SHOWN] if said else "it said nothing"
